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


def stream_activations(
    store: ActivationsStore, n_tokens: int
) -> Iterator[ActivationBatch]:
    """
    One pass over at most `n_tokens` tokens of `store`, in the order of its text.

    A batch is cut where the rest would exceed `n_tokens`; the pass ends early, never
    reading a token twice, where the text does.

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
            yield ActivationBatch(tokens, store.get_activations(tokens))
            seen += tokens.numel()
            bar.update(tokens.numel())
    if seen == 0:
        raise ValueError(
            f"No activations for {n_tokens} tokens: a batch is {store.store_batch_size_prompts} "
            f"contexts of {store.context_size}. Ask for more tokens or give more text."
        )
