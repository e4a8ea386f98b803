"""Which SAEs are compared, what they are called, and whether they can be compared at all."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sae_lens_meta.saved import SavedSAE, short_names

# groups whose members must have been trained as their names say
JOINT, SOLO, EQUAL_L2 = "joint", "solo", "solo_equal_l2"
# settings that SAEs were trained with before there was a choice
_BEFORE = {"penalty": "decomposability", "resample_every": 0, "k_anneal_steps": 0}
# what a variant of joint SAEs is called by, where they record it: the paper's penalty, and others
_SHOWN = {
    "decomposability_coefficient": "lambda_2",
    "decomposability_bandwidth": "sigma^2",
    "meta_lr": "meta_lr",
}
_SHOWN_OF_OTHERS = {"penalty": "penalty", "decomposability_coefficient": "lambda"}


@dataclass
class Entry:
    """
    An SAE to compare.

    Attributes:
        id: what its counts are kept under.
        name: the end of its path, as long as it takes to tell it from the others.
        path: as it was given.
        group: whose member it is.
    """

    id: str
    name: str
    path: Path
    group: str

    @cached_property
    def saved(self) -> SavedSAE:
        """What it records."""
        return SavedSAE.read(self.path)


def named_entries(groups: dict[str, list[Path]], baseline: str) -> list[Entry]:
    """
    The SAEs in `groups`, named.

    Raises:
        ValueError: if a path stands twice, or there is no SAE in the baseline or in no other group.
    """
    others = [name for name in groups if name not in (baseline, EQUAL_L2)]
    for name, paths in [
        (baseline, groups.get(baseline)),
        (", ".join(others) or JOINT, any(groups[other] for other in others)),
    ]:
        if not paths:
            raise ValueError(f"There is no {name} SAE to compare. Give at least one.")
    given = [(group, path) for group, paths in groups.items() for path in paths]
    names = short_names([path for _, path in given])
    return [
        Entry(f"sae_{i}", name, path, group)
        for i, (name, (group, path)) in enumerate(zip(names, given, strict=True))
    ]


def variants(
    entries: list[Entry], saes: dict[str, SavedSAE], fixed: set[str | None]
) -> dict[str, str]:
    """
    The variant of each SAE, by its id: SAEs of one differ by their seed alone.

    A group of one setting is a variant. A joint one is called by its penalty as well, and one of
    several settings by whatever they differ in.

    Args:
        entries: the SAEs to compare.
        saes: what each of them records, by its id.
        fixed: groups that must be of one setting: the baseline and its control.

    Raises:
        ValueError: if SAEs of those differ in more than their seed.
    """
    settings = {entry.id: _settings(saes[entry.id]) for entry in entries}
    found: dict[str, str] = {}
    for group in dict.fromkeys(entry.group for entry in entries):
        ids = [entry.id for entry in entries if entry.group == group]
        differing = _differing([settings[i] for i in ids])
        if group in fixed and differing:
            raise ValueError(
                f"The {group} SAEs are not seeds of one setting: they differ in "
                f"{', '.join(differing)}. Compare each setting by itself."
            )
        for i in ids:
            shown = {}
            if group == JOINT and group not in fixed:
                is_papers = settings[i]["penalty"] == _BEFORE["penalty"]
                shown = _SHOWN if is_papers else _SHOWN_OF_OTHERS
            shown = shown | {key: key for key in differing if key not in shown}
            values = [
                f"{v} {settings[i][k]}" for k, v in shown.items() if k in settings[i]
            ]
            found[i] = ", ".join([group, *values])
    return found


def _settings(sae: SavedSAE) -> dict[str, Any]:
    settings = {key: value for key, value in sae.settings.items() if key != "init_seed"}
    return {"d_sae": sae.d_sae, **_BEFORE, **settings}


def _differing(settings: list[dict[str, Any]]) -> list[str]:
    keys = {key: None for one in settings for key in one}
    return [k for k in keys if any(s.get(k) != settings[0].get(k) for s in settings)]
