"""All figures of a comparison in one plot: percent to the baseline, seed by seed, and what the controls say."""

import math
from dataclasses import dataclass

import numpy as np

from sae_lens_meta.comparison.controls import Control, Controls, controls
from sae_lens_meta.comparison.figures import HEADLINE
from sae_lens_meta.comparison.result import ComparedSAE, Comparison
from sae_lens_meta.measures.figures import Figure
from sae_lens_meta.statistics.intervals import Interval

WIDEST = 100.0  # percent to either side; what lies beyond stands at the edge
N_TICKS = 8
ITSELF = Control(None, "it is a control itself")


@dataclass
class Mark:
    """
    One SAE's figure.

    Attributes:
        name: of the SAE.
        percent: above the baseline's mean.
        at: place on the axis, 0 to 100.
        is_beyond: whether it lies outside the axis, and stands at its edge.
    """

    name: str
    percent: float
    at: float
    is_beyond: bool


@dataclass
class Lane:
    """
    One variant's line of a figure.

    Attributes:
        variant: which, by its short name.
        series: its number among the variants, the baseline's being 0.
        percent: above the baseline, of the means.
        seeds: its SAEs.
        interval: over seeds, or where there is one SAE of each, over blocks of tokens.
        over: which of the two, in words; empty where there is none.
        low, high: the interval's ends on the axis.
        controls: whether the difference stands.
    """

    variant: str
    series: int
    percent: float
    seeds: list[Mark]
    interval: Interval | None
    over: str
    low: float
    high: float
    controls: Controls

    @property
    def is_control(self) -> bool:
        """Whether it is what the others are held against beside the baseline."""
        return self.controls.seeds is ITSELF

    @property
    def said(self) -> str:
        """The lane in words."""
        found = f"{self.variant}: {self.percent:+.1f} %"
        if self.interval:
            found += f", 95 % {self.interval.show('+.1f')} {self.over}"
        seeds = ", ".join(f"{mark.percent:+.1f}" for mark in self.seeds)
        return f"{found}; SAE by SAE {seeds} %"


@dataclass
class ForestRow:
    """
    A figure.

    Attributes:
        figure: which.
        baseline: the SAEs of the baseline.
        lanes: of the other variants.
    """

    figure: Figure[ComparedSAE]
    baseline: list[Mark]
    lanes: list[Lane]


@dataclass
class Forest:
    """
    Attributes:
        rows: of the figures of which a change in percent says something.
        left_out: labels of the others.
        ticks: percent and place on the axis, 0 to 100.
        zero: place of no difference.
    """

    rows: list[ForestRow]
    left_out: list[str]
    ticks: list[tuple[float, float]]
    zero: float


class _Axis:
    """
    Percent on a line from 0 to 100.

    Args:
        points: percent that are to be seen.
        ends: of intervals, which make it half as long again on either side at most.
    """

    def __init__(self, points: list[float], ends: list[float]):
        low, high = min([0.0, *points]), max([0.0, *points])
        room = (high - low) / 2 or 1.0
        low = max(min([low, *ends]), low - room)
        high = min(max([high, *ends]), high + room)
        margin = 0.04 * (high - low)
        self.low = max(low - margin, -WIDEST)
        self.high = min(high + margin, WIDEST)

    def at(self, percent: float) -> float:
        place = 100 * (percent - self.low) / (self.high - self.low)
        return round(min(max(place, 0.0), 100.0), 2)

    def ticks(self) -> list[tuple[float, float]]:
        rough = (self.high - self.low) / N_TICKS
        power = 10 ** math.floor(math.log10(rough))
        step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [(step * n, self.at(step * n)) for n in range(first, last + 1)]


def forest(comparison: Comparison) -> Forest:
    """Every figure of every variant but the baseline's that differs from it in percent."""
    found = {figure: _lanes(comparison, figure) for figure in HEADLINE.values()}
    shown = {figure: lanes for figure, lanes in found.items() if lanes}
    base = comparison.variants().get(comparison.baseline, [])
    rows = [
        ForestRow(figure, _marks(base, figure, base), lanes)
        for figure, lanes in shown.items()
    ]
    drawn = [lane for row in rows for lane in row.lanes]
    axis = _Axis(
        [mark.percent for lane in drawn for mark in lane.seeds],
        [end for lane in drawn for end in _ends(lane)],
    )
    for row in rows:
        for mark in [*row.baseline, *(m for lane in row.lanes for m in lane.seeds)]:
            mark.at = axis.at(mark.percent)
            mark.is_beyond = not axis.low <= mark.percent <= axis.high
        for lane in row.lanes:
            if lane.interval:
                lane.low, lane.high = map(axis.at, _ends(lane))
    left_out = [figure.label for figure in HEADLINE.values() if figure not in shown]
    return Forest(rows, left_out, axis.ticks(), axis.at(0))


def _lanes(comparison: Comparison, figure: Figure[ComparedSAE]) -> list[Lane]:
    variants = comparison.variants()
    held, called = comparison.held_against(), comparison.called()
    base = variants.get(comparison.baseline, [])
    lanes = []
    for series, (variant, saes) in enumerate(variants.items()):
        found = comparison.difference(variant, comparison.baseline, figure.id)
        if found is None or found.percent is None:
            continue
        interval = found.over_seeds or found.over_tokens
        over = "over seeds" if found.over_seeds else "over blocks of tokens"
        lanes.append(
            Lane(
                variant=called[variant],
                series=series,
                percent=found.percent,
                seeds=_marks(saes, figure, base),
                interval=interval,
                over=over if interval else "",
                low=0.0,
                high=0.0,
                controls=controls(comparison, variant, figure)
                if variant in held
                else Controls(ITSELF, ITSELF, ITSELF),
            )
        )
    return lanes


def _marks(
    saes: list[ComparedSAE], figure: Figure[ComparedSAE], base: list[ComparedSAE]
) -> list[Mark]:
    mean = float(np.mean([figure.of(sae) for sae in base]))
    return [
        Mark(sae.name, 100 * (figure.of(sae) / mean - 1), 0.0, False) for sae in saes
    ]


def _ends(lane: Lane) -> list[float]:
    return [lane.interval.low, lane.interval.high] if lane.interval else []
