"""Where some latents fire and where they do not: windows of text to show to a judge."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sae_lens import SAE

from sae_lens_meta.activations.stream import ActivationBatch
from sae_lens_meta.measures.kept_windows import KeptWindows, one_of_each_range

N_KEPT = 96  # activating windows of a latent, a uniform sample of all
N_SILENT = 400  # windows that all latents share, also a uniform sample


@dataclass
class Window:
    """
    A few tokens, and one latent on them.

    Attributes:
        tokens: ids.
        activations: of the latent, one for each token.
    """

    tokens: list[int]
    activations: list[float]

    @property
    def strength(self) -> float:
        """The strongest activation."""
        return max(self.activations)


@dataclass
class LatentContexts:
    """
    What a judge is shown of one latent. No window, nor the same text, stands in two lists.

    Attributes:
        latent: index.
        firing_rate: share of the tokens read on which it fires.
        explaining: windows to explain it from: half of them its strongest of all, half from
            all over the range of its strength.
        active: windows to score with: one from each of equally likely ranges of strength,
            and some at the boundary, its weakest.
        silent: windows to score with, drawn from those where it does not fire.
        marking: activating windows that are not shown when it is scored: where it fires in them
            is marked in the silent ones, one for each.
    """

    latent: int
    firing_rate: float
    explaining: list[Window]
    active: list[Window]
    silent: list[Window]
    marking: list[Window]


@dataclass
class ContextPlan:
    """
    How many windows of which kind.

    Attributes:
        window: tokens in one.
        n_explaining: to explain from.
        n_active: activating ones to score with.
        n_boundary: of those, the weakest there are.
        n_silent: non-activating ones to score with.
    """

    window: int = 32
    n_explaining: int = 16
    n_active: int = 10
    n_boundary: int = 2
    n_silent: int = 10


class ContextCollector:
    """
    Keeps windows of some latents over one pass; memory does not grow with the tokens read.

    Args:
        sae: whose latents.
        latents: which.
        plan: how many windows.
        seed: of what is drawn.
    """

    def __init__(
        self, sae: SAE[Any], latents: Sequence[int], plan: ContextPlan, seed: int = 0
    ):
        self.sae = sae
        self.latents = list(latents)
        self.plan = plan
        self._random = np.random.default_rng(seed)
        self._fired = torch.zeros(len(self.latents), dtype=torch.long)
        self._n_tokens = 0
        n_latents = len(self.latents)
        self._strongest = KeptWindows(n_latents, plan.n_explaining, plan.window)
        self._sample = KeptWindows(n_latents, N_KEPT, plan.window)
        # a heap of (rank, number, tokens, which latents fire): the highest ranks stay
        self._silent: list[Any] = []
        self._number = 0

    def update(self, batch: ActivationBatch) -> None:
        """Adds a batch of tokens and activations."""
        width = self.plan.window
        n_kept = batch.tokens.shape[1] // width * width
        # of either sign: a latent of an abstopk SAE fires in two directions
        acts = batch.codes(self.sae)[:, :n_kept, self.latents].abs().cpu()
        acts = acts.reshape(-1, width, len(self.latents))
        tokens = batch.tokens[:, :n_kept].reshape(-1, width).cpu()
        peaks = acts.amax(dim=1)
        self._fired += (acts > 0).sum(dim=(0, 1))
        read = batch.kept
        self._n_tokens += (
            acts.shape[0] * width if read is None else int(read[:, :n_kept].sum())
        )
        ranks = torch.from_numpy(self._random.random(peaks.shape))
        silent_ranks = self._random.random(len(tokens))
        for place, (words, strength) in enumerate(zip(tokens, peaks, strict=True)):
            self._offer(words, acts[place], strength, ranks[place])
            self._keep_silent(silent_ranks[place], words, strength > 0)

    def result(self) -> dict[int, LatentContexts | None]:
        """By latent; None where it fires in too few windows, or is silent in too few."""
        return {
            latent: self._of(place, latent) for place, latent in enumerate(self.latents)
        }

    def _offer(
        self,
        tokens: torch.Tensor,
        acts: torch.Tensor,
        strength: torch.Tensor,
        drawn: torch.Tensor,
    ) -> None:
        """One window, to the strongest by its strength and to the sample by a number drawn."""

        def cut(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return tokens.expand(len(chosen), -1), acts[:, chosen].t()

        fires = strength > 0
        self._strongest.offer(strength.where(fires, -torch.inf), cut)
        self._sample.offer(drawn.where(fires, -torch.inf), cut)

    def _keep_silent(
        self, rank: float, tokens: torch.Tensor, fired: torch.Tensor
    ) -> None:
        if len(self._silent) == N_SILENT and rank <= self._silent[0][0]:
            return
        self._number += 1
        # views would keep their whole batch
        kept = (rank, self._number, tokens.tolist(), fired.clone())
        if len(self._silent) < N_SILENT:
            heapq.heappush(self._silent, kept)
        else:
            heapq.heapreplace(self._silent, kept)

    def _of(self, place: int, latent: int) -> LatentContexts | None:
        plan = self.plan
        strongest = _windows(self._strongest, place)[: plan.n_explaining // 2]
        seen = {tuple(window.tokens) for window in strongest}
        sample = _windows(self._sample, place, seen)
        n_spread = plan.n_explaining - len(strongest)
        if len(sample) < n_spread + plan.n_active:
            return None
        explaining = strongest + one_of_each_range(sample, n_spread, self._random)
        seen = {tuple(window.tokens) for window in explaining}
        rest = [window for window in sample if tuple(window.tokens) not in seen]
        boundary = rest[len(rest) - plan.n_boundary :]
        rest = rest[: len(rest) - plan.n_boundary]
        n_spread = plan.n_active - plan.n_boundary
        silent = self._silent_windows(
            place, {*seen, *(tuple(w.tokens) for w in sample)}
        )
        active = one_of_each_range(rest, n_spread, self._random) + boundary
        unseen = [window for window in strongest + sample if window not in active]
        if min(len(silent), len(unseen)) < plan.n_silent:
            return None
        marking = self._random.choice(len(unseen), plan.n_silent, replace=False)
        return LatentContexts(
            latent=latent,
            firing_rate=float(self._fired[place]) / self._n_tokens,
            explaining=explaining,
            active=active,
            silent=silent[: plan.n_silent],
            marking=[unseen[i] for i in marking],
        )

    def _silent_windows(self, place: int, seen: set[tuple[int, ...]]) -> list[Window]:
        texts = dict.fromkeys(
            tuple(tokens)
            for _, _, tokens, fired in sorted(self._silent, key=lambda kept: -kept[0])
            if not fired[place] and tuple(tokens) not in seen
        )
        return [Window(list(text), [0.0] * self.plan.window) for text in texts]


def _windows(
    kept: KeptWindows, place: int, seen: set[tuple[int, ...]] | None = None
) -> list[Window]:
    """Of one latent, each text once and none of `seen`; strongest first."""
    seen, windows = set(seen or ()), []
    tokens, activations = kept.of(place)
    for text, values in zip(tokens.tolist(), activations.tolist(), strict=True):
        if tuple(text) not in seen:
            seen.add(tuple(text))
            windows.append(Window(text, values))
    return sorted(windows, key=lambda window: -window.strength)
