"""The streaming pass over tokens and activations that the measures share."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE, ActivationsStore
from tqdm.auto import tqdm

from sae_lens_meta.underway import advance


@dataclass
class ActivationBatch:
    """
    Some contexts of a text.

    Attributes:
        tokens: `[prompts, positions]`.
        activations: of a hook, `[prompts, positions, d_in]`.
        kept: `[prompts, positions]`, which of them the SAE reads; None where all.
        n_read: tokens of whole contexts, of which the positions may be some.
    """

    tokens: torch.Tensor
    activations: torch.Tensor
    kept: torch.Tensor | None = None
    n_read: int = 0

    @property
    def rows(self) -> torch.Tensor:
        """The activations that the SAE reads, `[n, d_in]`."""
        if self.kept is None:
            return self.activations.flatten(0, 1)
        return self.activations[self.kept.to(self.activations.device)]

    def codes(self, sae: SAE[Any]) -> torch.Tensor:
        """Codes `[prompts, positions, d_sae]`, 0 where the SAE does not read."""
        acts = encode(sae, self.activations)
        return (
            acts if self.kept is None else acts * self.kept.to(acts.device)[..., None]
        )


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
    positions = slice(*store.seqpos_slice)
    for tokens in stream_tokens(store, n_tokens):
        if seen >= n_skipped:
            read = tokens[:, positions]
            yield ActivationBatch(
                read,
                store.get_activations(tokens),
                kept(store, read),
                tokens.numel(),
            )
        seen += tokens.numel()


def stream_tokens(store: ActivationsStore, n_tokens: int) -> Iterator[torch.Tensor]:
    """
    The tokens of `stream_activations`, `[prompts, context_size]`; the model is not run.

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
            yield tokens
            seen += tokens.numel()
            bar.update(tokens.numel())
            advance(seen, n_tokens, "tokens read")
    if seen == 0:
        raise ValueError(
            f"No activations for {n_tokens} tokens: a batch is {store.store_batch_size_prompts} "
            f"contexts of {store.context_size}. Ask for more --tokens, or give more text or "
            "--held_out_documents."
        )


def kept(store: ActivationsStore, tokens: torch.Tensor) -> torch.Tensor | None:
    """Which of `tokens` are none of the special ones that the store leaves out; None if all."""
    if store.exclude_special_tokens is None:
        return None
    return ~torch.isin(tokens, store.exclude_special_tokens.to(tokens.device))
