"""Renders a comparison as one HTML file that needs no network."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sae_lens_meta.comparison.result import CandidateWithContexts, Comparison
from sae_lens_meta.comparison.table import headline_rows, tokens_of_model
from sae_lens_meta.extras import extra
from sae_lens_meta.report.attached import scores_of
from sae_lens_meta.report.plots import all_plots

with extra("report"):
    from jinja2 import Environment, PackageLoader, StrictUndefined


def write_report(comparison: Comparison, path: Path) -> None:
    """Writes the report; `path` is one file that any browser opens."""
    environment = Environment(
        loader=PackageLoader("sae_lens_meta.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html.jinja")
    html = template.render(
        comparison=comparison,
        variants=comparison.variants(),
        rows=headline_rows(comparison, comparison.variants()),
        groups=list(dict.fromkeys(sae.group for sae in comparison.saes)),
        scores=scores_of(comparison),
        of_model=tokens_of_model(comparison),
        plots=all_plots(comparison),
        splitting=_script_json(comparison),
        source=asdict(comparison.source),
    )
    path.write_text(html, encoding="utf-8")


def _script_json(comparison: Comparison) -> str:
    """What the page's script lists, safe inside a script element whatever tokens say."""
    kind = TypeAdapter(list[CandidateWithContexts])
    counts = comparison.split_counts
    data: dict[str, Any] = {
        "candidates": kind.dump_python(comparison.splitting, mode="json"),
        "vocabulary": comparison.vocabulary,
        "baseline": comparison.baseline,
        "group": counts.group if counts else "",
    }
    return json.dumps(data).replace("<", "\\u003c")
