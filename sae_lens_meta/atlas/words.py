"""
Which words latents fire on.

A word is what a reader would look for: a run of tokens that no space divides, letters and digits
for themselves and punctuation for itself. "Einstein" may be three tokens; a latent fires on the word
where it fires on any of them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sae_lens_meta.activations.tokens import token_texts
from sae_lens_meta.measures.phi import phi_of_counts

MAX_TOKENS = 8  # of one word, where a script has no spaces
FLUSH_AT = 1 << 22  # pairs gathered before they are added up


@dataclass
class Words:
    """
    Words of a text and the latents that fire on them, pair by pair.

    Attributes:
        texts: of the words.
        counts: `[n_words]`, how often each stands in the text.
        fired: `[d_sae]`, on how many of all words each latent fires.
        word: `[n_pairs]`, of a pair, by its place in `texts`.
        latent: `[n_pairs]`, that fires on it at least once.
        together: `[n_pairs]`, how often.
        phi: `[n_pairs]`, between being that word and firing on it.
    """

    texts: list[str]
    counts: np.ndarray
    fired: np.ndarray
    word: np.ndarray
    latent: np.ndarray
    together: np.ndarray
    phi: np.ndarray


class WordCounter:
    """
    Counts over a pass how often latents fire on words; memory grows with the pairs that occur.

    Args:
        tokenizer: of the language model.
        d_sae: latents.
    """

    def __init__(self, tokenizer: Any, d_sae: int):
        self.tokenizer, self.d_sae = tokenizer, d_sae
        self._pieces: dict[int, str] = {}
        self._word_of: dict[tuple[int, ...], int] = {}
        self._texts: dict[str, int] = {}
        self._counts: list[int] = []
        self._pending: list[np.ndarray] = []
        self._keys = np.empty(0, dtype=np.int64)
        self._together = np.empty(0, dtype=np.int64)

    def update(
        self, tokens: torch.Tensor, rows: np.ndarray, latents: np.ndarray
    ) -> None:
        """
        Adds contexts.

        Args:
            tokens: `[prompts, positions]`.
            rows: `[n]`, where a latent fires, by place in the flattened tokens.
            latents: `[n]`, which.
        """
        words = []
        occurrence_of = np.empty(tokens.numel(), dtype=np.int64)
        place = 0
        for prompt in tokens.tolist():
            for ids in self._split(prompt):
                occurrence_of[place : place + len(ids)] = len(words)
                words.append(self._word(ids))
                place += len(ids)
        # a latent that fires on two tokens of a word fires on it once
        fired = np.unique(occurrence_of[rows] * self.d_sae + latents)
        occurrence, latent = np.divmod(fired, self.d_sae)
        word = np.array(words, dtype=np.int64)[occurrence]
        self._pending.append(word * self.d_sae + latent)
        if sum(map(len, self._pending)) >= FLUSH_AT:
            self._flush()

    def result(self) -> Words:
        """The words of everything that was added."""
        self._flush()
        word, latent = np.divmod(self._keys, self.d_sae)
        counts = np.array(self._counts, dtype=np.int64)
        fired = np.zeros(self.d_sae, dtype=np.int64)
        np.add.at(fired, latent, self._together)
        phi = phi_of_counts(
            self._together, counts[word], fired[latent], int(counts.sum())
        )
        return Words(
            list(self._texts), counts, fired, word, latent, self._together, phi
        )

    def _split(self, prompt: list[int]) -> list[tuple[int, ...]]:
        words: list[list[int]] = []
        last = ""
        for token in prompt:
            piece = self._piece(token)
            goes_on = last[-1:].isalnum() and piece[:1].isalnum()
            if words and goes_on and len(words[-1]) < MAX_TOKENS:
                words[-1].append(token)
            else:
                words.append([token])
            last = piece
        return [tuple(word) for word in words]

    def _piece(self, token: int) -> str:
        if token not in self._pieces:
            self._pieces |= token_texts(self.tokenizer, [token])
        return self._pieces[token]

    def _word(self, ids: tuple[int, ...]) -> int:
        """Its place in the list of words, counting it there."""
        if ids not in self._word_of:
            plain = self._piece(ids[0]) if len(ids) == 1 else self.tokenizer.decode(ids)
            text = plain.strip() or plain
            self._word_of[ids] = self._texts.setdefault(text, len(self._texts))
            if len(self._texts) > len(self._counts):
                self._counts.append(0)
        word = self._word_of[ids]
        self._counts[word] += 1
        return word

    def _flush(self) -> None:
        keys = np.concatenate([self._keys, *self._pending])
        ones = np.ones(len(keys) - len(self._together), dtype=np.int64)
        together = np.concatenate([self._together, ones])
        self._keys, inverse = np.unique(keys, return_inverse=True)
        self._together = np.zeros(len(self._keys), dtype=np.int64)
        np.add.at(self._together, inverse, together)
        self._pending = []


def first_of_each(
    group: np.ndarray, value: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """
    The `n` entries of highest value of each group.

    Args:
        group: `[m]`, of each entry.
        value: `[m]`.
        n: how many; of a smaller group, all.

    Returns:
        Places of entries, by group and highest first, and the group of each.
    """
    order = np.lexsort((-value, group))
    sorted_group = group[order]
    starts = np.searchsorted(sorted_group, sorted_group, side="left")
    kept = np.arange(len(order)) - starts < n
    return order[kept], sorted_group[kept]
