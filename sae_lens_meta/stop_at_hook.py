"""Ends a language model's forward pass at the hook that is read."""

from typing import Any

from sae_lens.load_model import HookedProxyLM
from transformer_lens.HookedRootModule import HookedRootModule


def stop_at_hook(model: HookedRootModule) -> HookedRootModule:
    """
    Lets `model.run_with_cache` compute nothing beyond the last hook that `names_filter` names.

    SAELens tells a model which layer to stop at where TransformerLens's names of hooks say it;
    a model of transformers, whose hooks have other names, would run to its logits. It stops
    at the last hook asked for, whatever number it is given.

    Returns:
        `model`, changed in place.
    """
    if not isinstance(model, HookedProxyLM):
        return model
    whole = model.run_with_cache

    def run_with_cache(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("names_filter") and kwargs.get("stop_at_layer") is None:
            kwargs["stop_at_layer"] = 0
        return whole(*args, **kwargs)

    model.run_with_cache = run_with_cache  # type: ignore[method-assign]
    return model
