"""The streaming pass over tokens and activations that the measures share."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE, ActivationsStore
from tqdm.auto import tqdm


@dataclass
class ActivationBatch:
    """Tokens `[prompts, context]` and activations `[prompts, context, d_in]` of a hook."""

    tokens: torch.Tensor
    activations: torch.Tensor


@contextmanager
def flat_heads(sae: SAE[Any]) -> Iterator[None]:
    """Lets an SAE on `hook_z` take activations whose heads the store has already joined."""
    reshapes = sae.hook_z_reshaping_mode
    sae.turn_off_forward_pass_hook_z_reshaping()
    try:
        yield
    finally:
        if reshapes:
            sae.turn_on_forward_pass_hook_z_reshaping()


@torch.no_grad()
def encode(sae: SAE[Any], activations: torch.Tensor) -> torch.Tensor:
    """Codes `[..., d_sae]` of activations `[..., d_in]` as `stream_activations` gives them."""
    with flat_heads(sae):
        return sae.encode(activations.to(sae.device, torch.float32))


def stream_activations(
    store: ActivationsStore, n_tokens: int, n_skipped: int = 0
) -> Iterator[ActivationBatch]:
    """
    One pass over at most `n_tokens` tokens of `store`, in the order of its text.

    A batch is cut where the rest would exceed `n_tokens`; the pass ends early, never
    reading a token twice, where the text does. The first `n_skipped` tokens, those of whole
    batches that an earlier pass has read, are passed over without running the model.

    Raises:
        ValueError: if not even one batch can be read.
    """
    seen = 0
    with tqdm(
        total=n_tokens, desc="Reading activations", unit="tok", leave=False
    ) as bar:
        while seen + store.context_size <= n_tokens:
            try:
                tokens = store.get_batch_tokens(raise_at_epoch_end=True)
            except StopIteration:
                break
            tokens = tokens[: (n_tokens - seen) // store.context_size]
            if seen >= n_skipped:
                yield ActivationBatch(tokens, store.get_activations(tokens))
            seen += tokens.numel()
            bar.update(tokens.numel())
    if seen == 0:
        raise ValueError(
            f"No activations for {n_tokens} tokens: a batch is {store.store_batch_size_prompts} "
            f"contexts of {store.context_size}. Ask for more tokens or give more text."
        )
