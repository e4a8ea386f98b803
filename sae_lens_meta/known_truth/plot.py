"""A study's picture: nearness to the truth against reconstruction, a point for each seed."""

from pathlib import Path

from sae_lens_meta.extras import extra
from sae_lens_meta.known_truth.study import Study
from sae_lens_meta.known_truth.table import COLUMNS, changes, groups

with extra("report"):
    from matplotlib.figure import Figure

MARKERS = "osD^vP*X<>"


def plot_study(study: Study, path: Path) -> None:
    """Writes MCC and the absorption gap against L2, as changes to the baseline, a panel a group."""
    by_field = {column.field: column for column in COLUMNS}
    all_groups, fields = groups(study), ("mcc", "absorption_gap")
    width, height = 4 * len(all_groups), 3.6 * len(fields)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(len(fields), len(all_groups), squeeze=False)
    others = [name for name in study.objectives if name != study.cfg.baseline]
    for column, group in enumerate(all_groups):
        for row, field in enumerate(fields):
            ax = axes[row][column]
            for number, name in enumerate(others):
                l2 = changes(study, group, name, by_field["l2"])
                value = changes(study, group, name, by_field[field])
                if len(value) == len(l2):
                    marker = MARKERS[number % len(MARKERS)]
                    ax.plot(l2, value, marker, label=name, alpha=0.7)
            ax.axhline(0, color="grey", linewidth=0.8)
            ax.axvline(0, color="grey", linewidth=0.8)
            ax.set_title(f"{group[0]}, {group[1]} latents, k {group[2]:g}")
            ax.set_xlabel(f"L2, % above {study.cfg.baseline}")
            ax.set_ylabel(f"{by_field[field].label} above {study.cfg.baseline}")
    handles = axes[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=min(6, len(others)))
    figure.savefig(path, dpi=110)
