"""The comparison that a folder holds already: given again, refused, or replaced but for its scores."""

import warnings
from collections.abc import Iterable
from pathlib import Path

from sae_lens_meta.evaluation.autointerp.results import AutointerpSummary
from sae_lens_meta.evaluation.comparison import Comparison
from sae_lens_meta.evaluation.entries import Entry


def made_before(
    path: Path, fingerprint: str, min_fired: int, overwrite: bool
) -> Comparison | None:
    """
    The comparison in the file `path`, if it is the one that is asked for; a warning says so.

    Args:
        path: of a comparison.json, which need not exist.
        fingerprint: of the comparison that is asked for.
        min_fired: likewise.
        overwrite: whether to make it anew, whatever is there.

    Raises:
        ValueError: if it is another one.
    """
    if overwrite or not path.exists():
        return None
    found = _readable(path)
    if found is None or (found.fingerprint, found.settings.get("min_fired")) != (
        fingerprint,
        min_fired,
    ):
        raise ValueError(
            f"{path} holds a comparison of other SAEs, text or settings, or of another version. "
            "Give another --output, or --overwrite to replace it."
        )
    warnings.warn(
        f"{path} holds this comparison already, made {found.created}. Nothing was measured; "
        "--overwrite measures again.",
        stacklevel=3,
    )
    return found


def scores_to_keep(path: Path, entries: Iterable[Entry]) -> AutointerpSummary | None:
    """
    The judge's scores in the file `path`, if the new comparison is of the same weights.

    Scores that cannot be kept are named in a warning.
    """
    found = _readable(path) if path.exists() else None
    if found is None or found.autointerp is None:
        return None
    new = {entry.name: entry.saved.weights_sha256 for entry in entries}
    judged = [sae for sae in found.saes if sae.name in found.autointerp.means]
    lost = [sae.name for sae in judged if new.get(sae.name) != sae.weights_sha256]
    if not lost:
        return found.autointerp
    warnings.warn(
        f"The scores of the judge {found.autointerp.judge!r} in {path} are dropped: they are of "
        f"{', '.join(lost)} with weights that are compared no more. `sae-lens-meta autointerp "
        "--comparison` adds new ones.",
        stacklevel=3,
    )
    return None


def _readable(path: Path) -> Comparison | None:
    try:
        return Comparison.load(path)
    except ValueError:  # of another version, or damaged
        return None
