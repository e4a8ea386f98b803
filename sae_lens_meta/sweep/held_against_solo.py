"""How each setting differs from its solo SAE, seed by seed, and which one is chosen."""

from dataclasses import dataclass

import numpy as np

from sae_lens_meta.statistics.intervals import LEVEL, Interval, mean_interval
from sae_lens_meta.sweep.grid import Setting
from sae_lens_meta.sweep.measured import Measured

L2, PHI, AT_EQUAL_RATES, META_EXPLAINED = (
    "l2",
    "phi",
    "at_equal_rates",
    "meta_explained",
)
LABELS = {
    L2: "L2, %",
    PHI: "mean |phi|, %",
    AT_EQUAL_RATES: "at equal rates, %",
    META_EXPLAINED: "meta-explained, %",
}


@dataclass
class Against:
    """
    A setting against its solo SAE.

    Attributes:
        setting: the one that is held against it.
        changes: percent above the solo SAE of the same seed, by figure, a number for each seed.
        n_alive: mean over seeds.
    """

    setting: Setting
    changes: dict[str, list[float]]
    n_alive: float

    def mean(self, figure: str) -> float:
        """Percent above solo, over the seeds."""
        return float(np.mean(self.changes[figure]))

    def interval(self, figure: str) -> Interval | None:
        """Student's, over the seeds; None for a single one."""
        return mean_interval(self.changes[figure])


def against_solo(setting: Setting, pairs: list[tuple[Measured, Measured]]) -> Against:
    """
    Args:
        setting: of the first of each pair.
        pairs: it and its solo SAE, for each seed.
    """
    changes = {
        figure: [_percent(getattr(m, figure), getattr(s, figure)) for m, s in pairs]
        for figure in (L2, PHI, META_EXPLAINED)
    }
    changes[AT_EQUAL_RATES] = [
        100 * (m.by_rate.ratio_at_equal_rates(s.by_rate) - 1) for m, s in pairs
    ]
    n_alive = float(np.mean([m.n_alive for m, _ in pairs]))
    return Against(setting, changes, n_alive)


def _percent(value: float, base: float) -> float:
    return 100 * (value / base - 1)


def rule(max_l2: float) -> str:
    """The rule by which a setting is chosen, in words."""
    return (
        f"of the settings whose L2 is at most {max_l2:g} % above solo's, the one whose mean |phi| "
        "at equal firing rates is lowest; none, unless that is below solo's beyond its interval "
        "over seeds, of 95 % for all settings together"
    )


def chosen(found: list[Against], max_l2: float) -> Against | None:
    """The setting that `rule` chooses."""
    allowed = [one for one in found if one.mean(L2) <= max_l2]
    if not allowed:
        return None
    best = min(allowed, key=lambda one: one.mean(AT_EQUAL_RATES))
    level = 1 - (1 - LEVEL) / len(found)  # the lowest of many is low by chance too
    interval = mean_interval(best.changes[AT_EQUAL_RATES], level)
    return best if interval and interval.high < 0 else None


def pareto(found: list[Against]) -> list[Against]:
    """Settings that no other one beats in L2 and in |phi| at equal rates, by L2."""
    front: list[Against] = []
    for one in sorted(found, key=lambda o: (o.mean(L2), o.mean(AT_EQUAL_RATES))):
        if not front or one.mean(AT_EQUAL_RATES) < front[-1].mean(AT_EQUAL_RATES):
            front.append(one)
    return front
