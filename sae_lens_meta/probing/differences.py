"""How much the groups differ from the first, and how sure that is."""

from collections.abc import Mapping

import numpy as np

from sae_lens_meta.probing.figures import FIGURES
from sae_lens_meta.probing.result import GroupDifference, ProbedSAE
from sae_lens_meta.statistics.intervals import (
    HalfSampled,
    Interval,
    block_interval,
    percent_over_seeds,
)

Resampled = dict[str, HalfSampled | None]
"""Means over labels of half samples of the documents, by figure."""


def differences(
    groups: Mapping[str, list[ProbedSAE]], resampled: Mapping[str, Resampled]
) -> list[GroupDifference]:
    """
    Every group against the first, in every figure.

    Args:
        groups: the SAEs by group, without the control.
        resampled: of each SAE, by its name.
    """
    baseline, *others = groups
    return [
        _difference(group, baseline, id_, groups, resampled)
        for group in others
        for id_ in FIGURES
    ]


def _difference(
    group: str,
    baseline: str,
    id_: str,
    groups: Mapping[str, list[ProbedSAE]],
    resampled: Mapping[str, Resampled],
) -> GroupDifference:
    of = FIGURES[id_].of
    values, base = ([of(sae) for sae in groups[name]] for name in (group, baseline))
    mean, base_mean = float(np.mean(values)), float(np.mean(base))
    if not base_mean > 0 or not np.isfinite(mean):
        return GroupDifference(group, baseline, id_, None, None, None)
    percent = 100 * (mean / base_mean - 1)
    drawn = [
        [resampled[sae.name].get(id_) for sae in groups[name]]
        for name in (group, baseline)
    ]
    return GroupDifference(
        group=group,
        baseline=baseline,
        figure=id_,
        percent=percent,
        over_documents=_over_documents(mean, base_mean, *drawn),
        over_seeds=percent_over_seeds(values, base),
    )


def _over_documents(
    mean: float,
    base_mean: float,
    ours: list[HalfSampled | None],
    theirs: list[HalfSampled | None],
) -> Interval | None:
    known = [half for half in (*ours, *theirs) if half]
    if len(known) < len(ours) + len(theirs):
        return None
    mine = np.mean([half.values for half in known[: len(ours)]], axis=0)
    base = np.mean([half.values for half in known[len(ours) :]], axis=0)
    # the ratio's change to first order, as a comparison has it
    spread = 100 * (mine - mean / base_mean * base) / base_mean
    percent = 100 * (mean / base_mean - 1)
    return block_interval(percent, HalfSampled(spread, known[0].n_blocks))
