"""A text whose rows are tokens already, which SAELens's store reads as they are."""

from collections.abc import Iterable
from itertools import islice
from typing import Any

from sae_lens_meta.activations.text import TOKENS

N_LOOKED_AT = 1000
TAKEN_FOR_GRANTED = "BOS, joining and separator as in the rows of tokens"


def check_rows_of_tokens(
    name: str, text: Iterable[Any], prepend_bos: bool | None, tokenizer: Any
) -> bool:
    """
    Checks that rows of tokens begin as an SAE reads; of how documents are joined they tell nothing.

    Args:
        name: of the text.
        text: its rows, of which the first 1,000 are looked at.
        prepend_bos: whether the SAE reads BOS first.
        tokenizer: of the language model, or None.

    Returns:
        Whether it is such a text.

    Raises:
        ValueError: if one of them begins with BOS and the SAE reads without, or the reverse.
    """
    first: Any = next(iter(text), {})
    column = next((key for key in TOKENS if key in first), None)
    if column is None:
        return False
    if tokenizer is None:  # nobody knows what BOS is
        return True
    rows = islice(text, N_LOOKED_AT)
    begin = [row[column][0] == tokenizer.bos_token_id for row in rows]
    if any(does != bool(prepend_bos) for does in begin):
        raise ValueError(
            f"{sum(begin)} of {len(begin)} rows of tokens of {name!r} begin with BOS, where the "
            f"SAE reads with prepend_bos {prepend_bos}; rows of tokens are read as they are. Give "
            "a --dataset of text, or of tokens that begin so, or another --prepend_bos."
        )
    return True
