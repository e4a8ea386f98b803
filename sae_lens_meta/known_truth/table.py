"""A study's tables: how every SAE differs from the baseline, and what the truth itself shows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from sae_lens_meta.known_truth.figures import TruthFigures
from sae_lens_meta.known_truth.study import Study
from sae_lens_meta.known_truth.training import Trained
from sae_lens_meta.statistics.intervals import mean_interval


@dataclass(frozen=True)
class Column:
    """
    Attributes:
        field: of `TruthFigures`.
        label: as people read it.
        unit: of a change: percent, points of a share, or a difference as it is.
        is_controlled: whether the baseline at equal L2 has it: what is measured on the way.
    """

    field: str
    label: str
    unit: Literal["percent", "points", "number"] = "percent"
    is_controlled: bool = True

    def change(self, value: float, baseline: float) -> float:
        """How far `value` is above `baseline`, in the column's unit."""
        if self.unit == "percent":
            return 100 * (value / baseline - 1)
        return (value - baseline) * (100 if self.unit == "points" else 1)


COLUMNS = (
    Column("l2", "L2 %"),
    Column("l0", "L0 %"),
    Column("dead", "dead latents", "number"),
    Column("mcc", "MCC %"),
    Column("f1", "F1 %"),
    Column("uniqueness", "unique %"),
    Column("recall_with_child", "recall of parents, points", "points"),
    Column("absorption_gap", "absorption gap, points", "points"),
    Column("excess_cosine", "excess cosine, points", "points"),
    Column("phi", "mean |phi| %"),
    Column("phi_error", "error of |phi| %"),
    Column("explained", "meta-explained %", is_controlled=False),
)
Group = tuple[str, int, float]  # kind of data, d_sae, k


def groups(study: Study) -> list[Group]:
    """What is tabled by itself: cells that differ in their seed alone."""
    return list(dict.fromkeys((c.kind, c.d_sae, c.k) for c in study.cells))


def changes(
    study: Study, group: Group, name: str, column: Column, at_equal_l2: bool = False
) -> list[float]:
    """
    By seed, how far the SAE `name` is above the baseline of that seed.

    Args:
        at_equal_l2: hold it against the baseline as it was when its L2 was the SAE's,
            interpolated between the steps at which it was measured.

    Returns:
        One number a seed; none where the figure is not defined.
    """
    found = []
    for trained, baseline in _pairs(study, group, name):
        value = getattr(trained.result, column.field)
        if at_equal_l2:
            other = _at_equal_l2(baseline, trained.result.l2, column.field)
        else:
            other = getattr(baseline.result, column.field)
        if value is not None and other is not None:
            found.append(column.change(value, other))
    return found


def _pairs(study: Study, group: Group, name: str) -> Iterator[tuple[Trained, Trained]]:
    """The SAE and the baseline of every seed that has both."""
    for cell in study.cells:
        keys = (cell, name), (cell, study.cfg.baseline)
        is_there = all(key in study.trained for key in keys)
        if (cell.kind, cell.d_sae, cell.k) == group and is_there:
            yield study.trained[keys[0]], study.trained[keys[1]]


def _at_equal_l2(baseline: Trained, l2: float, field: str) -> float | None:
    path = sorted((figures for _, figures in baseline.path), key=lambda f: f.l2)
    values = [getattr(figures, field) for figures in path]
    # an SAE that reconstructs better than the baseline ever did has no such control
    if None in values or not path[0].l2 <= l2 <= path[-1].l2:
        return None
    return float(np.interp(l2, [figures.l2 for figures in path], values))


def shown(values: list[float], spec: str = "+.1f", of: int | None = None) -> str:
    """Mean, and half of its 95 % interval over seeds; which of `of` have it, where not all do."""
    if not values:
        return ""
    interval = mean_interval(values)
    said = format(float(np.mean(values)), spec)
    if interval is not None:
        half = (interval.high - interval.low) / 2
        said = f"{said} ± {format(half, spec.lstrip('+'))}"
    # those whose baseline never reconstructed so well are left out, and are not any ones
    return said if of in (None, len(values)) else f"{said} ({len(values)} of {of})"


def print_study(study: Study, console: Console) -> None:
    """Prints, for every group of cells, the baseline, the truth, and the changes."""
    for group in groups(study):
        console.print(_baseline(study, group))
        console.print(_changes(study, group))
    for failed in study.failed:
        cell = failed.cell
        console.print(
            f"Left out: {failed.name}, {cell.kind}, seed {cell.seed}, {cell.d_sae} latents, "
            f"k {cell.k:g}: {failed.why}",
            markup=False,
        )


def _title(study: Study, group: Group) -> str:
    kind, d_sae, k = group
    cfg = study.cfg
    steps = f"{cfg.steps:,} steps of {cfg.batch_size}"
    return f"{kind}, {d_sae} latents, k {k:g}, {steps}, {len(cfg.seeds)} seeds"


def _baseline(study: Study, group: Group) -> Table:
    kind, d_sae, _ = group
    name = study.cfg.baseline
    results = [baseline.result for _, baseline in _pairs(study, group, name)]
    true = [p for (k, d, _), p in study.premises.items() if (k, d) == (kind, d_sae)]
    table = Table(title=_title(study, group))
    for heading in ("figure", name, "true features"):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    of_truth = {"l0": "l0", "phi": "phi", "explained": "explained"}
    for field in TruthFigures.__dataclass_fields__:
        values = [v for r in results if (v := getattr(r, field)) is not None]
        theirs = (
            [getattr(p, of_truth[field]) for p in true] if field in of_truth else []
        )
        if values:
            label = field.replace("_", " ")
            table.add_row(label, shown(values, ".4f"), shown(theirs, ".4f"))
    return table


def _changes(study: Study, group: Group) -> Table:
    """Figure by figure, so that SAEs stand under each other, in eighty columns."""
    baseline = study.cfg.baseline
    table = Table(
        caption="Mean over seeds above the baseline, and half of its 95 % interval; "
        "(2 of 5): of the seeds whose baseline was ever as good"
    )
    for heading in ("figure", "SAE"):
        table.add_column(heading)
    for heading in (f"above {baseline}", "at equal L2"):
        table.add_column(heading, justify="right")
    for column in COLUMNS:
        label = column.label
        for name in study.objectives:
            change = changes(study, group, name, column)
            if name == baseline or not change:
                continue
            control = (
                changes(study, group, name, column, at_equal_l2=True)
                if column.is_controlled
                else []
            )
            table.add_row(label, name, shown(change), shown(control, of=len(change)))
            label = ""
        table.add_section()
    return table
