"""
Draws docs/img/ground_truth.png: what each objective does on the kinds of data where a solo SAE converges.

    python -m benchmarks.truth_picture

It takes the results of `benchmarks.ground_truth` from its folder, and trains what is missing there.
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.ground_truth import FOLDER, correlated, exclusive, quarter
from sae_lens_meta.known_truth.plot import MARKERS
from sae_lens_meta.known_truth.study import Study, StudyConfig, run_study
from sae_lens_meta.known_truth.table import COLUMNS, Group, changes, groups
from sae_lens_meta.statistics.intervals import mean_interval

PLOT = Path("docs/img/ground_truth.png")
KINDS = {
    "children that exclude each other": (exclusive, "exclusive"),
    "hierarchies, a quarter of the latents": (quarter, "hierarchy_2"),
    "correlated features": (correlated, "correlated"),
}
LABELS = {
    "implied_overlap": "implied overlap, 1",
    "implied_overlap_3": "implied overlap, 3",
    "implied_overlap_all": "implied overlap, resampled, k falling",
    "resampling_annealing": "resampled, k falling",
    "resampling": "dead rows resampled",
    "decomposability": "the paper's penalty",
    "orthogonality": "orthogonality",
    "batchtopk": "BatchTopK of SAELens",
    "matryoshka": "Matryoshka of SAELens",
}
FIELDS = {column.field: column for column in COLUMNS}


def finished(cfg: StudyConfig, name: str, kind: str) -> Study:
    cfg.data, cfg.output = (kind,), FOLDER / name
    return run_study(cfg)


def draw(ax: Axes, study: Study, group: Group, field: str) -> None:
    """Means over seeds with their intervals, against what is paid in L2."""
    for number, (name, label) in enumerate(LABELS.items()):
        points = []
        for column in (FIELDS["l2"], FIELDS[field]):
            values = (
                changes(study, group, name, column) if name in study.objectives else []
            )
            interval = mean_interval(values) if values else None
            if interval is not None:
                middle = (interval.low + interval.high) / 2
                points.append((middle, (interval.high - interval.low) / 2))
        if len(points) == 2:
            (x, x_half), (y, y_half) = points
            ax.errorbar(
                x,
                y,
                y_half,
                x_half,
                fmt=MARKERS[number],
                color=f"C{number}",
                label=label,
                elinewidth=1,
            )
    ax.axhline(0, color="grey", linewidth=0.8)
    ax.axvline(0, color="grey", linewidth=0.8)
    ax.set_xlabel("L2, % above solo")


def main() -> None:
    figure = Figure(figsize=(13, 7), layout="constrained")
    axes = figure.subplots(2, len(KINDS), squeeze=False)
    for column, (title, (study_of, kind)) in enumerate(KINDS.items()):
        study = finished(study_of(), study_of.__name__, kind)
        (group,) = groups(study)
        for row, field in enumerate(("mcc", "absorption_gap")):
            ax = axes[row][column]
            if not changes(study, group, "implied_overlap", FIELDS[field]):
                ax.set_axis_off()  # features without children have no gap
                ax.legend(*axes[0][1].get_legend_handles_labels(), loc="center")
                continue
            draw(ax, study, group, field)
            ax.set_ylabel(f"{FIELDS[field].label}, above solo")
        axes[0][column].set_title(title)
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, dpi=100)


if __name__ == "__main__":
    main()
