"""The comparison that a folder holds already: given again, refused, or replaced but for its extras."""

import warnings
from collections.abc import Iterable
from pathlib import Path

from sae_lens_meta.comparison.members import Entry
from sae_lens_meta.comparison.result import Comparison, Extra


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


def extras_to_keep(path: Path, entries: Iterable[Entry]) -> dict[str, Extra]:
    """
    What is attached to the comparison in the file `path`, where the new one is of the same weights.

    What cannot be kept is named in a warning.
    """
    found = _readable(path) if path.exists() else None
    extras = found.extras if found else {}
    new = {entry.name: entry.saved.weights_sha256 for entry in entries}
    kept = {}
    for name, extra in extras.items():
        lost = [sae for sae, sha256 in extra.weights.items() if new.get(sae) != sha256]
        if not lost:
            kept[name] = extra
            continue
        warnings.warn(
            f"Of {path}, {extra.called} are dropped: they are of {', '.join(lost)} with weights "
            f"that are compared no more. `sae-lens-meta {name} --comparison` adds new ones.",
            stacklevel=3,
        )
    return kept


def _readable(path: Path) -> Comparison | None:
    try:
        return Comparison.load(path)
    except ValueError:  # of another version, or damaged
        return None
