"""Which latents would fire together if only their habits in a context were alike."""

from collections import deque

import torch

from sae_lens_meta.measures.cooccurrence import CooccurrenceCounter

SHIFT = 64  # contexts: nearer ones may be of the same document, and share its topics


class ShiftedPairs:
    """
    Counts which latents fire at the same position of two different contexts.

    Each context of a stream is held against the one 64 before it, the first 64 against the
    last. Every latent thus fires as often as it does, at the same positions of a context and
    in the same bursts, but whatever makes two of them fire together is gone. Of up to 128
    contexts, each is held against the one half the stream away: no two are nearer.

    Args:
        d_sae: number of latents; the counts take `4 d_sae^2` bytes.
    """

    def __init__(self, d_sae: int):
        self._counter = CooccurrenceCounter(d_sae, d_sae)
        self._first: list[torch.Tensor] = []
        self._recent: deque[torch.Tensor] = deque()
        self._n_counted = 0

    def update(self, acts: torch.Tensor) -> None:
        """Adds codes `[contexts, positions, d_sae]`, every context of as many positions."""
        for context in acts != 0:  # a latent of an abstopk SAE fires in two directions
            firing = context.to_sparse()
            if len(self._first) < SHIFT:
                self._first.append(firing)
            self._recent.append(firing)
            if len(self._recent) > 2 * SHIFT:
                self._count_oldest()

    def _count_oldest(self) -> None:
        """Counts the oldest pair, of which the earlier context is needed no more."""
        self._counter.update(self._recent[SHIFT], self._recent.popleft())
        self._n_counted += 1

    def result(self) -> CooccurrenceCounter:
        """
        The counts between all codes and the shifted ones, once all were added.

        Raises:
            ValueError: if there were fewer than two contexts.
        """
        if len(self._recent) < 2:
            raise ValueError(
                f"A shift by contexts takes two of them, got {len(self._recent)}. Give more "
                "text."
            )
        if self._n_counted == 0:
            every = list(self._recent)
            by = min(SHIFT, len(every) // 2)
            pairs = [(every[i], every[i - by]) for i in range(len(every))]
        else:
            rest = list(self._recent)
            pairs = list(zip(rest[SHIFT:], rest[:-SHIFT], strict=True))
            pairs += zip(self._first, rest[-SHIFT:], strict=True)
        for firing, other in pairs:
            self._counter.update(firing, other)
        return self._counter
