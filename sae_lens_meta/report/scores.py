"""Attaches a judge's scores to a comparison."""

import warnings
from pathlib import Path

from pydantic import TypeAdapter

from sae_lens_meta.autointerp.results import (
    AutoInterpretation,
    AutointerpSummary,
    summarize,
)
from sae_lens_meta.comparison.result import Comparison, Extra
from sae_lens_meta.report.attached import AUTOINTERP, scores_of
from sae_lens_meta.report.report import write_report


def add_scores(found: AutoInterpretation, folder: Path) -> None:
    """
    Adds a judge's scores to the comparison.json in `folder` and writes its report anew.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it measured other SAEs.
    """
    comparison = Comparison.load(folder / "comparison.json")
    earlier = scores_of(comparison)
    if earlier and earlier.judge != found.judge:
        warnings.warn(
            f"The scores of the judge {earlier.judge!r} in {folder / 'comparison.json'} are "
            f"replaced by those of {found.judge!r}.",
            stacklevel=2,
        )
    names = {sae.weights_sha256: sae.name for sae in comparison.saes}
    comparison.extras[AUTOINTERP] = attached(summarize(found, names), comparison)
    comparison.save(folder)
    write_report(comparison, folder / "report.html")


def attached(summary: AutointerpSummary, comparison: Comparison) -> Extra:
    """The summary as a comparison keeps it."""
    weights = {sae.name: sae.weights_sha256 for sae in comparison.saes}
    return Extra(
        called=f"the scores of the judge {summary.judge!r}",
        weights={name: weights[name] for name in summary.means if name in weights},
        data=TypeAdapter(AutointerpSummary).dump_python(summary, mode="json"),
    )
