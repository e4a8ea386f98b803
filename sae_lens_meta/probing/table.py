"""What probing found, as tables for the terminal."""

from collections.abc import Callable

import numpy as np
from rich.table import Table

from sae_lens_meta.measures.figures import Figure
from sae_lens_meta.probing.figures import FIGURES
from sae_lens_meta.probing.result import LabelScore, ProbedSAE, ProbeResult
from sae_lens_meta.probing.sparse_probe import FEW, KS
from sae_lens_meta.statistics.intervals import Interval, mean_interval


def summary_table(result: ProbeResult) -> Table:
    """The figures of every group, means over labels and SAEs, with their intervals."""
    title = f"{result.n_tokens:,} {result.source.said}; {len(result.labels)} labels"
    table = Table("mean over labels", title=title)
    groups = result.groups()
    for name, saes in groups.items():
        table.add_column(f"{name} ({len(saes)})", justify="right")
    for figure in FIGURES.values():
        n_all = len(result.labels)
        cells = (_cell(figure, saes, n_all) for saes in groups.values())
        table.add_row(figure.indented, *cells)
    table.caption = (
        f"of n: over the n labels for which every SAE has the figure. Dense probe on the activations, the ceiling: F1 {_shown(result.ceiling.value)}"
        f"{_bracketed(result.ceiling.interval)}; on shuffled labels "
        f"{_shown(result.shuffled_ceiling)}"
    )
    return table


def _cell(figure: Figure[ProbedSAE], saes: list[ProbedSAE], n_all: int) -> str:
    values = [figure.of(sae) for sae in saes]
    interval = mean_interval(values)
    if len(saes) == 1 and figure.id in saes[0].means:
        interval = saes[0].means[figure.id].interval
    shown = format(float(np.mean(values)), figure.format)
    n_labels = saes[0].n_labels.get(figure.id, n_all)
    if n_labels < n_all:
        shown = f"{shown} of {n_labels}"
    return f"{shown}\n{interval.show(figure.format)}" if interval else shown


def _bracketed(interval: Interval | None) -> str:
    return f" ({interval.show('.3f')})" if interval else ""


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def labels_table(result: ProbeResult) -> Table:
    """A line for each label, means over the SAEs of a group."""
    title = (
        f"F1 of the single latent / of {FEW}; latents needed; taken by a child's latent"
    )
    table = Table(title=title)
    table.add_column("label", no_wrap=True)
    for header in ("rate", "dense", "shuffled"):
        table.add_column(header, justify="right")
    groups = result.groups()
    for name in groups:
        table.add_column(name, justify="right")
    first = next(iter(groups.values()))
    for label in result.labels:
        scores = {g: [s.labels[label.name] for s in saes] for g, saes in groups.items()}
        table.add_row(
            label.name,
            f"{label.rate:.3f}",
            _shown(label.ceiling.value),
            _mean([s.labels[label.name] for s in first], lambda s: s.shuffled_single),
            *map(_label_cell, scores.values()),
        )
    table.caption = (
        f"needed: for 95 % of the dense probe's F1, more than {KS[-1]} where none does; taken: share "
        "of the label's tokens; shuffled: the first group's single latent"
    )
    return table


def _label_cell(scores: list[LabelScore]) -> str:
    single = _mean(scores, lambda s: s.single.value)
    few = _mean(scores, lambda s: s.f1_by_k[FEW])
    taken = _mean(scores, lambda s: s.taken_by_child.value)
    needed = float(np.median([s.needed or np.inf for s in scores]))
    shown = f">{KS[-1]}" if np.isinf(needed) else f"{needed:g}"
    return f"{single} / {few}; {shown}; {taken or '-'}"


def _mean(scores: list[LabelScore], of: Callable[[LabelScore], float | None]) -> str:
    values = [value for score in scores if (value := of(score)) is not None]
    return _shown(float(np.mean(values)) if values else None)


def difference_sentences(result: ProbeResult) -> list[str]:
    """What differs between groups, a sentence for each figure that has a difference."""
    shown = ("single", "one", "few", "silent", "taken_by_child", "absorption")
    return [
        f"{d.group} against {d.baseline}, {FIGURES[d.figure].label}: {d.percent:+.1f} %"
        f"{_over('documents', d.over_documents)}{_over('seeds', d.over_seeds)}."
        for d in result.differences
        if d.percent is not None and d.figure in shown
    ]


def _over(what: str, interval: Interval | None) -> str:
    return f", {interval.show('+.1f')} over {what}" if interval else ""
