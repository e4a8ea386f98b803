"""What it costs the language model to run on an SAE's reconstructions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sae_lens import SAE, ActivationsStore
from sae_lens.evals import get_recons_loss
from sae_lens.training.activation_scaler import ActivationScaler
from tqdm.auto import trange

from sae_lens_meta.activations.source import ActivationSource
from sae_lens_meta.activations.stream import flat_heads, kept
from sae_lens_meta.saved import Reading

# as SAELens names them
_METRICS = (
    "ce_loss_without_sae",
    "ce_loss_with_sae",
    "ce_loss_with_ablation",
    "kl_div_with_sae",
)


@dataclass
class ModelCost:
    """
    What it costs the language model to run on reconstructions; SAELens's figures.

    Attributes:
        ce_loss: of the model itself, nats a token.
        ce_loss_with_sae: with the hook's activations replaced by their reconstruction.
        ce_overhead_percent: the difference, in percent of `ce_loss`.
        ce_loss_recovered: 1 where the reconstruction costs nothing, 0 where as much as
            zeroed activations.
        kl_divergence: of the next-token distributions, nats.
        n_tokens: tokens measured, of the same set as the reconstruction's.
        losses_by_batch: `ce_loss` and `ce_loss_with_sae` of every batch.
    """

    ce_loss: float
    ce_loss_with_sae: float
    ce_overhead_percent: float
    ce_loss_recovered: float
    kl_divergence: float
    n_tokens: int
    losses_by_batch: list[list[float]]


def check_has_losses(reading: Reading) -> None:
    """
    Checks that the language model has a loss where the SAE reads.

    Raises:
        ValueError: if it reads the last position of a context alone, after which there is none.
    """
    context_size = reading.context_size or 0
    positions = range(context_size)[slice(*(reading.seqpos_slice or (None,)))]
    if list(positions) == [context_size - 1]:
        raise ValueError(
            f"The SAE reads position {context_size - 1} alone of a context of {context_size} tokens "
            f"(seqpos_slice {reading.seqpos_slice}), after which no token comes: what it costs the "
            "language model cannot be measured."
        )


class _Replacement:
    """
    An SAE as SAELens's evaluation calls it, acting at the positions alone that it reads.

    Without an SAE it is the reconstruction by 0.
    """

    def __init__(self, cfg: Any, sae: SAE[Any] | None, positions: slice, device: Any):
        self.cfg, self.device = cfg, device
        self._sae, self._positions = sae, positions

    def encode(self, activations: torch.Tensor) -> torch.Tensor:
        return activations

    def decode(self, activations: torch.Tensor) -> torch.Tensor:
        replaced = activations.clone()
        if self._sae is None:
            replaced[:, self._positions] = 0
            return replaced
        with flat_heads(self._sae):
            # the language model may have a device of its own
            x = activations[:, self._positions].to(self.device, torch.float32)
            decoded = self._sae.decode(self._sae.encode(x))
            replaced[:, self._positions] = decoded.to(replaced)
        return replaced


class _Runs:
    """Losses of a batch, token by token: of the model, with the SAE, and with 0 where it reads."""

    def __init__(
        self, sae: SAE[Any], source: ActivationSource, store: ActivationsStore
    ):
        positions = slice(*store.seqpos_slice)
        excluded = store.exclude_special_tokens
        self._source = source
        self._ignored = None if excluded is None else excluded.tolist()
        self._replacement = _Replacement(sae.cfg, sae, positions, sae.device)
        self._ablation = _Replacement(sae.cfg, None, positions, sae.device)
        # SAELens's own ablation is of every token
        self._reads_all = excluded is None and positions == slice(None)

    def losses(self, tokens: torch.Tensor) -> list[torch.Tensor]:
        """In the order of `_METRICS`, each `[prompts, context_size]` or one position shorter."""
        metrics = self._run(self._replacement, tokens)
        if not self._reads_all:
            ablated = self._run(self._ablation, tokens)["ce_loss_with_sae"]
            metrics["ce_loss_with_ablation"] = ablated
        return [metrics[name] for name in _METRICS]

    def _run(self, replacement: Any, tokens: torch.Tensor) -> dict[str, Any]:
        reading = self._source.reading
        with torch.autocast(
            tokens.device.type, torch.bfloat16, enabled=bool(reading.autocast_lm)
        ):
            return get_recons_loss(
                replacement,
                self._source.model,
                ActivationScaler(),
                tokens,
                compute_kl=True,
                compute_ce_loss=True,
                ignore_tokens=self._ignored,
                hook_name=reading.hook,
            )


@torch.no_grad()
def model_cost(sae: SAE[Any], source: ActivationSource, n_tokens: int) -> ModelCost:
    """
    Runs the language model with and without the SAE, as SAELens does it.

    Losses are of the tokens that the SAE reads, and only there anything is replaced, be it by the
    SAE or by 0: SAELens's own summary leaves special tokens out of them, whatever the SAE was trained
    on, and its ablation is of every token. It is run batch by batch, so that a bootstrap can draw
    batches.

    Args:
        sae: any SAE.
        source: of tokens.
        n_tokens: of whole contexts, from the start of the text.

    Raises:
        ValueError: if the SAE reads none of them.
    """
    store, by_batch, n_read = source.store(n_tokens), [], []
    positions, runs = slice(*store.seqpos_slice), _Runs(sae, source, store)
    n_contexts = max(1, n_tokens // store.context_size)
    per_batch = min(store.store_batch_size_prompts, n_contexts)
    for _ in trange(n_contexts // per_batch, desc="Running the model", leave=False):
        tokens = store.get_batch_tokens(per_batch)
        counts = torch.zeros_like(tokens, dtype=torch.bool)
        read = kept(store, tokens[:, positions])
        counts[:, positions] = True if read is None else read
        if counts[:, :-1].any():
            n_read.append(int(counts.sum()))
            losses = runs.losses(tokens)
            by_batch.append([_mean(per_token, counts) for per_token in losses])
    if not by_batch:
        raise ValueError(
            f"The SAE reads none of the first {n_contexts * store.context_size:,} tokens that the language "
            "model has a loss of. Give more --ce_tokens."
        )
    # a batch has as many tokens as special ones leave it
    means = np.average(by_batch, axis=0, weights=n_read)
    without, with_sae, ablated, kl = means.tolist()
    return ModelCost(
        ce_loss=without,
        ce_loss_with_sae=with_sae,
        ce_overhead_percent=100 * (with_sae - without) / without,
        ce_loss_recovered=(ablated - with_sae) / (ablated - without),
        kl_divergence=kl,
        n_tokens=sum(n_read),
        losses_by_batch=[losses[:2] for losses in by_batch],
    )


def _mean(per_token: torch.Tensor, counts: torch.Tensor) -> float:
    """Over the tokens that count; of a loss there is none at the last position."""
    counts = counts[:, : per_token.shape[1]].to(per_token.device)
    return per_token[counts].double().mean().item()
