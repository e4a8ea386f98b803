"""What a comparison has attached to it, as the report and the card show it."""

from pydantic import TypeAdapter

from sae_lens_meta.autointerp.results import AutointerpSummary
from sae_lens_meta.comparison.result import Comparison

AUTOINTERP = "autointerp"


def scores_of(comparison: Comparison) -> AutointerpSummary | None:
    """A judge's scores; None where none was asked."""
    extra = comparison.extras.get(AUTOINTERP)
    return extra and TypeAdapter(AutointerpSummary).validate_python(extra.data)
