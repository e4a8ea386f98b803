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


def check_span(given: Any, text: str, document: int) -> Span:
    """
    A span of a labelled text.

    Raises:
        ValueError: if it is none, or lies outside the text.
    """
    where = f"Span {given!r} of document {document}"
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
        ValueError: if a span has no token.
    """
    found: dict[str, list[int]] = {}
    bounds = np.searchsorted(tokens.document, np.arange(len(tokens.texts) + 1))
    for document, of_document in enumerate(spans):
        first, after = bounds[document], bounds[document + 1]
        starts, ends = tokens.starts[first:after], tokens.ends[first:after]
        for span in of_document:
            last = int(np.searchsorted(starts, span.end)) - 1
            if last < 0 or ends[last] <= span.start:
                text = tokens.texts[document][span.start : span.end]
                raise ValueError(
                    f"{span} of document {document} is on {text!r}, which no token has a character "
                    "of. Leave the span out, or move it to a word."
                )
            found.setdefault(span.label, []).append(int(first) + last)
    return found
