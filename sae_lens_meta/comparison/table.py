"""The headline table, made once for the terminal, the report and the card."""

from dataclasses import dataclass

import numpy as np
from rich.table import Table

from sae_lens_meta.comparison.figures import HEADLINE
from sae_lens_meta.comparison.result import ComparedSAE, Comparison
from sae_lens_meta.measures.figures import Figure, model_tokens
from sae_lens_meta.statistics.intervals import Interval, mean_interval


@dataclass
class Cell:
    """
    A figure of some SAEs of one variant, as text; empty where there is none.

    Attributes:
        variant: which.
        value: the mean over the SAEs.
        interval: over them, or of a single one over blocks of tokens.
        difference: of the variant to the baseline, in percent.
        over_tokens, over_seeds: its intervals.
    """

    variant: str
    value: str
    interval: str
    difference: str
    over_tokens: str
    over_seeds: str


@dataclass
class Row:
    """A figure, and its cells."""

    figure: Figure[ComparedSAE]
    cells: list[Cell]


def headline_rows(
    comparison: Comparison, columns: dict[str, list[ComparedSAE]]
) -> list[Row]:
    """
    The headline figures.

    Args:
        comparison: that has the differences.
        columns: SAEs by their variant: all of it, or some.
    """
    return [
        Row(figure, [_cell(comparison, figure, *column) for column in columns.items()])
        for figure in HEADLINE.values()
    ]


def _cell(
    comparison: Comparison,
    figure: Figure[ComparedSAE],
    variant: str,
    saes: list[ComparedSAE],
) -> Cell:
    difference = comparison.difference(variant, comparison.baseline, figure.id)
    values = [figure.of(sae) for sae in saes]
    interval = None
    if not figure.is_count:
        interval = mean_interval(values) or saes[0].intervals.get(figure.id)
    percent = difference.percent if difference else None
    return Cell(
        variant=variant,
        value=format(float(np.mean(values)), figure.format),
        interval=_shown(interval, figure.format),
        difference="" if percent is None else f"{percent:+.1f} %",
        over_tokens=_shown(difference and difference.over_tokens, "+.1f"),
        over_seeds=_shown(difference and difference.over_seeds, "+.1f"),
    )


def _shown(interval: Interval | None, spec: str) -> str:
    return interval.show(spec) if interval else ""


def comparison_table(comparison: Comparison) -> Table:
    """The headline figures of every variant, means over its SAEs."""
    table = Table("", title=f"{comparison.n_tokens:,} {comparison.source.said}")
    variants = comparison.variants()
    for variant, saes in variants.items():
        table.add_column(f"{variant} ({len(saes)})", justify="right")
    for row in headline_rows(comparison, variants):
        cells = (f"{c.value}\n{c.difference}".rstrip() for c in row.cells)
        table.add_row(row.figure.indented, *cells)
    table.caption = tokens_of_model(comparison)
    return table


def tokens_of_model(comparison: Comparison) -> str:
    """Which tokens the language model was run on, in words."""
    numbers = {sae.evaluation.model_cost.n_tokens for sae in comparison.saes}
    return model_tokens(*sorted(numbers))
