"""What an SAE shows where the truth is known, beside what the true features show themselves."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sae_lens import SAE
from sae_lens.synthetic import (
    compute_classification_metrics,
    feature_uniqueness,
    mean_correlation_coefficient,
)

from sae_lens_meta.activations.stream import encode, flat_heads
from sae_lens_meta.known_truth.absorption import absorption
from sae_lens_meta.known_truth.data import KnownTruth, Samples
from sae_lens_meta.measures.cooccurrence import CooccurrenceCounter
from sae_lens_meta.measures.matching import match_latents
from sae_lens_meta.measures.meta_structure import meta_explained_variance
from sae_lens_meta.measures.phi import measurable, phi_rows, summarize_phi

META_WIDTH, META_K, META_STEPS = 0.09, 4, 300  # of the meta SAE that both are held to


@dataclass(frozen=True)
class TruthFigures:
    """
    Figures of one SAE on samples that no training saw.

    Attributes:
        l2: squared error, as a share of the activations' variance. Not the measures' own, which brings
            every activation to one norm: some samples have no feature and no norm.
        l0: latents that fire on a sample.
        dead: latents that fire on none of the samples.
        mcc: mean cosine of latents with the features that they match (arXiv:2505.20254).
        f1: of latents as detectors of the features nearest to them.
        uniqueness: share of latents whose nearest feature is nobody else's.
        phi: corrected mean |phi| of its latents.
        phi_error: mean distance of |phi| of two latents to |phi| of the features that they match.
        explained: share of its decoder's variance that a fresh meta SAE explains; None where
            it was not asked for.
        recall_with_child, absorption_gap, excess_cosine: of `Absorption`; None without hierarchy.
    """

    l2: float
    l0: float
    dead: int
    mcc: float
    f1: float
    uniqueness: float
    phi: float
    phi_error: float
    explained: float | None
    recall_with_child: float | None
    absorption_gap: float | None
    excess_cosine: float | None


@torch.no_grad()
def truth_figures(
    sae: SAE[Any], truth: KnownTruth, test: Samples, with_premise: bool
) -> TruthFigures:
    """
    Figures of `sae` on `test`.

    Args:
        with_premise: whether to fit a meta SAE to its decoder, which takes seconds.
    """
    codes, recons = _codes_and_recons(sae, test.activations)
    counter = CooccurrenceCounter(sae.cfg.d_sae)
    counter.update(codes)
    W_dec, directions = sae.W_dec.detach().float(), truth.directions
    detected = compute_classification_metrics(codes, test.features, W_dec, directions)
    lost = absorption(W_dec, codes, directions, test.features, truth.pairs)
    return TruthFigures(
        l2=_unexplained(recons, test.activations),
        l0=int((codes != 0).sum()) / len(codes),
        dead=int((codes == 0).all(dim=0).sum()),
        mcc=mean_correlation_coefficient(W_dec, directions),
        f1=detected.f1_score,
        uniqueness=feature_uniqueness(W_dec, directions),
        phi=summarize_phi(counter).corrected,
        phi_error=_phi_error(W_dec, counter, directions, counted(test.features)),
        explained=explained(W_dec) if with_premise else None,
        recall_with_child=lost and lost.recall_with_child,
        absorption_gap=lost and lost.gap,
        excess_cosine=lost and lost.excess_cosine,
    )


@dataclass(frozen=True)
class Premise:
    """
    What the penalty takes for a fault, of the true features themselves.

    Attributes:
        l0: features that fire on a sample.
        phi: their corrected mean |phi|.
        explained: share of their variance that a fresh meta SAE explains.
        n_features: looked at: as many as the SAE has latents, the most frequent ones.
    """

    l0: float
    phi: float
    explained: float
    n_features: int


def premise(truth: KnownTruth, test: Samples, d_sae: int) -> Premise:
    """
    How explainable and how co-occurring the true features are, in the SAE's own measures.

    A penalty on either points at the truth only where the truth shows less of it than an SAE.
    """
    fires = test.features > 0
    n = min(d_sae, len(truth.directions))
    chosen = fires.sum(0).argsort(descending=True, stable=True)[:n].sort().values
    return Premise(
        l0=float(fires.sum(1).float().mean()),
        phi=summarize_phi(counted(test.features[:, chosen])).corrected,
        explained=explained(truth.directions[chosen]),
        n_features=n,
    )


def counted(codes: torch.Tensor) -> CooccurrenceCounter:
    """Counts of which columns of `[n, d]` are above 0 together."""
    counter = CooccurrenceCounter(codes.shape[1])
    counter.update(codes)
    return counter


def explained(W_dec: torch.Tensor) -> float:
    """Share of the variance of unit rows that a meta SAE of 9 % of their number explains."""
    width = max(META_K, round(META_WIDTH * len(W_dec)))
    return meta_explained_variance(W_dec, width, META_K, n_steps=META_STEPS)


def _codes_and_recons(
    sae: SAE[Any], x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    # one after the other: each sample's own mean and norm, where they are taken off, are kept between
    codes = encode(sae, x)
    with flat_heads(sae):
        return codes, sae.decode(codes)


def _unexplained(recons: torch.Tensor, x: torch.Tensor) -> float:
    error, around = (recons - x).double(), (x - x.mean(0)).double()
    return float(error.pow(2).sum() / around.pow(2).sum())


def _phi_error(
    W_dec: torch.Tensor,
    latents: CooccurrenceCounter,
    directions: torch.Tensor,
    features: CooccurrenceCounter,
) -> float:
    """Mean | |phi| of two latents - |phi| of their features |, where both are defined."""
    partner = match_latents(W_dec, directions).partner
    has_phi = (partner >= 0) & measurable(latents)
    has_phi[has_phi] = measurable(features)[partner[has_phi]]
    mine = has_phi.nonzero()[0]
    theirs = partner[mine]
    phi = np.abs(phi_rows(latents, 0, latents.d_a)[np.ix_(mine, mine)])
    true = np.abs(phi_rows(features, 0, features.d_a)[np.ix_(theirs, theirs)])
    above = np.triu_indices(len(mine), 1)
    return float(np.abs(phi - true)[above].mean())
