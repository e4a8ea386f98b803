"""All measures of one SAE, from one pass over held-out text."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE, __version__

from sae_lens_meta.activations.measured_on import MeasuredOn
from sae_lens_meta.activations.source import ActivationSource
from sae_lens_meta.activations.stream import ActivationBatch
from sae_lens_meta.measures.cooccurrence import CooccurrenceCounter
from sae_lens_meta.measures.geometry import Geometry, decoder_geometry
from sae_lens_meta.measures.meta_structure import meta_explained_variance
from sae_lens_meta.measures.model_cost import (
    ModelCost,
    check_has_losses,
    model_cost,
)
from sae_lens_meta.measures.phi import PhiSummary, summarize_phi
from sae_lens_meta.measures.reconstruction import (
    Reconstruction,
    ReconstructionMeter,
)
from sae_lens_meta.measures.shifted_pairs import ShiftedPairs
from sae_lens_meta.saved import Reading

# widths, in shares of d_sae; SAEBench's figure is another one (docs/evaluation.md)
META_WIDTH_RATIOS = (0.09, 0.25)
META_K = 4
META_SEEDS = (0, 1, 2)
META_STEPS = 1500


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

    def save(self, path: Path, measured_on: MeasuredOn, weights_sha256: str) -> None:
        """Writes the figures, what they were taken on and of which weights, as JSON."""
        plain = asdict(self) | {
            "weights_sha256": weights_sha256,
            "source": asdict(measured_on),
        }
        path.write_text(json.dumps(plain, indent=2, allow_nan=False) + "\n")


def evaluate(
    name: str,
    sae: SAE[Any],
    source: ActivationSource,
    n_tokens: int,
    n_ce_tokens: int = 4096,
    shift_null: bool = False,
) -> Evaluation:
    """
    Measures `sae` on `n_tokens` tokens of `source`, and its decoder.

    Args:
        name: what it is called in the result.
        sae: any SAE.
        source: of activations.
        n_tokens: to read, as far as the text goes.
        n_ce_tokens: of them, to run the whole language model on.
        shift_null: whether to count pairs between contexts as well (`ShiftedPairs`), for
            what mean |phi| is by bursts and positions alone; takes `4 d_sae^2` bytes more.

    Raises:
        ValueError: if the text gives no tokens, or for `shift_null` not two contexts, or
            fewer than two latents fire on them.
    """
    if shift_null:
        _check_can_be_shifted(source.reading, n_tokens)
    counter = CooccurrenceCounter(sae.cfg.d_sae)
    shifted = ShiftedPairs(sae.cfg.d_sae) if shift_null else None

    def count(_: str, acts: torch.Tensor, batch: ActivationBatch) -> None:
        counter.update(acts)
        if shifted:
            shifted.update(acts.unflatten(0, batch.tokens.shape))

    ((meter, cost),) = read_once(
        {name: sae}, source, n_tokens, n_ce_tokens, count
    ).values()
    W_dec: Any = sae.W_dec
    decoder = summarize_decoder(name, W_dec, decoder_geometry(W_dec))
    pairs = shifted.result() if shifted else None
    return evaluation_of(name, meter, counter, cost, decoder, pairs)


def read_once(
    saes: Mapping[str, SAE[Any]],
    source: ActivationSource,
    n_tokens: int,
    n_ce_tokens: int,
    also: Callable[[str, torch.Tensor, ActivationBatch], None],
) -> dict[str, tuple[ReconstructionMeter, ModelCost]]:
    """
    What each SAE keeps of `source`, which is read once for all of them, and what that costs.

    Args:
        saes: by name, which read the same activations.
        source: of activations.
        n_tokens: to read, as far as the text goes.
        n_ce_tokens: of them, to run the whole language model on, once for each SAE; as those to
            read, of whole contexts.
        also: called with the name of an SAE, its codes `[n, d_sae]` and their batch.
    """
    check_has_losses(source.reading)
    meters = {name: ReconstructionMeter(sae) for name, sae in saes.items()}
    for batch in source.stream(n_tokens):
        for name, meter in meters.items():
            also(name, meter.update(batch.rows), batch)
    # SAELens would begin the text again where it ends
    n_run = min(n_ce_tokens, source.n_read(n_tokens))
    return {
        name: (meter, model_cost(saes[name], source, n_run))
        for name, meter in meters.items()
    }


def _check_can_be_shifted(reading: Reading, n_tokens: int) -> None:
    context_size = reading.context_size or 0
    if n_tokens < 2 * context_size:
        raise ValueError(
            f"The shift null takes two contexts, and {n_tokens} tokens are fewer than twice "
            f"{context_size}. Ask for more tokens."
        )
    if reading.exclude_special_tokens:
        raise ValueError(
            "The shift null holds contexts against each other position by position, which an "
            "SAE that leaves special tokens out does not read. Leave out --shift_null."
        )


def evaluation_of(
    name: str,
    meter: ReconstructionMeter,
    counter: CooccurrenceCounter,
    cost: ModelCost,
    decoder: DecoderSummary,
    shifted: CooccurrenceCounter | None = None,
) -> Evaluation:
    """The figures of an SAE after a stream went through `meter`, `counter` and `shifted`."""
    return Evaluation(
        name=name,
        d_sae=counter.d_a,
        sae_lens_version=__version__,
        reconstruction=meter.result(),
        model_cost=cost,
        phi=summarize_phi(counter, shifted=shifted),
        decoder=decoder,
    )


def summarize_decoder(
    name: str, W_dec: torch.Tensor, geometry: Geometry, meta_steps: int = META_STEPS
) -> DecoderSummary:
    """
    Geometry of the decoder rows, and how well they are meta-reconstructed.

    Args:
        name: of the SAE, for the bars.
        W_dec: `[d_sae, d_in]`.
        geometry: of `W_dec`.
        meta_steps: Adam steps of each of the six meta SAEs that are fitted to it.
    """
    explained: dict[str, list[float]] = {}
    fits = list(product(META_WIDTH_RATIOS, META_SEEDS))
    for number, (ratio, seed) in enumerate(fits, 1):
        width = max(META_K, round(ratio * len(W_dec)))
        said = f"{name}: meta SAE {number} of {len(fits)}"
        found = meta_explained_variance(
            W_dec, width, META_K, meta_steps, seed=seed, what=said
        )
        explained.setdefault(f"{ratio:.2f}", []).append(found)
    return DecoderSummary(
        mean_abs_cosine=geometry.mean_abs_cosine,
        mean_nearest_cosine=float(geometry.nearest_cosine.mean()),
        effective_rank=geometry.effective_rank,
        meta_explained_variance=explained,
    )
