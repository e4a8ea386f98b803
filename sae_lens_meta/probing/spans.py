"""
Labels that a text has on some of its characters, brought to the tokens that a model reads.

A labelled text is a .jsonl file, a document a line: {"text": ..., "spans": [{"start": 0, "end": 3,
"label": "noun/proper noun"}, ...]}, `start` and `end` being characters, the end excluded. A label
holds on the last token that has a character of its span, where the model has read all of it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sae_lens_meta.probing.tokens import TextTokens


@dataclass(frozen=True)
class Span:
    """A label on the characters from `start` to `end`, the latter excluded."""

    start: int
    end: int
    label: str


def check_span(given: Any, text: str) -> Span:
    """
    A span of the document `text`.

    Raises:
        ValueError: if it is none, or lies outside the text.
    """
    where = f"Span {given!r} of {_beginning(text)}"
    if not isinstance(given, dict) or not {"start", "end", "label"} <= given.keys():
        raise ValueError(f'{where} must be {{"start": 0, "end": 3, "label": "noun"}}.')
    start, end, label = given["start"], given["end"], given["label"]
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"{where} has no name for a label.")
    whole = type(start) is int and type(end) is int
    if not whole or not 0 <= start < end <= len(text):
        raise ValueError(
            f"{where} lies outside its text of {len(text)} characters, or is empty: start must be "
            "at least 0 and below end, and end at most the length, both whole numbers."
        )
    return Span(start, end, label)


def places_of_spans(
    spans: list[list[Span]], tokens: TextTokens
) -> dict[str, list[int]]:
    """
    The places of the tokens that each label holds on.

    Args:
        spans: of each document.
        tokens: of the same documents.

    Raises:
        ValueError: if a span has no token, or most of them begin or end inside a word's.
    """
    found: dict[str, list[int]] = {}
    n_spans, cut = 0, []
    bounds = np.searchsorted(tokens.document, np.arange(len(tokens.texts) + 1))
    for document, of_document in enumerate(spans):
        first, after = bounds[document], bounds[document + 1]
        starts, ends = tokens.starts[first:after], tokens.ends[first:after]
        for span in of_document:
            last = int(np.searchsorted(starts, span.end)) - 1
            if last < 0 or ends[last] <= span.start:
                whole = tokens.texts[document]
                raise ValueError(
                    f"{span} of {_beginning(whole)} is on {whole[span.start : span.end]!r}, which no "
                    "token has a character of. Leave the span out, or move it to a word."
                )
            n_spans += 1
            text = tokens.texts[document]
            begins = int(starts[np.searchsorted(ends, span.start, side="right")])
            outside = text[begins : span.start] + text[span.end : ends[last]]
            # a space or a full stop may be of a word's token
            if any(map(str.isalnum, outside)):
                cut.append(f"{span} on {text[span.start : span.end]!r}")
            found.setdefault(span.label, []).append(int(first) + last)
    if 2 * len(cut) > n_spans:
        raise ValueError(
            f"{len(cut)} of {n_spans} spans begin or end inside a word's token, such as {cut[0]}: they do not "
            "align with this model's tokens. Are start and end counted in characters, and of this "
            "text?"
        )
    return found


def _beginning(text: str) -> str:
    """A document as its owner finds it: they are read in another order than the file's."""
    return f"the document that begins {text[:40]!r}"
