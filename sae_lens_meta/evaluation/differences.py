"""How much one variant of SAEs differs from another, and how sure that is."""

import numpy as np

from sae_lens_meta.evaluation.comparison import (
    COUNTS,
    HEADLINE,
    PHI,
    ComparedSAE,
    Difference,
)
from sae_lens_meta.evaluation.evaluate import Evaluation
from sae_lens_meta.evaluation.intervals import (
    MIN_BLOCKS,
    N_RESAMPLES,
    HalfSampled,
    block_interval,
    half_samples,
    percent_over_seeds,
)
from sae_lens_meta.evaluation.passes import Tally

Resampled = dict[str, HalfSampled]
"""Headline figures of half samples of the stream, by label."""


def resample(tally: Tally, evaluation: Evaluation, compared: np.ndarray) -> Resampled:
    """
    The figures that come from a stream, for half samples of its blocks.

    Args:
        tally: of one SAE.
        evaluation: of the same, for the batches that the language model was run on.
        compared: mask `[d_sae]` of the latents whose pairs count.

    Returns:
        Only figures whose stream has at least 8 blocks, and that every half sample has.
    """
    resampled: Resampled = {}
    n_tokens = tally.meter.sums["n_tokens"]
    used = np.flatnonzero(n_tokens)  # a short stream leaves some blocks empty
    if len(used) >= MIN_BLOCKS:
        weights = np.zeros((N_RESAMPLES, len(n_tokens)))
        weights[:, used] = half_samples(len(used))
        figures = tally.meter.figures(weights)
        phi = tally.blocks.resampled(weights, compared)
        of_stream = {
            "normalised L2": figures["normalized_l2"],
            "explained variance": figures["explained_variance"],
            "L0": figures["l0"],
            "mean |phi|": phi,
            PHI: phi,  # what chance gives hardly varies
        }
        resampled = {k: HalfSampled(v, len(used)) for k, v in of_stream.items()}
    losses = np.array(evaluation.model_cost.losses_by_batch)
    if len(losses) >= MIN_BLOCKS:
        without, with_sae = (half_samples(len(losses)) @ losses).T
        overhead = 100 * (with_sae - without) / without
        resampled["CE overhead, percent"] = HalfSampled(overhead, len(losses))
    return {k: one for k, one in resampled.items() if np.isfinite(one.values).all()}


def differences(
    variants: dict[str, list[ComparedSAE]], resampled: dict[str, Resampled]
) -> list[Difference]:
    """Every variant against the solo SAEs, and the joint ones against the control as well."""
    return [
        _difference(variant, baseline, label, variants, resampled)
        for variant, members in variants.items()
        for baseline in ("solo", "solo_equal_l2")
        if baseline in variants and members[0].role not in ("solo", baseline)
        for label in HEADLINE
    ]


def _difference(
    variant: str,
    baseline: str,
    label: str,
    variants: dict[str, list[ComparedSAE]],
    resampled: dict[str, Resampled],
) -> Difference:
    figure = HEADLINE[label].of
    values, base = ([figure(s) for s in variants[v]] for v in (variant, baseline))
    mean, base_mean = float(np.mean(values)), float(np.mean(base))
    percent = over_tokens = over_seeds = None
    if base_mean > 0 and label not in COUNTS:
        percent = 100 * (mean / base_mean - 1)
        over_seeds = percent_over_seeds(values, base)
        drawn = [
            [resampled[sae.name][label] for sae in variants[v]]
            for v in (variant, baseline)
            if all(label in resampled[sae.name] for sae in variants[v])
        ]
        if len(drawn) == 2:
            ours, theirs = (np.mean([d.values for d in one], axis=0) for one in drawn)
            # the ratio's change to first order: a shift that both share falls out
            spread = 100 * (ours - mean / base_mean * theirs) / base_mean
            n_blocks = drawn[0][0].n_blocks  # every SAE has read the same
            over_tokens = block_interval(percent, HalfSampled(spread, n_blocks))
    return Difference(
        variant=variant,
        baseline=baseline,
        figure=label,
        percent=percent,
        over_tokens=over_tokens,
        over_seeds=over_seeds,
        n_seeds=len(values),
        n_baseline=len(base),
    )
