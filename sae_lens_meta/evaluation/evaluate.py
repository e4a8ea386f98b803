"""All measures of one SAE, from one pass over held-out text."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from rich.table import Table
from sae_lens import SAE, __version__
from sae_lens.evals import get_recons_loss
from sae_lens.training.activation_scaler import ActivationScaler
from tqdm.auto import trange

from sae_lens_meta.evaluation.activations import flat_heads, kept
from sae_lens_meta.evaluation.cooccurrence import CooccurrenceCounter
from sae_lens_meta.evaluation.geometry import Geometry, decoder_geometry
from sae_lens_meta.evaluation.measured_on import MeasuredOn
from sae_lens_meta.evaluation.meta_structure import meta_explained_variance
from sae_lens_meta.evaluation.phi import PhiSummary, summarize_phi
from sae_lens_meta.evaluation.reconstruction import (
    Reconstruction,
    ReconstructionMeter,
)
from sae_lens_meta.evaluation.source import ActivationSource

# ratios to d_sae of the widths; a measure of our own: docs/evaluation.md says how SAEBench's differs
META_WIDTH_RATIOS = (0.09, 0.25)
META_K = 4
META_SEEDS = (0, 1, 2)
META_STEPS = 1500
# as SAELens names them
_METRICS = (
    "ce_loss_without_sae",
    "ce_loss_with_sae",
    "ce_loss_with_ablation",
    "kl_div_with_sae",
)
T = TypeVar("T")


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


@dataclass
class DecoderSummary:
    """
    Attributes:
        mean_abs_cosine: over all pairs of decoder rows.
        mean_nearest_cosine: of each row to its nearest other row, averaged.
        effective_rank: see `geometry.Geometry`.
        meta_explained_variance: share of the rows' variance that a fresh meta SAE of k 4
            explains, by its width as a share of `d_sae`, over three seeds; lower is more atomic.
    """

    mean_abs_cosine: float
    mean_nearest_cosine: float
    effective_rank: float
    meta_explained_variance: dict[str, list[float]]


@dataclass
class Evaluation:
    """Figures of one SAE, and what they were taken with."""

    name: str
    d_sae: int
    sae_lens_version: str
    reconstruction: Reconstruction
    model_cost: ModelCost
    phi: PhiSummary
    decoder: DecoderSummary

    def save(self, path: Path, measured_on: MeasuredOn) -> None:
        """Writes the figures, and what they were taken on, as JSON."""
        plain = asdict(self) | {"source": asdict(measured_on)}
        path.write_text(json.dumps(plain, indent=2, allow_nan=False) + "\n")


def evaluate(
    name: str,
    sae: SAE[Any],
    source: ActivationSource,
    n_tokens: int,
    n_ce_tokens: int = 4096,
) -> Evaluation:
    """
    Measures `sae` on `n_tokens` tokens of `source`, and its decoder.

    Raises:
        ValueError: if the text gives no tokens, or fewer than two latents fire on them.
    """
    meter, counter = ReconstructionMeter(sae), CooccurrenceCounter(sae.cfg.d_sae)
    for batch in source.stream(n_tokens):
        counter.update(meter.update(batch.rows))
    # SAELens would begin the text again where it ends
    cost = model_cost(sae, source, min(n_ce_tokens, counter.n_tokens))
    W_dec: Any = sae.W_dec
    decoder = summarize_decoder(W_dec, decoder_geometry(W_dec))
    return evaluation_of(name, meter, counter, cost, decoder)


def evaluation_of(
    name: str,
    meter: ReconstructionMeter,
    counter: CooccurrenceCounter,
    cost: ModelCost,
    decoder: DecoderSummary,
) -> Evaluation:
    """The figures of an SAE after a stream went through `meter` and `counter`."""
    return Evaluation(
        name=name,
        d_sae=counter.d_a,
        sae_lens_version=__version__,
        reconstruction=meter.result(),
        model_cost=cost,
        phi=summarize_phi(counter),
        decoder=decoder,
    )


class _Replacement:
    """An SAE as SAELens's evaluation calls it, acting at the positions alone that it reads."""

    def __init__(self, sae: SAE[Any], positions: slice):
        self.cfg, self.device = sae.cfg, sae.device
        self._sae, self._positions = sae, positions

    def encode(self, activations: torch.Tensor) -> torch.Tensor:
        return activations

    def decode(self, activations: torch.Tensor) -> torch.Tensor:
        replaced = activations.clone()
        with flat_heads(self._sae):
            x = activations[:, self._positions].float()
            replaced[:, self._positions] = self._sae.decode(self._sae.encode(x)).to(
                replaced.dtype
            )
        return replaced


@torch.no_grad()
def model_cost(sae: SAE[Any], source: ActivationSource, n_tokens: int) -> ModelCost:
    """
    Runs the language model with and without the SAE, as SAELens does it.

    Losses are of the tokens that the SAE reads, and only there it replaces anything: SAELens's
    own summary leaves special tokens out of them, whatever the SAE was trained on. It is run
    batch by batch, so that a bootstrap can draw batches.
    """
    store, by_batch, n_read = source.store(n_tokens), [], 0
    positions = slice(*store.seqpos_slice)
    replacement: Any = _Replacement(sae, positions)
    excluded = store.exclude_special_tokens
    per_batch = store.context_size * store.store_batch_size_prompts
    for _ in trange(
        max(1, n_tokens // per_batch), desc="Running the model", leave=False
    ):
        tokens = store.get_batch_tokens()
        metrics = get_recons_loss(
            replacement,
            source.model,
            ActivationScaler(),
            tokens,
            compute_kl=True,
            compute_ce_loss=True,
            ignore_tokens=None if excluded is None else excluded.tolist(),
            hook_name=source.reading.hook,
        )
        counts = torch.zeros_like(tokens, dtype=torch.bool)
        read = kept(store, tokens[:, positions])
        counts[:, positions] = True if read is None else read
        n_read += int(counts.sum())
        by_batch.append([_mean(metrics[name], counts) for name in _METRICS])
    without, with_sae, ablated, kl = np.mean(by_batch, axis=0).tolist()
    return ModelCost(
        ce_loss=without,
        ce_loss_with_sae=with_sae,
        ce_overhead_percent=100 * (with_sae - without) / without,
        ce_loss_recovered=(ablated - with_sae) / (ablated - without),
        kl_divergence=kl,
        n_tokens=n_read,
        losses_by_batch=[losses[:2] for losses in by_batch],
    )


def _mean(per_token: torch.Tensor, counts: torch.Tensor) -> float:
    """Over the tokens that count; of a loss there is none at the last position."""
    counts = counts[:, : per_token.shape[1]].to(per_token.device)
    return per_token[counts].double().mean().item()


def summarize_decoder(
    W_dec: torch.Tensor, geometry: Geometry, meta_steps: int = META_STEPS
) -> DecoderSummary:
    """
    Geometry of the decoder rows, and how well they are meta-reconstructed.

    Args:
        W_dec: `[d_sae, d_in]`.
        geometry: of `W_dec`.
        meta_steps: Adam steps of each of the six meta SAEs that are fitted to it.
    """
    explained = {}
    for ratio in META_WIDTH_RATIOS:
        width = max(META_K, round(ratio * len(W_dec)))
        explained[f"{ratio:.2f}"] = [
            meta_explained_variance(W_dec, width, META_K, meta_steps, seed=seed)
            for seed in META_SEEDS
        ]
    return DecoderSummary(
        mean_abs_cosine=geometry.mean_abs_cosine,
        mean_nearest_cosine=float(geometry.nearest_cosine.mean()),
        effective_rank=geometry.effective_rank,
        meta_explained_variance=explained,
    )


@dataclass(frozen=True)
class Figure(Generic[T]):
    """One figure of a `T`, and the format in which it is shown."""

    of: Callable[[T], float]
    format: str

    def show(self, result: T) -> str:
        """The figure as text."""
        return format(self.of(result), self.format)


def evaluation_table(evaluations: list[Evaluation], measured_on: MeasuredOn) -> Table:
    """The figures side by side, one column for each SAE."""
    n_tokens = evaluations[0].reconstruction.n_tokens
    table = Table("", title=f"{n_tokens:,} {measured_on.said}")
    for evaluation in evaluations:
        table.add_column(evaluation.name, justify="right")
    for label, figure in FIGURES.items():
        table.add_row(label, *(figure.show(evaluation) for evaluation in evaluations))
    return table


def _explained(ratio: float) -> Callable[[Evaluation], float]:
    return lambda e: float(np.mean(e.decoder.meta_explained_variance[f"{ratio:.2f}"]))


FIGURES: dict[str, Figure[Evaluation]] = {
    "normalised L2": Figure(lambda e: e.reconstruction.normalized_l2, ".4f"),
    "explained variance": Figure(lambda e: e.reconstruction.explained_variance, ".4f"),
    "L0": Figure(lambda e: e.reconstruction.l0, ".1f"),
    "latents that never fire": Figure(lambda e: e.reconstruction.n_silent, ".0f"),
    "CE overhead, percent": Figure(lambda e: e.model_cost.ce_overhead_percent, ".2f"),
    "CE loss recovered": Figure(lambda e: e.model_cost.ce_loss_recovered, ".4f"),
    "KL divergence, nats": Figure(lambda e: e.model_cost.kl_divergence, ".4f"),
    "mean |phi|": Figure(lambda e: e.phi.mean_abs, ".3e"),
    "  of it by chance": Figure(lambda e: e.phi.expected_by_chance, ".3e"),
    "  corrected": Figure(lambda e: e.phi.corrected, ".3e"),
    "mean |cosine| of decoder rows": Figure(lambda e: e.decoder.mean_abs_cosine, ".4f"),
    "mean nearest cosine": Figure(lambda e: e.decoder.mean_nearest_cosine, ".4f"),
    "effective rank of the decoder": Figure(lambda e: e.decoder.effective_rank, ".1f"),
    "meta SAE of width 0.09 explains": Figure(_explained(0.09), ".4f"),
    "meta SAE of width 0.25 explains": Figure(_explained(0.25), ".4f"),
}
