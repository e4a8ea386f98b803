"""The plot of a probing: F1 of every label, between its nulls and its ceiling."""

from pathlib import Path

import numpy as np

from sae_lens_meta.extras import extra
from sae_lens_meta.probing.result import ProbeResult
from sae_lens_meta.report.plots import STYLE

with extra("report"):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.style import context

PLOT = "probe.svg"
INCHES_A_LABEL = 0.22


def draw_probe(result: ProbeResult, path: Path) -> None:
    """Draws the dense probe, the best single latents and the nulls; the kind of file is by its name."""
    labels = sorted(result.labels, key=lambda label: label.ceiling.value or 0.0)
    height = np.arange(len(labels))
    with context(STYLE):
        size = (7.0, 1.6 + INCHES_A_LABEL * len(labels))
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.subplots()
        ax.plot(
            _f1([x.ceiling.value for x in labels]),
            height,
            "k|",
            ms=9,
            label="dense probe",
        )
        for name, saes in result.groups().items():
            scores = [[sae.labels[x.name] for sae in saes] for x in labels]
            singles = [np.mean([s.single.value or 0 for s in one]) for one in scores]
            (drawn,) = ax.plot(
                singles, height, "o", ms=4, label=f"{name}, single latent"
            )
            few = [np.mean([s.f1_by_k[5] for s in one]) for one in scores]
            ax.plot(few, height, ">", ms=4, mfc="none", color=drawn.get_color())
        first = result.saes[0]
        nulls = _f1([first.labels[x.name].shuffled_single for x in labels])
        ax.plot(
            nulls,
            height,
            "x",
            ms=4,
            color="0.5",
            label="single latent, labels shuffled",
        )
        ax.set_yticks(height, [x.name for x in labels])
        ax.set_xlim(0, 1)
        ax.set_xlabel("F1 (triangles: probes of 5 latents)")
        figure.legend(
            loc="outside upper left", frameon=False, fontsize="small", ncols=2
        )
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _f1(values: list[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values])
