"""Exact counts of which latents fire on the same tokens."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import njit, prange

from sae_lens_meta.destination import write_whole

# Active latents gathered before they are counted: the more, the better the cache is used.
FLUSH_AT = 1 << 22
MAX_TOKENS = np.iinfo(np.int32).max

Firing = torch.Tensor | Sequence[Sequence[int]]
"""
Which latents fire on each token: a bool or numeric tensor `[..., d]`, dense or sparse COO, that
is above 0 where a latent fires; or for each token the list of its latents.
"""


class CooccurrenceCounter:
    """
    How often each latent, and each pair of latents, fires.

    Counts pairs within one SAE, or with `d_b` between two. A token costs as much as it has
    pairs of active latents, whatever the number of latents; memory is 4 bytes a pair,
    `d (d - 1) / 2` of them within one SAE (8.6 GB for 65,536 latents), `d_a d_b` between two.

    Args:
        d_a: number of latents.
        d_b: number of latents of the second SAE, if there is one.

    Attributes:
        n_tokens: tokens counted.
        fired_a: `[d_a]` int64, tokens that each latent fires on.
        fired_b: `[d_b]`; the same as `fired_a` within one SAE.
    """

    def __init__(self, d_a: int, d_b: int | None = None):
        if d_a < 1 or (d_b is not None and d_b < 1):
            raise ValueError(f"A counter needs at least one latent, got {d_a}, {d_b}.")
        self.d_a, self.d_b = d_a, d_a if d_b is None else d_b
        self.is_within = d_b is None
        self.n_tokens = 0
        self.fired_a = np.zeros(d_a, dtype=np.int64)
        self.fired_b = np.zeros(self.d_b, dtype=np.int64)
        n_pairs = d_a * (d_a - 1) // 2 if self.is_within else d_a * self.d_b
        self._together = np.zeros(n_pairs, dtype=np.int32)
        self._pending: list[tuple[_Lists, _Lists]] = []
        self._n_pending = 0

    def update(self, firing_a: Firing, firing_b: Firing | None = None) -> None:
        """
        Adds tokens.

        Args:
            firing_a: what fires on them.
            firing_b: what fires on the same tokens in the second SAE, if there is one.

        Raises:
            ValueError: if a latent is out of range, the two differ in their tokens, or a
                second SAE is given to a counter of one, or missing from one of two.
        """
        if self.is_within == (firing_b is not None):
            expected = "one SAE" if self.is_within else "two SAEs"
            raise ValueError(
                f"This counter counts pairs of {expected}: pass as many firings."
            )
        a = _Lists.of(firing_a, self.d_a)
        b = a if firing_b is None else _Lists.of(firing_b, self.d_b)
        if len(a) != len(b):
            raise ValueError(
                f"{len(a)} tokens of the first SAE, {len(b)} of the other."
            )
        if self.n_tokens + len(a) > MAX_TOKENS:
            raise ValueError(f"More than {MAX_TOKENS:,} tokens overflow a count.")
        self.n_tokens += len(a)
        self.fired_a += np.bincount(a.latents, minlength=self.d_a)
        self.fired_b += np.bincount(b.latents, minlength=self.d_b)
        self._pending.append((a, b))
        self._n_pending += len(a.latents)
        if self._n_pending >= FLUSH_AT:
            self._flush()

    @property
    def together(self) -> np.ndarray:
        """
        Tokens on which both latents of a pair fire, int32.

        Between two SAEs `[d_a, d_b]`. Within one, `[d (d - 1) / 2]`: the pairs (0, 1), (0, 2),
        ..., (1, 2), ...; `rows` gives them as a matrix.
        """
        self._flush()
        shape = (-1,) if self.is_within else (self.d_a, self.d_b)
        return self._together.reshape(shape)

    def rows(self, first: int, last: int) -> np.ndarray:
        """Rows `first` to `last` of the counts as a matrix, `[last - first, d_b]` int32."""
        together = self.together
        if not self.is_within:
            return together[first:last]
        rows = np.empty((last - first, self.d_b), dtype=np.int32)
        _unpack(together, self.fired_a, first, rows)
        return rows

    def pairs(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """
        Tokens on which latents `a` and `b`, arrays of one shape, fire together, int32.

        Within one SAE, no latent may be paired with itself.
        """
        if not self.is_within:
            return self.together[a, b]
        d, low, high = self.d_a, np.minimum(a, b), np.maximum(a, b)
        return self.together[low * d - low * (low + 1) // 2 + high - low - 1]

    def merge(self, other: "CooccurrenceCounter") -> None:
        """
        Adds the counts of another counter, of other tokens.

        Raises:
            ValueError: if the two count different latents.
        """
        if self._shape != other._shape:
            raise ValueError(
                f"Counters of {self._shape} and {other._shape} do not add."
            )
        if self.n_tokens + other.n_tokens > MAX_TOKENS:
            raise ValueError(f"More than {MAX_TOKENS:,} tokens overflow a count.")
        mine, theirs = self.together, other.together
        mine += theirs
        self.fired_a += other.fired_a
        self.fired_b += other.fired_b
        self.n_tokens += other.n_tokens

    def save(self, folder: str | Path) -> None:
        """Writes the counts to `folder`; what an earlier `save` left there is replaced."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._flush()
        # the state names the file of counts, and is replaced last: a kill in between
        # leaves the earlier pair whole
        counts = f"counts_{self.n_tokens}.npz"
        np.savez(
            folder / counts,
            together=self._together,
            fired_a=self.fired_a,
            fired_b=self.fired_b,
        )
        state = {"shape": self._shape, "n_tokens": self.n_tokens, "counts": counts}
        write_whole(folder / "counter.json", json.dumps(state))
        for path in folder.glob("counts_*.npz"):
            if path.name != counts:
                path.unlink()

    @classmethod
    def load(cls, folder: str | Path) -> "CooccurrenceCounter":
        """
        A counter as it was saved, to go on with.

        Raises:
            FileNotFoundError: if none was saved there.
        """
        state: dict[str, Any] = json.loads((Path(folder) / "counter.json").read_text())
        d_a, d_b, is_within = state["shape"]
        counter = cls(d_a, None if is_within else d_b)
        with np.load(Path(folder) / state["counts"], allow_pickle=False) as counts:
            counter._together = counts["together"]
            counter.fired_a, counter.fired_b = counts["fired_a"], counts["fired_b"]
        counter.n_tokens = state["n_tokens"]
        return counter

    @property
    def _shape(self) -> tuple[int, int, bool]:
        return (self.d_a, self.d_b, self.is_within)

    def _flush(self) -> None:
        if not self._pending:
            return
        a = _Lists.joined([a for a, _ in self._pending])
        tokens, starts, order = a.by_latent(self.d_a)
        if self.is_within:
            _count_within(self._together, tokens, starts, order, a.starts, a.latents)
        else:
            b = _Lists.joined([b for _, b in self._pending])
            _count_between(
                self._together.reshape(self.d_a, self.d_b),
                tokens,
                starts,
                b.starts,
                b.latents,
            )
        self._pending, self._n_pending = [], 0


class _Lists:
    """For each token the ascending list of its latents, one list after the other."""

    def __init__(self, starts: np.ndarray, latents: np.ndarray):
        self.starts = starts  # [n_tokens + 1]
        self.latents = latents

    def __len__(self) -> int:
        return len(self.starts) - 1

    @classmethod
    def of(cls, firing: Firing, d: int) -> "_Lists":
        if isinstance(firing, torch.Tensor):
            if firing.shape[-1] != d:
                raise ValueError(
                    f"Firings of {firing.shape[-1]} latents for a counter of {d}."
                )
            if firing.is_sparse:
                firing = firing.coalesce()
                fires = firing.values() != 0
                tokens, latents = firing.indices()[:, fires]
                n_tokens = firing.shape[0]
            else:
                # not > 0: a latent of an abstopk SAE fires in two directions
                matrix = firing.reshape(-1, d) != 0
                tokens, latents = matrix.nonzero(as_tuple=True)
                n_tokens = len(matrix)
            counts = np.bincount(tokens.cpu().numpy(), minlength=n_tokens)
            return cls(_cumulative(counts), latents.cpu().numpy().astype(np.int32))
        unique = [sorted(set(latents)) for latents in firing]
        for token, latents in enumerate(unique):
            if latents and not 0 <= latents[0] <= latents[-1] < d:
                wrong = latents[-1] if latents[-1] >= d else latents[0]
                raise ValueError(f"Latent {wrong} on token {token}, of {d} latents.")
        counts = np.array([len(latents) for latents in unique], dtype=np.int64)
        flat = [latent for latents in unique for latent in latents]
        return cls(_cumulative(counts), np.array(flat, dtype=np.int32))

    @classmethod
    def joined(cls, lists: list["_Lists"]) -> "_Lists":
        counts = np.concatenate([np.diff(part.starts) for part in lists])
        return cls(_cumulative(counts), np.concatenate([p.latents for p in lists]))

    def by_latent(self, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        The entries ordered by latent.

        Returns:
            The token of each, where those of each latent start, and its place in `latents`.
        """
        order = np.argsort(self.latents, kind="stable")
        tokens = np.repeat(np.arange(len(self)), np.diff(self.starts))[order]
        return tokens, _cumulative(np.bincount(self.latents, minlength=d)), order


def _cumulative(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])


# One latent at a time, on all its tokens: its row of counts stays in the cache, and no two
# threads write to the same row.
@njit(parallel=True, cache=True)
def _count_within(together, tokens, latent_starts, places, token_starts, latents):  # type: ignore[no-untyped-def]
    d = len(latent_starts) - 1
    for i in prange(d):
        row = together[i * d - i * (i + 1) // 2 : (i + 1) * d - (i + 1) * (i + 2) // 2]
        for entry in range(latent_starts[i], latent_starts[i + 1]):
            end = token_starts[tokens[entry] + 1]
            for place in range(places[entry] + 1, end):  # the latents above i
                row[latents[place] - i - 1] += 1


@njit(parallel=True, cache=True)
def _count_between(together, tokens, latent_starts, token_starts, latents):  # type: ignore[no-untyped-def]
    for i in prange(len(latent_starts) - 1):
        row = together[i]
        for entry in range(latent_starts[i], latent_starts[i + 1]):
            token = tokens[entry]
            for place in range(token_starts[token], token_starts[token + 1]):
                row[latents[place]] += 1


@njit(parallel=True, cache=True)
def _unpack(together, fired, first, rows):  # type: ignore[no-untyped-def]
    d = rows.shape[1]
    for r in prange(len(rows)):
        i = first + r
        for j in range(d):
            low, high = min(i, j), max(i, j)
            rows[r, j] = (
                fired[i]
                if i == j
                else together[low * d - low * (low + 1) // 2 + high - low - 1]
            )
