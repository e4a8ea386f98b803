"""
Data inside a page: blocks of gzipped JSON that a browser unpacks one by one, when they are needed.

A block is in base64, so that nothing in it can be taken for markup.
"""

import gzip
import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def packed(data: Any) -> str:
    """
    `data` as a block; equal data give equal blocks.

    Raises:
        ValueError: if it has a number that is not finite, which JSON has not.
    """
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # a lone half of a surrogate pair, which a token may be, has no place in UTF-8
    return b64encode(gzip.compress(text.encode("utf-8", "replace"), mtime=0)).decode()


def script(name: str, data: Any) -> str:
    """The element that holds a block; `name` is letters, digits and dashes."""
    return (
        f'<script type="application/octet-stream" data-block="{name}">'
        f"{packed(data)}</script>\n"
    )


def chunked(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """`size` at a time."""
    for first in range(0, len(items), size):
        yield items[first : first + size]


def rounded(value: float, digits: int = 3) -> float:
    """To so many significant digits: what a page shows, and no more bytes than that."""
    return float(f"{value:.{digits}g}")
