"""Which latents would fire together if only their habits in a context were alike."""

from collections import deque

import torch

from sae_lens_meta.evaluation.cooccurrence import CooccurrenceCounter

SHIFT = 64  # contexts: nearer ones may be of the same document, and share its topics


class ShiftedPairs:
    """
    Counts which latents fire at the same position of two different contexts.

    Each context of a stream is held against the one 64 before it, the first 64 against the
    last. Every latent thus fires as often as it does, at the same positions of a context and
    in the same bursts, but whatever makes two of them fire together is gone. Of up to 64
    contexts, each is held against the one half the stream away.

    Args:
        d_sae: number of latents; the counts take `4 d_sae^2` bytes.
    """

    def __init__(self, d_sae: int):
        self._counter = CooccurrenceCounter(d_sae, d_sae)
        self._first: list[torch.Tensor] = []
        self._recent: deque[torch.Tensor] = deque()

    def update(self, acts: torch.Tensor) -> None:
        """Adds codes `[contexts, positions, d_sae]`, every context of as many positions."""
        for context in acts > 0:
            firing = context.to_sparse()
            if len(self._first) < SHIFT:
                self._first.append(firing)
            self._recent.append(firing)
            if len(self._recent) > SHIFT:
                self._counter.update(firing, self._recent.popleft())

    def result(self) -> CooccurrenceCounter:
        """
        The counts between all codes and the shifted ones, once all were added.

        Raises:
            ValueError: if there were fewer than two contexts.
        """
        n_recent = len(self._recent)
        if self._counter.n_tokens == 0:  # at most 64 contexts
            if n_recent < 2:
                raise ValueError(
                    f"A shift by contexts takes two of them, got {n_recent}. Give more text."
                )
            self._recent.rotate(n_recent // 2)
        for firing, other in zip(self._first, self._recent, strict=True):
            self._counter.update(firing, other)
        return self._counter
