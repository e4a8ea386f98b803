"""The tokens that a pass will read, which characters each is of, and in which part its document is."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from sae_lens.tokenization_and_batching import concat_and_batch_sequences

from sae_lens_meta.activations.source import CONTEXTS_PER_BATCH
from sae_lens_meta.activations.stream import ActivationBatch
from sae_lens_meta.saved import Reading

NO_PLACE = -1  # of a token that no document has, such as BOS


@dataclass
class TextTokens:
    """
    Tokens of documents, in their order.

    Attributes:
        ids: of the vocabulary, `[n]`.
        starts, ends: characters of its document that a token is of, `[n]`.
        document: which, `[n]`.
        texts: of the documents that were tokenised.
        contexts: places of the tokens as the language model reads them, `[n_contexts,
            context_size]`; -1 for tokens that no document has.
        positions: of a context, that the SAE reads.
    """

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    document: np.ndarray
    texts: list[str]
    contexts: np.ndarray
    positions: slice

    @property
    def read(self) -> np.ndarray:
        """Places of the tokens that are read, in the order in which they are."""
        places = self.contexts[:, self.positions].ravel()
        return places[places != NO_PLACE]

    def places(self, batch: ActivationBatch, n_before: int) -> torch.Tensor:
        """
        The place of each token of a batch, `[prompts, positions]`; -1 where the SAE does not read.

        Args:
            batch: of the pass.
            n_before: contexts that were read before it.

        Raises:
            ValueError: if the language model reads other tokens.
        """
        contexts = self.contexts[n_before : n_before + len(batch.tokens)]
        places = torch.from_numpy(contexts[:, self.positions].copy())
        tokens, known = batch.tokens.cpu(), places != NO_PLACE
        ids = torch.from_numpy(self.ids)
        if places.shape != tokens.shape or (tokens[known] != ids[places[known]]).any():
            raise ValueError(
                "The language model reads other tokens than the labels stand on: its text has "
                "the special token that separates documents in it, or its tokenizer is another one."
            )
        if batch.kept is not None:
            places[~batch.kept.cpu()] = NO_PLACE
        return places


def text_tokens(
    texts: Iterable[str], tokenizer: Any, reading: Reading, n_tokens: int
) -> TextTokens:
    """
    The tokens that `source.stream(n_tokens)` will read of `texts`, without the language model.

    Args:
        texts: documents, of which as many are tokenised as it takes.
        tokenizer: of the language model.
        reading: how, completely.
        n_tokens: to read.

    Raises:
        ValueError: if texts go through a chat template, or do not fill a batch of contexts.
    """
    if reading.chat:
        raise ValueError(
            "The SAE reads texts through the chat template, whose characters are not those that "
            "labels stand on."
        )
    size = reading.context_size or 0
    documents = _Documents(tokenizer)
    wanted = n_tokens // size
    n_batches = -(-wanted // CONTEXTS_PER_BATCH)
    packed = concat_and_batch_sequences(
        documents.places(texts),
        context_size=size,
        begin_batch_token_id=NO_PLACE if reading.prepend_bos else None,
        sequence_separator_token_id=None if reading.separator == "none" else NO_PLACE,
        disable_concat_sequences=not reading.concatenate,
    )
    contexts = list(islice(packed, n_batches * CONTEXTS_PER_BATCH))
    # SAELens drops a batch that the text does not fill
    n_full = len(contexts) // CONTEXTS_PER_BATCH * CONTEXTS_PER_BATCH
    if min(n_full, wanted) == 0:
        raise ValueError(
            f"No activations for {n_tokens} tokens: a batch is {CONTEXTS_PER_BATCH} contexts of "
            f"{size}. Ask for more tokens or give more text."
        )
    stacked = torch.stack(contexts[: min(n_full, wanted)]).numpy()
    return documents.tokens(stacked, slice(*(reading.seqpos_slice or (None,))))


class _Documents:
    """Those that were tokenised so far."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.texts: list[str] = []
        self.ids: list[int] = []
        self.spans: list[tuple[int, int]] = []
        self.document: list[int] = []

    def places(self, texts: Iterable[str]) -> Iterator[torch.Tensor]:
        """The places of each document's tokens, as they are tokenised."""
        for text in texts:
            found = self.tokenizer(
                text,
                add_special_tokens=False,
                return_offsets_mapping=True,
                verbose=False,
            )
            before = len(self.ids)
            self.ids += found["input_ids"]
            self.spans += found["offset_mapping"]
            self.document += [len(self.texts)] * (len(self.ids) - before)
            self.texts.append(text)
            yield torch.arange(before, len(self.ids))

    def tokens(self, contexts: np.ndarray, positions: slice) -> TextTokens:
        """All of them, of which `contexts` are read."""
        spans = np.array(self.spans).reshape(-1, 2)
        return TextTokens(
            ids=np.array(self.ids),
            starts=spans[:, 0],
            ends=spans[:, 1],
            document=np.array(self.document),
            texts=self.texts,
            contexts=contexts,
            positions=positions,
        )


def first_part(document: np.ndarray) -> np.ndarray:
    """
    Which tokens are of the first part, `[n]`: whole documents, together half of the tokens.

    Args:
        document: of each token, `[n]`, in order.

    Raises:
        ValueError: if all are of one document.
    """
    starts = np.flatnonzero(np.diff(document)) + 1
    if len(starts) == 0:
        raise ValueError(
            "The tokens read are of one document, and what is chosen on one must be scored on "
            "another. Read more --tokens, or give text of shorter documents."
        )
    cut = starts[np.argmin(np.abs(starts - len(document) / 2))]
    return np.arange(len(document)) < cut
