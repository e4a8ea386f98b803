"""The plots of a report, as SVG that scales to the width of the screen and takes the page's colours."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sae_lens_meta.comparison.figures import L2, PHI
from sae_lens_meta.comparison.result import Comparison
from sae_lens_meta.extras import extra
from sae_lens_meta.report.series import (
    Series,
    Variants,
    distributions,
    more_above,
)

with extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.style import context

# what the page's colours are put in the place of
TEXT, GRID = "#010101", "#020202"
SERIES = [f"#0300{i:02x}" for i in range(8)]
DASHES = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)), (0, (8, 2)), "-"]
MARKERS = ["o", "s", "D", "^", "v", "P", "X", "*"]
STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "report",  # the same file from the same figures
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
} | dict.fromkeys(
    (
        "text.color",
        "axes.edgecolor",
        "axes.labelcolor",
        "xtick.color",
        "ytick.color",
    ),
    TEXT,
)
SIZE = (4.8, 3.1)  # inches; readable at the width of a phone


@dataclass
class Plot:
    """
    A plot, and what it shows for those who do not see it.

    Attributes:
        caption: what it is of.
        svg: drawn; its ids are the page's only ones of their names.
        said: what stands out, in words.
        header: of its data.
        rows: its data.
    """

    caption: str
    svg: str
    said: str
    header: list[str]
    rows: list[list[str]]


def all_plots(comparison: Comparison) -> list[Plot]:
    """The distributions, and where there are several variants, what each trades for what."""
    called = comparison.called()
    variants = {called[name]: saes for name, saes in comparison.variants().items()}
    base = called[comparison.baseline]
    plots = [
        _lines(
            "Pairs of latents by phi: share of pairs in each bin, logarithmic.",
            "phi",
            distributions(variants, lambda sae: sae.phi),
            log=True,
        )
    ]
    if more := more_above(variants, base):
        caption = (
            f"How many more pairs than in {base} have |phi| above a value, in percent."
        )
        plots.append(_lines(caption, "|phi| above", more, "percent"))
    plots += [
        _lines(
            "Pairs of decoder rows by cosine: share of pairs in each bin, logarithmic.",
            "cosine",
            distributions(variants, lambda sae: sae.cosine),
            log=True,
        ),
        _lines(
            "Decoder rows by cosine to their nearest other row.",
            "nearest cosine",
            distributions(variants, lambda sae: sae.nearest_cosine),
        ),
        _lines(
            "Latents by firing rate; silent latents are left out.",
            "log10 of the share of tokens",
            distributions(variants, lambda sae: sae.log_firing_rate),
        ),
    ]
    if len(variants) > 2:
        plots.append(_trade(variants))
    for number, plot in enumerate(plots):
        plot.svg = _own_ids(plot.svg, f"plot{number}")
    return plots


def _lines(
    caption: str,
    label: str,
    series: list[Series],
    unit: str = "share",
    log: bool = False,
) -> Plot:
    def draw(ax: Axes) -> None:
        for one in series:
            ax.plot(
                one.x,
                np.where(one.y > 0, one.y, np.nan) if log else one.y,
                label=one.variant,
                markevery=(one.number, max(len(one.x) // 8, 1)),
                markersize=4,
                linewidth=1.4,
                **_look(one.number),
            )
        if log:
            ax.set_yscale("log")
        ax.set_xlabel(label)
        ax.set_ylabel(unit)

    return Plot(
        caption,
        _svg(draw),
        " ".join(f"{one.variant}: {one.said}." for one in series),
        [label, *(one.variant for one in series)],
        [
            [f"{x:.3g}", *(f"{one.y[place]:.3g}" for one in series)]
            for place, x in enumerate(series[0].x)
        ],
    )


def _look(number: int) -> dict[str, Any]:
    """A series is told by its dash and marker, and not by its colour alone."""
    place = number % len(SERIES)
    return {
        "color": SERIES[place],
        "linestyle": DASHES[place],
        "marker": MARKERS[place],
    }


def _trade(variants: Variants) -> Plot:
    def draw(ax: Axes) -> None:
        for number, (variant, saes) in enumerate(variants.items()):
            x, y = [L2.of(sae) for sae in saes], [PHI.of(sae) for sae in saes]
            look: dict[str, Any] = _look(number) | {"linestyle": "none"}
            ax.plot(x, y, label=variant, **look)
        ax.locator_params(nbins=5)
        ax.set_xlabel(L2.label)
        ax.set_ylabel(PHI.label)

    saes = [sae for members in variants.values() for sae in members]
    means = (
        f"{variant}: {PHI.label} {np.mean([PHI.of(s) for s in members]):{PHI.format}} at "
        f"{L2.label} {np.mean([L2.of(s) for s in members]):{L2.format}}."
        for variant, members in variants.items()
    )
    return Plot(
        "Mean |phi| against reconstruction, every SAE a point; less is better of both.",
        _svg(draw),
        " ".join(means),
        ["SAE", "variant", L2.label, PHI.label],
        [[s.name, s.variant, L2.show(s), PHI.show(s)] for s in saes],
    )


def _svg(draw: Callable[[Axes], None]) -> str:
    with context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        figure.legend(loc="outside upper left", frameon=False, fontsize="small")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    for colour, name in [
        (TEXT, "text"),
        (GRID, "line"),
        *((colour, f"series-{i}") for i, colour in enumerate(SERIES)),
    ]:
        svg = svg.replace(colour, f"var(--{name})")
    # the page gives the width, the view box the proportions
    return re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)


def _own_ids(svg: str, prefix: str) -> str:
    """The ids that matplotlib numbers anew in every figure, made the page's only ones."""
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    return re.sub(r"url\(#", f"url(#{prefix}-", svg)
