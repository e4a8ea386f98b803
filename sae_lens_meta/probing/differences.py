"""How much the groups differ from the first, and how sure that is."""

from collections.abc import Mapping

import numpy as np

from sae_lens_meta.probing.figures import FIGURES
from sae_lens_meta.probing.result import GroupDifference, ProbedSAE
from sae_lens_meta.statistics.intervals import (
    HalfSampled,
    percent_over_blocks,
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
        [half for sae in groups[name] if (half := resampled[sae.name].get(id_))]
        for name in (group, baseline)
    ]
    is_drawn = [len(halves) for halves in drawn] == [len(values), len(base)]
    return GroupDifference(
        group=group,
        baseline=baseline,
        figure=id_,
        percent=percent,
        over_documents=percent_over_blocks(mean, base_mean, *drawn)
        if is_drawn
        else None,
        over_seeds=percent_over_seeds(values, base),
    )
