"""How much one variant of SAEs differs from another, and how sure that is."""

import numpy as np

from sae_lens_meta.comparison.counting import Tally
from sae_lens_meta.comparison.figures import HEADLINE
from sae_lens_meta.comparison.result import ComparedSAE, Comparison, Difference
from sae_lens_meta.measures.evaluate import Evaluation
from sae_lens_meta.statistics.intervals import (
    MIN_BLOCKS,
    N_RESAMPLES,
    HalfSampled,
    half_samples,
    percent_over_blocks,
    percent_over_seeds,
)

Resampled = dict[str, HalfSampled]
"""Headline figures of half samples of the stream, by id."""


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
    streams: Resampled = {}
    n_tokens = tally.meter.sums["n_tokens"]
    used = np.flatnonzero(n_tokens)  # a short stream leaves some blocks empty
    if len(used) >= MIN_BLOCKS:
        weights = np.zeros((N_RESAMPLES, len(n_tokens)))
        weights[:, used] = half_samples(len(used))
        figures = tally.meter.figures(weights)
        figures["phi"] = tally.blocks.resampled(weights, compared)
        streams = {k: HalfSampled(v, len(used)) for k, v in figures.items()}
    losses = np.array(evaluation.model_cost.losses_by_batch)
    if len(losses) >= MIN_BLOCKS:
        without, with_sae = (half_samples(len(losses)) @ losses).T
        overhead = 100 * (with_sae - without) / without
        streams["ce_overhead"] = HalfSampled(overhead, len(losses))
    return {
        figure.id: streams[figure.stream]
        for figure in HEADLINE.values()
        if figure.stream in streams and np.isfinite(streams[figure.stream].values).all()
    }


def differences(
    comparison: Comparison, resampled: dict[str, Resampled]
) -> list[Difference]:
    """
    Every variant against the baseline, and against the control as well.

    Args:
        comparison: with its SAEs.
        resampled: figures of half samples, by the names of the SAEs.
    """
    variants = comparison.variants()
    against = [name for name in (comparison.baseline, comparison.control) if name]
    return [
        _difference(variant, baseline, id_, variants, resampled)
        for variant in variants
        for baseline in against
        if baseline in variants and variant not in (comparison.baseline, baseline)
        for id_ in HEADLINE
    ]


def _difference(
    variant: str,
    baseline: str,
    id_: str,
    variants: dict[str, list[ComparedSAE]],
    resampled: dict[str, Resampled],
) -> Difference:
    figure = HEADLINE[id_]
    values, base = ([figure.of(s) for s in variants[v]] for v in (variant, baseline))
    mean, base_mean = float(np.mean(values)), float(np.mean(base))
    percent = over_tokens = over_seeds = None
    if base_mean > 0 and not figure.is_count:
        percent = 100 * (mean / base_mean - 1)
        over_seeds = percent_over_seeds(values, base)
        drawn = [
            [resampled[sae.name][id_] for sae in variants[v]]
            for v in (variant, baseline)
            if all(id_ in resampled[sae.name] for sae in variants[v])
        ]
        if len(drawn) == 2:
            over_tokens = percent_over_blocks(mean, base_mean, *drawn)
    return Difference(
        variant=variant,
        baseline=baseline,
        figure=id_,
        percent=percent,
        over_tokens=over_tokens,
        over_seeds=over_seeds,
        n_seeds=len(values),
        n_baseline=len(base),
    )
