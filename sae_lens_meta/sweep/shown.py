"""A sweep's table, and its picture: what each setting costs and what it brings."""

from pathlib import Path

from rich.table import Table

from sae_lens_meta.extras import extra
from sae_lens_meta.sweep.held_against_solo import (
    AT_EQUAL_RATES,
    L2,
    LABELS,
    Against,
    pareto,
)

with extra("report"):
    from matplotlib.figure import Figure


def table(found: list[Against], n_seeds: int, is_chosen: Against | None) -> Table:
    """Changes to solo, with half of their 95 % intervals over seeds."""
    table = Table(title=f"Percent above the solo SAE of the same seed, {n_seeds} seeds")
    table.add_column("setting")
    for label in (*LABELS.values(), "alive"):
        table.add_column(label, justify="right")
    for one in sorted(found, key=lambda one: one.mean(L2)):
        mark = " (chosen)" if one is is_chosen else ""
        cells = [_shown(one, figure) for figure in LABELS]
        table.add_row(f"{one.setting}{mark}", *cells, f"{one.n_alive:,.0f}")
    return table


def _shown(one: Against, figure: str) -> str:
    interval = one.interval(figure)
    mean = f"{one.mean(figure):+.1f}"
    return f"{mean} ± {(interval.high - interval.low) / 2:.1f}" if interval else mean


def plot(found: list[Against], path: Path) -> None:
    """Writes |phi| at equal rates against L2: a dot a seed, a mark a setting, and the Pareto front."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    ax = figure.subplots()
    for number, one in enumerate(found):
        colour, marker = f"C{number % 10}", "osD^vP*X<>"[number % 10]
        ax.plot(
            one.changes[L2], one.changes[AT_EQUAL_RATES], ".", color=colour, alpha=0.5
        )
        at = one.mean(L2), one.mean(AT_EQUAL_RATES)
        ax.plot(*at, marker, color=colour, markersize=9, label=str(one.setting))
    front = pareto(found)
    line = [one.mean(L2) for one in front], [one.mean(AT_EQUAL_RATES) for one in front]
    ax.plot(*line, "--", color="grey", linewidth=1, label="none is better in both")
    ax.axhline(0, color="grey", linewidth=0.8)
    ax.axvline(0, color="grey", linewidth=0.8)
    ax.set_xlabel("L2, % above solo")
    ax.set_ylabel("mean |phi| at equal firing rates, % above solo")
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=110)
