"""How a token reads where it stands in a text."""

from collections.abc import Iterable
from typing import Any

STARTS_A_WORD = "▁"  # what SentencePiece has in the place of a space


def token_texts(tokenizer: Any, tokens: Iterable[int]) -> dict[int, str]:
    """
    The text of each token by its id, with the space that it begins with.

    Tokenizers of SentencePiece take that space away where a token is decoded alone.
    """
    return {token: _text(tokenizer, token) for token in sorted(set(tokens))}


def _text(tokenizer: Any, token: int) -> str:
    text = tokenizer.decode([token])
    piece = tokenizer.convert_ids_to_tokens(token)
    starts = isinstance(piece, str) and piece.startswith(STARTS_A_WORD)
    return f" {text}" if starts and not text.startswith(" ") else text
