"""Which SAEs are compared, what they are called, and whether they can be compared at all."""

from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sae_lens_meta.evaluation.measured_on import DEFAULTS, NEEDED
from sae_lens_meta.saved import SavedSAE

Role = Literal["joint", "solo", "solo_equal_l2"]
# what a joint variant is called by, where its SAEs record it
_SHOWN = {
    "decomposability_coefficient": "lambda_2",
    "decomposability_bandwidth": "sigma^2",
    "meta_lr": "meta_lr",
}


@dataclass
class Entry:
    """
    An SAE to compare.

    Attributes:
        id: what its counts are kept under.
        name: the end of its path, as long as it takes to tell it from the others.
        path: as it was given.
        role: see `ComparedSAE`.
    """

    id: str
    name: str
    path: Path
    role: Role

    @cached_property
    def saved(self) -> SavedSAE:
        """What it records."""
        return SavedSAE.read(self.path)


def named_entries(roles: dict[Role, list[Path]]) -> list[Entry]:
    """
    The SAEs in `roles`, named.

    Raises:
        ValueError: if a path stands twice, or there is no joint or no solo SAE.
    """
    for role in ("joint", "solo"):
        if not roles.get(role):
            raise ValueError(f"There is no {role} SAE to compare. Give at least one.")
    given: list[tuple[Role, Path]] = [
        (role, path) for role, paths in roles.items() for path in paths
    ]
    parts = [path.resolve().parts[1:] for _, path in given]
    if repeated := {"/".join(p) for p in parts if parts.count(p) > 1}:
        raise ValueError(f"Given more than once: {', '.join(sorted(repeated))}.")
    length = 1
    while len({p[-length:] for p in parts}) < len(parts):
        length += 1
    return [
        Entry(f"sae_{i}", "/".join(parts[i][-length:]), path, role)
        for i, (role, path) in enumerate(given)
    ]


def check_comparable(saes: dict[str, SavedSAE], given: Set[str] = frozenset()) -> None:
    """
    Checks that all SAEs read the same activations.

    Args:
        saes: by what they are called.
        given: settings that an option gives for all, in which their records may differ.

    Raises:
        ValueError: naming the first that differs from the first of all, and in what.
    """
    first, *others = saes
    for name in others:
        for what, get in _MUST_AGREE.items():
            mine, theirs = get(saes[name]), get(saes[first])
            if mine != theirs and what not in given:
                option = f" or give --{what} for all" if what in NEEDED else ""
                raise ValueError(
                    f"{name!r} and {first!r} cannot be compared: their {what} are {mine!r} and "
                    f"{theirs!r}. Compare SAEs that read the same activations{option}."
                )


def _or_default(name: str) -> Callable[[SavedSAE], Any]:
    def get(sae: SavedSAE) -> Any:
        recorded = getattr(sae.reading, name)
        return getattr(DEFAULTS, name) if recorded is None else recorded

    return get


_MUST_AGREE: dict[str, Callable[[SavedSAE], Any]] = {
    "d_in": lambda sae: sae.d_in,
    # two names of one activation
    "hook": lambda sae: sae.reading.transformer_lens_hook or sae.reading.hook,
    "head": lambda sae: sae.reading.head,
    "model": lambda sae: sae.reading.model_file or sae.reading.model,
    "context_size": lambda sae: sae.reading.context_size,
    "prepend_bos": lambda sae: sae.reading.prepend_bos,
    **{
        name: _or_default(name)
        for name in ("exclude_special_tokens", "concatenate", "separator", "chat")
    },
    "seqpos_slice": lambda sae: slice(*(sae.reading.seqpos_slice or (None,))),
}


def variants(entries: list[Entry], saes: dict[str, SavedSAE]) -> dict[str, str]:
    """
    The variant of each SAE, by its id: SAEs of one differ by their seed alone.

    That of a joint SAE is called by its penalty, and by whatever else it differs in from
    the other joint ones.

    Raises:
        ValueError: if solo SAEs, or the controls, differ in more than their seed.
    """
    settings = {entry.id: _settings(saes[entry.id]) for entry in entries}
    found: dict[str, str] = {}
    for role in ("solo", "solo_equal_l2", "joint"):
        ids = [entry.id for entry in entries if entry.role == role]
        differing = _differing([settings[i] for i in ids])
        if role != "joint" and differing:
            raise ValueError(
                f"The {role} SAEs are not seeds of one setting: they differ in "
                f"{', '.join(differing)}. Compare each setting by itself."
            )
        shown = {**_SHOWN, **{key: key for key in differing if key not in _SHOWN}}
        for i in ids:
            values = [
                f"{v} {settings[i][k]}" for k, v in shown.items() if k in settings[i]
            ]
            found[i] = ", ".join([role, *values]) if role == "joint" else role
    return found


def _settings(sae: SavedSAE) -> dict[str, Any]:
    settings = {key: value for key, value in sae.settings.items() if key != "init_seed"}
    return {"d_sae": sae.d_sae, **settings}


def _differing(settings: list[dict[str, Any]]) -> list[str]:
    keys = {key: None for one in settings for key in one}
    return [k for k in keys if any(s.get(k) != settings[0].get(k) for s in settings)]
