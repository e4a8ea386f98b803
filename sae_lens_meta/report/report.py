"""Renders a comparison as one HTML file that needs no network."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sae_lens_meta.comparison.result import CandidateWithContexts, Comparison
from sae_lens_meta.comparison.table import headline_rows, tokens_of_model
from sae_lens_meta.comparison.verdict import plain_verdict, what_is_missing
from sae_lens_meta.extras import extra
from sae_lens_meta.report.atlases import atlases_beside
from sae_lens_meta.report.attached import scores_of
from sae_lens_meta.report.forest import forest
from sae_lens_meta.report.pairs import shown_pairs
from sae_lens_meta.report.plots import all_plots

with extra("report"):
    from jinja2 import Environment, PackageLoader, StrictUndefined

# of an activation that a token is shaded by
_DIGITS = 3


def write_report(comparison: Comparison, path: Path) -> None:
    """
    Writes the report; `path` is one file that any browser opens.

    Latents of SAEs whose atlas lies beside it link into that.
    """
    environment = Environment(
        loader=PackageLoader("sae_lens_meta.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html.jinja")
    pairs = shown_pairs(comparison)
    atlases = atlases_beside(comparison, path.parent)
    html = template.render(
        comparison=comparison,
        variants=comparison.variants(),
        plain=plain_verdict(comparison),
        claimed=all(
            what_is_missing(comparison, v) is None for v in comparison.held_against()
        ),
        forest=forest(comparison),
        rows=headline_rows(comparison, comparison.variants()),
        groups=list(dict.fromkeys(sae.group for sae in comparison.saes)),
        pairs=pairs,
        pairs_json=_script_json(pairs.plain(atlases)) if pairs else "",
        scores=scores_of(comparison),
        of_model=tokens_of_model(comparison),
        plots=all_plots(comparison),
        splitting=_script_json(_splitting(comparison, atlases)),
        source=asdict(comparison.source),
    )
    path.write_text(html, encoding="utf-8")


def _script_json(data: dict[str, Any]) -> str:
    """Data for a script element, safe inside one whatever tokens say."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _splitting(comparison: Comparison, atlases: dict[str, str]) -> dict[str, Any]:
    """What the page's script lists of the splitting candidates."""
    kind = TypeAdapter(list[CandidateWithContexts])
    counts = comparison.split_counts
    group = counts.group if counts else _first_other(comparison)
    first = {sae.group: sae.name for sae in reversed(comparison.saes)}
    return {
        "candidates": _rounded(kind.dump_python(comparison.splitting, mode="json")),
        "vocabulary": comparison.vocabulary,
        "baseline": comparison.baseline,
        "baseline_atlas": atlases.get(first.get(comparison.baseline, "")),
        "group": group,
        "group_atlas": atlases.get(first.get(group, "")),
    }


def _first_other(comparison: Comparison) -> str:
    """The group that splits were looked for in, where an older file does not say."""
    others = comparison.held_against().values()
    return next((saes[0].group for saes in others), "")


def _rounded(plain: Any) -> Any:
    """Without digits that nobody sees, which would be half of the file."""
    if isinstance(plain, float):
        return float(f"{plain:.{_DIGITS}g}")
    if isinstance(plain, dict):
        return {key: _rounded(value) for key, value in plain.items()}
    return [_rounded(value) for value in plain] if isinstance(plain, list) else plain
