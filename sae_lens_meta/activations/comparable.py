"""Whether SAEs read the same activations, so that their figures can stand side by side."""

from collections.abc import Callable, Set
from typing import Any

from sae_lens_meta.activations.measured_on import NEEDED, OFF
from sae_lens_meta.saved import SavedSAE


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
            if what in _WHERE_RECORDED and None in (mine, theirs):
                continue
            if mine != theirs and _WHERE_RECORDED.get(what, what) not in given:
                option = f" or give --{what} for all" if what in NEEDED else ""
                raise ValueError(
                    f"{name!r} and {first!r} cannot be compared: their {what} are {mine!r} and "
                    f"{theirs!r}. Compare SAEs that read the same activations{option}."
                )


def _or_off(name: str) -> Callable[[SavedSAE], Any]:
    def get(sae: SavedSAE) -> Any:
        recorded = getattr(sae.reading, name)
        return getattr(OFF, name) if recorded is None else recorded

    return get


_MUST_AGREE: dict[str, Callable[[SavedSAE], Any]] = {
    "d_in": lambda sae: sae.d_in,
    # two names of one activation
    "hook": lambda sae: sae.reading.transformer_lens_hook or sae.reading.hook,
    "head": lambda sae: sae.reading.head,
    "model": lambda sae: sae.reading.model_file or sae.reading.model,
    "model_file_sha256": lambda sae: sae.reading.model_file_sha256,
    "model_class": lambda sae: sae.reading.model_class,
    "context_size": lambda sae: sae.reading.context_size,
    "prepend_bos": lambda sae: sae.reading.prepend_bos,
    "exclude_special_tokens": lambda sae: sae.reading.exclude_special_tokens,
    "concatenate": lambda sae: sae.reading.concatenate,
    "separator": lambda sae: sae.reading.separator,
    "seqpos_slice": lambda sae: (
        sae.reading.seqpos_slice and slice(*sae.reading.seqpos_slice)
    ),
    "model_kwargs": _or_off("model_kwargs"),
    "chat": _or_off("chat"),
    "autocast_lm": _or_off("autocast_lm"),
}

# not recorded by older SAEs; and the option that gives it for all
_WHERE_RECORDED = {"model_file_sha256": "model"}
