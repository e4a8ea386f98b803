"""Renders a comparison as one HTML file that needs no network."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import TypeAdapter

from sae_lens_meta.evaluation.comparison import (
    COUNTS,
    HEADLINE,
    CandidateWithContexts,
    ComparedSAE,
    Comparison,
    Difference,
)
from sae_lens_meta.evaluation.intervals import Interval, mean_interval
from sae_lens_meta.evaluation.report.plots import all_plots


@dataclass
class _Cell:
    """A figure of one variant, its interval, and its difference to solo."""

    variant: str
    value: str
    interval: str
    difference: str
    over_tokens: str
    over_seeds: str


def write_report(comparison: Comparison, path: Path) -> None:
    """Writes the report; `path` is one file that any browser opens."""
    environment = Environment(
        loader=PackageLoader("sae_lens_meta.evaluation.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html.jinja")
    html = template.render(
        comparison=comparison,
        variants=comparison.variants(),
        rows={label: _row(comparison, label) for label in HEADLINE},
        plots=all_plots(comparison),
        splitting=_script_json(comparison),
        source=asdict(comparison.source),
    )
    path.write_text(html, encoding="utf-8")


def _row(comparison: Comparison, label: str) -> list[_Cell]:
    return [
        _cell(variant, saes, label, comparison.difference(variant, "solo", label))
        for variant, saes in comparison.variants().items()
    ]


def _cell(
    variant: str, saes: list[ComparedSAE], label: str, difference: Difference | None
) -> _Cell:
    figure = HEADLINE[label]
    values = [figure.of(sae) for sae in saes]
    interval = None
    if label not in COUNTS:
        interval = mean_interval(values) or saes[0].intervals.get(label)
    percent = difference.percent if difference else None
    return _Cell(
        variant=variant,
        value=format(float(np.mean(values)), figure.format),
        interval=_shown(interval, figure.format),
        difference="" if percent is None else f"{percent:+.1f} %",
        over_tokens=_shown(difference and difference.over_tokens, "+.1f"),
        over_seeds=_shown(difference and difference.over_seeds, "+.1f"),
    )


def _shown(interval: Interval | None, spec: str) -> str:
    return interval.show(spec) if interval else ""


def _script_json(comparison: Comparison) -> str:
    """What the page's script lists, safe inside a script element whatever tokens say."""
    kind = TypeAdapter(list[CandidateWithContexts])
    data: dict[str, Any] = {
        "candidates": kind.dump_python(comparison.splitting, mode="json"),
        "vocabulary": comparison.vocabulary,
    }
    return json.dumps(data).replace("<", "\\u003c")
