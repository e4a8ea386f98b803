"""Whether SAEs can stand side by side: each with weights of its own, all thresholds taken in one way."""

from collections import defaultdict
from collections.abc import Iterable

from sae_lens_meta.saved import SavedSAE


def check_evidence(saes: Iterable[tuple[str, SavedSAE]]) -> None:
    """
    Checks that each SAE is evidence of its own, and that no figure is moved by its thresholds.

    Args:
        saes: what they are called, and what each of them records.

    Raises:
        ValueError: if two have the same weights, or their thresholds were not taken in one way.
    """
    given = list(saes)
    by_weights = defaultdict(list)
    for name, sae in given:
        by_weights[sae.tensors_sha256].append(name)
    for names in by_weights.values():
        if len(names) > 1:
            raise ValueError(
                f"{' and '.join(map(repr, names))} have the same weights: one SAE is one piece "
                "of evidence, however often it was saved. Leave out all but one."
            )
    ways = {name: calibrated(sae) for name, sae in given}
    if len(set(ways.values())) > 1:
        listed = "; ".join(f"{name}: {how}" for name, how in ways.items())
        raise ValueError(
            f"The thresholds were not taken in one way ({listed}), which moves L0 and with it "
            "every figure. Run `sae-lens-meta calibrate` on all of them, with the same options."
        )


def calibrated(sae: SavedSAE) -> str:
    """How its thresholds were taken, in words."""
    if sae.calibration is None:
        return "not calibrated"
    how = f"calibrated by the rule {sae.calibration.rule!r}"
    k, trained_with = sae.calibration.k, sae.settings.get("k")
    if k is not None and trained_with is None:
        how += f" at k {k:g}"
    elif k is not None and k != trained_with:
        how += f" at k {k:g}, not the {trained_with:g} that it was trained with"
    if sae.calibration.overridden:
        options = sorted(sae.calibration.overridden.items())
        how += (
            f", read with {', '.join(f'--{name} {value}' for name, value in options)}"
        )
    return how
