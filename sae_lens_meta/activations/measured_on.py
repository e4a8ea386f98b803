"""What figures are taken on: as an SAE records it, and as it was asked for in its place."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from sae_lens_meta.activations.held_out import (
    DOCUMENTS,
    SAID,
    TEXT_SEED,
    Documents,
    Seen,
    default_documents,
    n_repeated,
    overlaps,
    seen_by,
    worst,
)
from sae_lens_meta.activations.language_model import is_same_model
from sae_lens_meta.activations.text import PYDOC, order_of, text_identity
from sae_lens_meta.saved import Reading, SavedSAE

# of settings that SAELens records nowhere while they are empty or off
OFF = Reading(model_kwargs={}, chat=False, autocast_lm=False)
EVERY_TOKEN = "every token"
NEEDED = (
    "model",
    "model_class",
    "hook",
    "context_size",
    "prepend_bos",
    "exclude_special_tokens",
    "concatenate",
    "separator",
    "seqpos_slice",
)
# SAELens's own, of those that it has not always recorded
_USUAL = {
    "exclude_special_tokens": "False",
    "concatenate": "True",
    "separator": "bos",
    "seqpos_slice": ":",
}


@dataclass
class SourceConfig:
    """
    The language model and the text that an SAE is measured on.

    What is not given is taken from what the SAE records; what is given goes before it, and the
    output says so.

    Args:
        model (str | None): `smollm2`, the path of a GGUF file, or a model that SAELens loads.
        model_class (str | None): AutoModelForCausalLM or HookedTransformer.
        hook (str | None): Hook whose activations are read, by either of its names.
        context_size (int | None): Tokens of one context of the language model.
        prepend_bos (bool | None): Whether every context begins with a BOS token.
        exclude_special_tokens (bool | None): Whether the SAE reads no special tokens.
        concatenate (bool | None): Whether documents are joined to fill contexts.
        separator (str | None): What stands between documents that are joined: bos, eos, sep or
            none.
        seqpos_slice (str | None): Positions of a context that the SAE reads, as a slice: `:` for
            all, `1:` for all but the first.
        dataset (str): `pydoc`, a file of text, or a dataset on the Hub.
        held_out_documents (int | None): Documents to read; by default those that the SAE records
            as kept from its training, without those that its thresholds were taken on.
        first_document (int | None): Documents to pass over before them, for instance those that
            another training has read.
        text_seed (int | None): Seed of the order of the documents of `pydoc` and of a file.
        tokens (int): Tokens to read, as far as the documents go.
        device (str): Device of the model and the SAE.
    """

    model: str | None = None
    model_class: str | None = None
    hook: str | None = None
    context_size: int | None = None
    prepend_bos: bool | None = None
    exclude_special_tokens: bool | None = None
    concatenate: bool | None = None
    separator: Literal["bos", "eos", "sep", "none"] | None = None
    seqpos_slice: str | None = None
    dataset: str = PYDOC
    held_out_documents: int | None = None
    first_document: int | None = None
    text_seed: int | None = None
    tokens: int = 20_000
    device: str = "cpu"


@dataclass
class MeasuredOn:
    """
    What figures were taken on, as it stands in their JSON.

    Attributes:
        model: that was loaded.
        model_class: of it.
        hook: whose activations were read, by its name in that model.
        head: of a hook with several.
        context_size: tokens.
        prepend_bos: whether every context began with a BOS token.
        exclude_special_tokens: whether special tokens, or which ids, were left out.
        concatenate: whether documents were joined to fill a context.
        separator: between them.
        seqpos_slice: positions of a context that were read.
        dataset: as it was given.
        text_sha256: of its documents, `text_identity`.
        first_document, held_out_documents, text_seed: which of them.
        tokens: asked for.
        token_set: that all figures are of, in words.
        seen: whether training saw them, as far as is recorded; of several SAEs the worst.
        overridden: what was given in the place of what is recorded, in words.
        options: the same, by option.
        assumed: what was neither given nor recorded of the text, in words.
        warnings: what the reader must know.
    """

    model: str
    model_class: str
    hook: str
    head: int | None
    context_size: int
    prepend_bos: bool
    exclude_special_tokens: bool | list[int]
    concatenate: bool
    separator: int | str
    seqpos_slice: list[int | None]
    dataset: str
    text_sha256: str
    first_document: int
    held_out_documents: int
    text_seed: int | None
    tokens: int
    token_set: str
    seen: Seen
    overridden: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def said(self) -> str:
        """What a table's title says of its tokens."""
        return f"{SAID[self.seen]}, {self.token_set}"

    @property
    def text(self) -> dict[str, Any]:
        """What thresholds that are taken on it record."""
        return {
            "name": Path(self.dataset).name,
            "sha256": self.text_sha256,
            "first_document": self.first_document,
            "documents": self.held_out_documents,
            "text_seed": self.text_seed,
        }

    @property
    def notes(self) -> list[str]:
        """How it was read otherwise than recorded, a sentence each."""
        notes = [f"Read with {what}." for what in self.overridden]
        if self.assumed:
            notes.append(f"Assumed, since not recorded: {', '.join(self.assumed)}.")
        return notes


def completed(cfg: SourceConfig, recorded: Reading) -> tuple[Reading, dict[str, Any]]:
    """
    How to read, completely: as given, else as recorded.

    Returns:
        That; and what was given in the place of something recorded.

    Raises:
        ValueError: naming the options that are needed, or if `seqpos_slice` is no slice.
    """
    given = {
        f.name: value
        for f in fields(Reading)
        if (value := getattr(cfg, f.name, None)) is not None
    }
    if "seqpos_slice" in given:
        given["seqpos_slice"] = _bounds(given["seqpos_slice"])
    reading = replace(recorded, **given)
    if "model" in given and is_same_model(given["model"], recorded):
        del given["model"]
    overridden = {
        name: value
        for name, value in given.items()
        if getattr(recorded, name) not in (None, value)
    }
    if "model" in given:
        # of another model neither its file nor its options are those of the recorded one
        reading = replace(
            reading, model_on_the_hub=None, model_file=None, model_file_sha256=None
        )
    if reading.model_class not in (None, recorded.model_class):
        reading = replace(reading, model_kwargs=None)
    check_whole(reading)
    off = {name: value for name, value in vars(OFF).items() if value is not None}
    unsaid = {name: off[name] for name in off if getattr(reading, name) is None}
    return replace(reading, **unsaid), overridden


def check_whole(reading: Reading) -> None:
    """
    Checks that `reading` says all that is needed to read activations.

    Raises:
        ValueError: naming the options that give the rest, or if its positions take nothing of a
            context.
    """
    missing = [name for name in NEEDED if getattr(reading, name) is None]
    if missing:
        options = " ".join(f"--{name}" for name in missing)
        usual = " ".join(f"--{n} {_USUAL[n]}" for n in missing if n in _USUAL)
        hint = f" An SAE of SAELens's defaults has {usual}." if usual else ""
        raise ValueError(
            f"The SAE does not record the {', '.join(missing)} that it reads. Give {options}.{hint}"
        )
    assert reading.context_size is not None and reading.seqpos_slice is not None
    positions = slice(*reading.seqpos_slice)
    goes_back = positions.step is not None and positions.step < 0  # torch has no such
    if goes_back or not range(reading.context_size)[positions]:
        raise ValueError(
            f"seqpos_slice {written(positions)} takes nothing of a context of "
            f"{reading.context_size} tokens. Give another --seqpos_slice, or --context_size."
        )


def written(positions: slice) -> str:
    """A slice as it is written in Python."""
    bounds = [positions.start, positions.stop]
    bounds += [] if positions.step is None else [positions.step]
    return ":".join("" if bound is None else str(bound) for bound in bounds)


def _bounds(positions: str) -> tuple[int | None, ...]:
    """The bounds of a slice that is written as in Python, `(None,)` for `:`."""
    try:
        first, *others = [
            int(bound) if bound else None for bound in positions.split(":")
        ]
        slice(first, others[0], *others[1:]).indices(1)
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(
            f"seqpos_slice {positions!r} is no slice. Write it as in Python, 1: for all positions "
            "but the first."
        ) from error
    return (first, *others) if {first, *others} != {None} else (None,)


def in_place_of(options: dict[str, Any], recorded: Reading) -> list[str]:
    """What was given in the place of what is recorded, in words."""
    return [
        f"--{name} {value} in the place of the recorded {getattr(recorded, name)!r}"
        for name, value in options.items()
    ]


def repeated_documents(
    name: str, documents: Documents, saes: Sequence[SavedSAE]
) -> list[str]:
    """A warning where documents that are kept from a training stand in its text once more."""
    kept = [
        sae.text.held_out
        for sae in saes
        if sae.text and sae.text.held_out and seen_by(sae, documents) == "held out"
    ]
    n = n_repeated(name, documents, min(kept)) if kept else 0
    if not n:
        return []
    return [
        f"{n} of the {documents.number} documents stand in the training's part of {name!r} "
        "too: what is held out was partly trained on. Remove repeated documents from the text."
    ]


def documents_of(
    cfg: SourceConfig, saes: Sequence[SavedSAE], to_calibrate: bool
) -> Documents:
    """The documents that are asked for, or else `default_documents`."""
    text = text_identity(cfg.dataset)
    asked = (cfg.held_out_documents, cfg.first_document, cfg.text_seed)
    if asked == (None, None, None):
        return default_documents(saes, text, to_calibrate)
    usual = (DOCUMENTS, 0, TEXT_SEED)
    number, first, seed = (
        default if given is None else given
        for given, default in zip(asked, usual, strict=True)
    )
    return Documents(text, first, number, order_of(cfg.dataset, seed))


def assumed_documents(
    cfg: SourceConfig, documents: Documents, saes: Sequence[SavedSAE]
) -> list[str]:
    """Which documents are read, in words, where they are neither given nor recorded as held out."""
    is_given = cfg.held_out_documents is not None or cfg.first_document is not None
    if is_given or any(seen_by(sae, documents) == "held out" for sae in saes):
        return []
    return [
        f"documents {documents.first + 1} to {documents.end} of {cfg.dataset!r} "
        "(--first_document and --held_out_documents give others)"
    ]


def described(
    cfg: SourceConfig,
    reading: Reading,
    documents: Documents,
    saes: Sequence[SavedSAE],
    to_calibrate: bool,
) -> MeasuredOn:
    """What `saes` are measured on, or calibrated, when `documents` are read."""
    plain: dict[str, Any] = {
        f.name: getattr(reading, f.name)
        for f in fields(MeasuredOn)
        if hasattr(reading, f.name)
    }
    excluded = reading.exclude_special_tokens
    plain["exclude_special_tokens"] = (
        list(excluded) if isinstance(excluded, tuple) else excluded
    )
    plain["seqpos_slice"] = list(reading.seqpos_slice or ())
    seen = worst([seen_by(sae, documents) for sae in saes])
    warnings = list(_of_training(cfg, seen))
    if not to_calibrate:  # which takes others in the place of those that there are
        warnings += _of_thresholds(documents, saes)
    return MeasuredOn(
        **plain,
        dataset=cfg.dataset,
        text_sha256=documents.text.sha256,
        first_document=documents.first,
        held_out_documents=documents.number,
        text_seed=documents.seed,
        tokens=cfg.tokens,
        token_set=_token_set(reading),
        seen=seen,
        warnings=warnings,
    )


def _token_set(reading: Reading) -> str:
    excluded = reading.exclude_special_tokens
    words = EVERY_TOKEN
    if excluded is True:
        words = "without special tokens"
    elif excluded:
        words = f"without the tokens {', '.join(map(str, excluded))}"
    positions = slice(*(reading.seqpos_slice or (None,)))
    if positions != slice(None):
        words += f" at the positions {written(positions)} of a context"
    return words


def _of_training(cfg: SourceConfig, seen: Seen) -> Iterator[str]:
    if seen == "seen":
        yield (
            f"An SAE was trained on the text of {cfg.dataset!r} too, and does not record that "
            "these documents were kept from its training."
        )


def _of_thresholds(documents: Documents, saes: Sequence[SavedSAE]) -> Iterator[str]:
    found = [overlaps(sae.calibration, documents) for sae in saes]
    if any(found):
        yield (
            "Thresholds were taken on some of these documents: L0, L2 and firing rates are "
            "not those of text that is new to them."
        )
    elif None in found:
        yield (
            "What is recorded of an SAE's thresholds does not tell whether they were taken on "
            "some of these documents. Calibrate it again."
        )
