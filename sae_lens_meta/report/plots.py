"""The plots of a report, as SVG that scales to the width of the screen."""

import io
import re
from collections.abc import Callable

import numpy as np

from sae_lens_meta.comparison.figures import L2, PHI
from sae_lens_meta.comparison.result import ComparedSAE, Comparison
from sae_lens_meta.extras import extra
from sae_lens_meta.measures.histograms import Histogram

with extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.style import context

STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "report",  # the same file from the same figures
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
SIZE = (6.0, 3.4)  # inches; readable at the width of a phone


def all_plots(comparison: Comparison) -> dict[str, str]:
    """SVG by caption."""
    variants = comparison.variants()
    plots = {
        "Pairs of latents by phi: share of pairs in each bin of 0.01, logarithmic.": (
            lambda ax: _distributions(ax, variants, lambda s: s.phi, "phi", log=True)
        ),
        f"Difference of those shares to {comparison.baseline}.": (
            lambda ax: _phi_difference(ax, variants, comparison.baseline)
        ),
        "Pairs of decoder rows by cosine.": (
            lambda ax: _distributions(
                ax, variants, lambda s: s.cosine, "cosine", log=True
            )
        ),
        "Decoder rows by cosine to their nearest other row.": (
            lambda ax: _distributions(
                ax, variants, lambda s: s.nearest_cosine, "nearest cosine"
            )
        ),
        "Latents by firing rate; silent latents are left out.": (
            lambda ax: _distributions(
                ax,
                variants,
                lambda s: s.log_firing_rate,
                "log10 of the share of tokens",
            )
        ),
    }
    if len(variants) > 2:
        plots["Mean |phi| against reconstruction, every SAE a point."] = lambda ax: (
            _pareto(ax, variants)
        )
    return {caption: _svg(draw) for caption, draw in plots.items()}


def _svg(draw: Callable[[Axes], None]) -> str:
    with context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        figure.legend(loc="outside upper left", frameon=False, fontsize="small")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # the page gives the width, the view box the proportions
    return re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)


def _shares(
    saes: list[ComparedSAE], of: Callable[[ComparedSAE], Histogram]
) -> np.ndarray:
    counts = np.array([of(sae).counts for sae in saes], dtype=float)
    return (counts / counts.sum(axis=1, keepdims=True)).mean(axis=0)


def _distributions(
    ax: Axes,
    variants: dict[str, list[ComparedSAE]],
    of: Callable[[ComparedSAE], Histogram],
    label: str,
    log: bool = False,
) -> None:
    for variant, saes in variants.items():
        ax.stairs(_shares(saes, of), of(saes[0]).edges, label=variant, linewidth=1.4)
    filled = sum(_shares(saes, of) for saes in variants.values()) > 0  # type: ignore[operator]
    edges = of(next(iter(variants.values()))[0]).edges
    places = np.flatnonzero(filled)
    ax.set_xlim(edges[places[0]], edges[places[-1] + 1])
    if log:
        ax.set_yscale("log")
    ax.set_xlabel(label)
    ax.set_ylabel("share")


def _phi_difference(
    ax: Axes, variants: dict[str, list[ComparedSAE]], baseline: str
) -> None:
    base = _shares(variants[baseline], lambda sae: sae.phi)
    for variant, saes in variants.items():
        if variant != baseline:
            difference = _shares(saes, lambda sae: sae.phi) - base
            ax.stairs(difference, saes[0].phi.edges, label=variant, linewidth=1.4)
    ax.set_yscale("symlog", linthresh=1e-6)
    ax.set_xlim(-0.3, 1)
    ax.set_xlabel("phi")
    ax.set_ylabel(f"share minus that of {baseline}")


def _pareto(ax: Axes, variants: dict[str, list[ComparedSAE]]) -> None:
    for variant, saes in variants.items():
        x = [L2.of(sae) for sae in saes]
        y = [PHI.of(sae) for sae in saes]
        ax.plot(x, y, "o", label=variant)
    ax.set_xlabel("normalised L2 (less is better)")
    ax.set_ylabel(f"{PHI.label} (less is better)")
