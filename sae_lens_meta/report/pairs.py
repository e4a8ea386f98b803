"""Pairs of latents by firing rate, as the report shows them: why a mean over all pairs moves."""

from dataclasses import asdict, dataclass
from typing import Any

from sae_lens_meta.comparison.figures import PHI, PHI_AT_EQUAL_RATES
from sae_lens_meta.comparison.result import Comparison
from sae_lens_meta.measures.pair_map import N_ROWS, PairMap


@dataclass
class ShownMap:
    """
    The map of a variant's first SAE.

    Attributes:
        called: the variant, in short.
        name: of the SAE.
        series: number of the variant among all.
        found: the map.
    """

    called: str
    name: str
    series: int
    found: PairMap


@dataclass
class ShownPairs:
    """
    Attributes:
        maps: of the variants, the baseline's first.
        sentences: how corrected mean |phi| moves over all pairs, and at equal rates.
        rows: what the curves show: the lowest rate of a column, then of each map the share of
            its pairs there and their mean |phi| less chance.
    """

    maps: list[ShownMap]
    sentences: list[str]
    rows: list[list[str]]

    def plain(self, atlases: dict[str, str]) -> dict[str, Any]:
        """
        What the page's script draws.

        Args:
            atlases: where an SAE's atlas lies, by its name.
        """
        maps = [
            {
                "called": one.called,
                "name": one.name,
                "series": one.series,
                "atlas": atlases.get(one.name),
                **asdict(one.found),
            }
            for one in self.maps
        ]
        return {"n_rows": N_ROWS, "maps": maps}


def shown_pairs(comparison: Comparison) -> ShownPairs | None:
    """The maps that a comparison keeps; None where it keeps none, as older ones do."""
    called = comparison.called()
    maps = [
        ShownMap(called[variant], sae.name, series, sae.pair_map)
        for series, (variant, saes) in enumerate(comparison.variants().items())
        for sae in saes[:1]
        if sae.pair_map
    ]
    if not maps:
        return None
    return ShownPairs(maps, _sentences(comparison), _rows(maps))


def _sentences(comparison: Comparison) -> list[str]:
    found = []
    for variant in comparison.held_against():
        over_all, at_equal_rates = (
            comparison.difference(variant, comparison.baseline, figure.id)
            for figure in (PHI, PHI_AT_EQUAL_RATES)
        )
        if over_all and over_all.percent is not None:
            sentence = (
                f"{comparison.called()[variant]}: {PHI.label} {over_all.percent:+.1f} % "
                f"against {comparison.baseline} over all pairs"
            )
            if at_equal_rates and at_equal_rates.percent is not None:
                sentence += f", {at_equal_rates.percent:+.1f} % at equal firing rates"
            found.append(f"{sentence}.")
    return found


def _rows(maps: list[ShownMap]) -> list[list[str]]:
    in_column = [[sum(rows) for rows in one.found.counts] for one in maps]
    rows = []
    for column in range(len(in_column[0])):
        if not any(counts[column] for counts in in_column):
            continue
        cells = [f"{2 ** (-(column + 1) / 2):.2g}"]
        for one, counts in zip(maps, in_column, strict=True):
            mean = one.found.corrected[column]
            cells += [f"{counts[column] / sum(counts):.2%}"]
            cells += ["" if mean is None else f"{mean:.2e}"]
        rows.append(cells)
    return rows
