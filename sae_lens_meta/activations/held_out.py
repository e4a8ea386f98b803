"""Which documents an SAE is measured on, and what is known of whether it has seen them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from datasets import Dataset, IterableDataset

from sae_lens_meta.activations.text import (
    TextIdentity,
    after,
    is_read_as_text,
    load_text,
    order_of,
    text_identity,
    texts,
)
from sae_lens_meta.saved import Calibration, SavedSAE, TrainingText

DOCUMENTS = 12  # to read where the SAE records none that were held out
TEXT_SEED = 42

Seen = Literal["held out", "other text", "not recorded", "seen"]
SAID: dict[Seen, str] = {
    "held out": "tokens held out from training",
    "other text": "tokens of another text than the training's",
    "not recorded": "tokens; whether training saw them is not recorded",
    "seen": "tokens of the training's own text",
}
"""What a table's title says of its tokens, worst last."""


@dataclass(frozen=True)
class Documents:
    """
    Some documents of a text.

    Attributes:
        text: by its content.
        first: document, in the order of `seed`.
        number: of documents.
        seed: of the order of documents; None where they stay in their own (`order_of`).
    """

    text: TextIdentity
    first: int
    number: int
    seed: int | None

    @property
    def end(self) -> int:
        """The document after the last."""
        return self.first + self.number


def loaded(
    name: str, documents: Documents
) -> tuple[Dataset | IterableDataset, Dataset]:
    """The documents after these, and these, of the text `name`."""
    seed = 0 if documents.seed is None else documents.seed
    return load_text(name, documents.number, seed, documents.first)


def seen_by(sae: SavedSAE, documents: Documents) -> Seen:
    """Whether the training of `sae` read `documents`, as far as is recorded."""
    text = sae.text
    if text is None:
        return "not recorded"
    is_same = _is_text_of(text, documents.text)
    if is_same is None:
        return "not recorded"
    if not is_same:
        return "other text"
    is_kept = text.held_out is not None and documents.end <= text.held_out
    return "held out" if is_kept and text.seed == documents.seed else "seen"


def worst(seen: Sequence[Seen]) -> Seen:
    """What may be said of several SAEs together."""
    return max(seen, key=list(SAID).index)


def overlaps(calibration: Calibration | None, documents: Documents) -> bool | None:
    """Whether thresholds were taken on some of `documents`; None where that is not recorded."""
    if calibration is None:
        return False
    text = documents.text
    if calibration.text_sha256 is None:
        return None
    if calibration.text_sha256 not in (text.sha256, text.first_sha256):
        # of the rest of a text that is not read to its end nothing is known
        return False if text.is_whole else None
    if calibration.text_seed != documents.seed:
        return None
    first, number = calibration.first_document, calibration.documents
    assert first is not None and number is not None
    return first < documents.end and documents.first < first + number


def default_documents(
    saes: Sequence[SavedSAE], text: TextIdentity, to_calibrate: bool
) -> Documents:
    """
    The documents to read where none are asked for: those held out from training.

    Thresholds are taken on their second half, and figures on all of them, or on those before
    or after the ones that thresholds were taken on.

    Raises:
        ValueError: if the SAEs record held-out documents of different orders, or thresholds
            were taken on all of them.
    """
    held_out = {
        (sae.text.held_out, sae.text.seed)
        for sae in saes
        if sae.text and sae.text.held_out and _is_text_of(sae.text, text)
    }
    if len({seed for _, seed in held_out}) > 1:
        raise ValueError(
            "The SAEs were trained on different orders of the same text, so that no documents "
            "were kept from all of them. Give another --dataset, or --held_out_documents, "
            "--first_document and --text_seed."
        )
    number = min((n for n, _ in held_out if n), default=DOCUMENTS)
    seed = next((s for _, s in held_out if s is not None), TEXT_SEED)
    seed = order_of(text.name, seed)
    if to_calibrate:
        return Documents(text, number // 2, number - number // 2, seed)
    taken = [
        (c.first_document or 0, c.documents or 0)
        for sae in saes
        if (c := sae.calibration)
        and c.text_sha256 == text.sha256
        and c.text_seed == seed
    ]
    before = min((first for first, _ in taken), default=number)
    after = max((first + n for first, n in taken), default=0)
    if before > 0:
        return Documents(text, 0, min(before, number), seed)
    if after < number:
        return Documents(text, after, number - after, seed)
    if not held_out:  # nobody trained on this text: its next documents are as good
        return Documents(text, after, number, seed)
    raise ValueError(
        f"Thresholds were taken on all {number} documents that were held out of {text.name!r}. "
        "Measure on others: give --dataset, or --first_document and --held_out_documents."
    )


def n_repeated(name: str, documents: Documents, held_out: int) -> int:
    """
    How many of `documents` stand again behind the first `held_out`, where a training reads.

    Of a dataset on the Hub, which is not read to its end, none are looked for.
    """
    rest, kept = loaded(name, documents)
    if not isinstance(rest, Dataset) or not is_read_as_text(rest):
        return 0
    trained_on = after(rest, held_out - documents.end)
    wanted = set(kept["text"])
    found = {text for text in texts(trained_on) if text in wanted}
    return sum(text in found for text in kept["text"])


def _is_text_of(training: TrainingText, text: TextIdentity) -> bool | None:
    """Whether an SAE was trained on `text`; None where that cannot be told."""
    if training.sha256 is not None:
        if training.sha256 in (text.sha256, text.first_sha256):
            return True
        # of the rest of a text that is not read to its end nothing is known
        return False if text.is_whole else None
    if Path(training.name).exists() and text_identity(training.name) == replace(
        text, name=training.name
    ):
        return True  # another one may have been changed since
    # recorded by its name alone, which says something only where it is the same
    return True if Path(training.name).name == Path(text.name).name else None
