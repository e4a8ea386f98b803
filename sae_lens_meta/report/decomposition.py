"""The picture of a decomposition: what is explained against the nulls, and what comes back."""

from pathlib import Path

import numpy as np

from sae_lens_meta.decomposition.decomposition import Decomposition
from sae_lens_meta.decomposition.nulls import Nulls
from sae_lens_meta.decomposition.stability import Stability
from sae_lens_meta.extras import extra
from sae_lens_meta.report.plots import STYLE

with extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.style import context

SIZE = (9.0, 3.4)  # inches
N_BINS = 50


def draw_decomposition(found: Decomposition, path: Path) -> None:
    """
    Writes an SVG to `path`.

    Raises:
        ValueError: if the decomposition has no nulls or no stability.
    """
    if found.nulls is None or found.stability is None:
        raise ValueError("What was not checked against its nulls is not drawn.")
    with context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        FigureCanvasSVG(figure)
        explained, stable = figure.subplots(1, 2, width_ratios=(1, 1.3))
        _explained(explained, found, found.nulls, found.stability)
        _stability(stable, found.stability)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _explained(
    ax: Axes, found: Decomposition, nulls: Nulls, stability: Stability
) -> None:
    bars = {
        f"this one ({found.origin})": found.explained_variance,
        f"fitted, seed {stability.seed}": stability.explained_variance,
        "null: same covariance": nulls.same_covariance,
        "null: turned rows": nulls.turned,
    }
    hatches = ("", "", "///", "///")
    drawn = ax.barh(
        list(bars), list(bars.values()), color=("C0", "C0", "0.8", "0.8"), hatch=hatches
    )
    ax.bar_label(drawn, fmt="%.3f", padding=3)
    ax.invert_yaxis()
    ax.margins(x=0.2)
    ax.set_xlabel("decoder variance explained")


def _stability(ax: Axes, stability: Stability) -> None:
    edges = np.linspace(
        min(float(stability.null.min()), float(stability.cosine.min()), 0.0),
        1.0,
        N_BINS + 1,
    )
    for cosine, label, line in (
        (stability.cosine, f"to those of seed {stability.seed}", "-"),
        (stability.null, "null: rows of the same covariance", "--"),
    ):
        counts, _ = np.histogram(cosine.numpy(), edges)
        ax.stairs(counts, edges, label=label, linewidth=1.6, linestyle=line)
    ax.set_xlabel("cosine of a meta latent to its match")
    ax.set_ylabel("meta latents")
    ax.legend(frameon=False, fontsize="small")
