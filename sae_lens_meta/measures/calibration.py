"""Per-latent thresholds that make a JumpReLU SAE fire as often as BatchTopK selected."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Literal

import numpy as np
import torch
from numba import njit, prange
from sae_lens import SAE

from sae_lens_meta.activations.stream import flat_heads
from sae_lens_meta.training.batch_topk import select_batch_topk

Rule = Literal["rate", "equal_error"]
N_BINS = 2048
RARE_BELOW = 100  # selections, as in the paper
NEVER = torch.finfo(torch.float32).max
N_CHECKED = 4096  # tokens that the result is checked on


@dataclass
class CalibrationReport:
    """
    What a calibration did.

    Attributes:
        rule: `rate` or `equal_error`.
        n_tokens: tokens read.
        k: latents per token that BatchTopK selected on average.
        n_calibrated: latents with a threshold of their own.
        n_rare: latents selected on fewer than 100 tokens. Their threshold is the highest cut
            that BatchTopK made, above which a value was selected in every batch.
        n_dead: latents never selected. They never fire.
        l0_before, l0_after: latents per token above the old and the new thresholds.
        f1_before, f1_after: agreement with BatchTopK's selection, per token, averaged.
        n_checked: tokens that the last four were measured on, some of those read.
    """

    rule: str
    n_tokens: int
    k: float
    n_calibrated: int
    n_rare: int
    n_dead: int
    l0_before: float
    l0_after: float
    f1_before: float
    f1_after: float
    n_checked: int


class Calibrator:
    """
    Collects, over a stream, how each latent's pre-activations and selections are distributed.

    Histograms of the positive values, of all and of the selected ones, with 2,048 bins per
    latent. Their range is that of the data: a value above it doubles it, two bins becoming
    one. Memory is 16 kB a latent.

    Args:
        sae: JumpReLU SAE exported from BatchTopK.
        k: average number of latents that BatchTopK keeps; by default what `sae` was trained
            with, from its metadata.

    Raises:
        ValueError: if `sae` has no thresholds, or `k` is not given and not recorded.
    """

    def __init__(self, sae: SAE[Any], k: float | None = None):
        self.sae = sae
        self.k = selected_per_token(sae, k)
        self.n_tokens = 0
        self.highest_cut = 0.0
        self._range = 0.0
        d_sae = sae.cfg.d_sae
        self._all = np.zeros((d_sae, N_BINS), dtype=np.int32)
        self._selected = np.zeros((d_sae, N_BINS), dtype=np.int32)
        self._checked: list[tuple[torch.Tensor, torch.Tensor]] = []

    @torch.no_grad()
    def update(self, activations: torch.Tensor) -> None:
        """
        Adds a batch, `[..., d_in]`, over which BatchTopK selects.

        Raises:
            ValueError: if BatchTopK selects nothing of so few tokens.
        """
        pre_acts = self._pre_activations(activations)
        n = len(pre_acts)
        if int(self.k * n) == 0:
            raise ValueError(
                f"BatchTopK with k={self.k:g} selects nothing in a batch of {n} tokens. Give "
                f"batches as large as in training, {ceil(1 / self.k)} tokens at least."
            )
        kept = select_batch_topk(pre_acts, self.k)
        values = pre_acts.flatten()[kept]
        cut = float(values.min()) if len(values) else float("inf")
        self._widen(float(pre_acts.max()))
        if self._range > 0:
            matrix, scale = pre_acts.cpu().numpy(), N_BINS / self._range
            _fill(self._all, self._selected, matrix, np.float32(cut), scale)
        self.n_tokens += n
        if len(values):
            self.highest_cut = max(self.highest_cut, cut)
        self._keep_for_check(pre_acts, cut)

    def thresholds(self, rule: Rule = "rate") -> torch.Tensor:
        """
        One threshold per latent, `[d_sae]` float32, that the SAE's dtype holds without rounding.

        `rate`, the paper's: as many tokens lie above it as BatchTopK selected. `equal_error`,
        the author's code: the share of selected tokens at or below it equals the share of
        the others above it. There are many more others, so that a latent over-fires.

        Raises:
            ValueError: if nothing was read.
        """
        if self.n_tokens == 0:
            raise ValueError("No activations to calibrate on: the stream was empty.")
        find = {"rate": self._matching_rate, "equal_error": self._equal_error}[rule]
        n_selected = self._selected.sum(axis=1)
        thresholds = find().astype(np.float32)
        thresholds[n_selected < RARE_BELOW] = self.highest_cut
        thresholds[n_selected == 0] = NEVER
        return _at_most(torch.from_numpy(thresholds), self.sae.dtype)

    def report(
        self, thresholds: torch.Tensor, rule: Rule = "rate"
    ) -> CalibrationReport:
        """How `thresholds` compare with the SAE's present ones."""
        n_selected = self._selected.sum(axis=1)
        before = self._check(self.sae.threshold.detach().float().cpu())  # type: ignore[union-attr, operator]
        after = self._check(thresholds)
        return CalibrationReport(
            rule=rule,
            n_tokens=self.n_tokens,
            k=self.k,
            n_calibrated=int((n_selected >= RARE_BELOW).sum()),
            n_rare=int(((n_selected > 0) & (n_selected < RARE_BELOW)).sum()),
            n_dead=int((n_selected == 0).sum()),
            l0_before=before[0],
            l0_after=after[0],
            f1_before=before[1],
            f1_after=after[1],
            n_checked=sum(len(pre_acts) for pre_acts, _ in self._checked),
        )

    def _pre_activations(self, activations: torch.Tensor) -> torch.Tensor:
        sae = self.sae
        x = activations.reshape(-1, sae.cfg.d_in).to(sae.device, sae.dtype)
        with flat_heads(sae):
            return (sae.process_sae_in(x) @ sae.W_enc + sae.b_enc).float()  # type: ignore[operator]

    def _widen(self, largest: float) -> None:
        if self._range == 0:
            self._range = max(largest, 0.0) * (1 + 1e-6)
        while 0 < self._range <= largest:
            for histogram in (self._all, self._selected):
                pairs = histogram.reshape(len(histogram), -1, 2).sum(axis=2)
                histogram[:, : N_BINS // 2] = pairs
                histogram[:, N_BINS // 2 :] = 0
            self._range *= 2

    def _matching_rate(self) -> np.ndarray:
        n_selected = self._selected.sum(axis=1)
        above = _counts_above(self._all)
        # the last edge with at least as many above it; the rest of the way within its bin
        edge = (above >= n_selected[:, None]).sum(axis=1) - 1
        latents = np.arange(len(above))
        in_bin = self._all[latents, np.minimum(edge, N_BINS - 1)]
        excess = above[latents, edge] - n_selected
        part = np.divide(excess, in_bin, out=np.zeros(len(above)), where=in_bin > 0)
        return (edge + part) * self._range / N_BINS

    def _equal_error(self) -> np.ndarray:
        n_selected = self._selected.sum(axis=1, keepdims=True)
        n_others = self.n_tokens - n_selected
        selected_above = _counts_above(self._selected)
        missed = 1 - selected_above / np.maximum(n_selected, 1)
        wrong = (_counts_above(self._all) - selected_above) / np.maximum(n_others, 1)
        return (missed < wrong).sum(axis=1) * self._range / N_BINS

    def _keep_for_check(self, pre_acts: torch.Tensor, cut: float) -> None:
        """Keeps what the first batches' tokens look like."""
        room = N_CHECKED - sum(len(kept) for kept, _ in self._checked)
        if room > 0:
            some = pre_acts[:room].cpu().clone()
            self._checked.append((some, some >= cut))

    def _check(self, thresholds: torch.Tensor) -> tuple[float, float]:
        """L0, and F1 per token against BatchTopK, averaged, on the tokens kept."""
        n_fired, f1 = 0, []
        for pre_acts, selected in self._checked:
            fires = (pre_acts > thresholds) & (pre_acts > 0)
            hits = (fires & selected).sum(dim=1)
            either = fires.sum(dim=1) + selected.sum(dim=1)
            f1.append(2 * hits / either.clamp(min=1))
            n_fired += int(fires.sum())
        agreement = torch.cat(f1)
        return n_fired / len(agreement), float(agreement.mean())


def selected_per_token(sae: SAE[Any], k: float | None = None) -> float:
    """
    How many latents BatchTopK keeps of a token, on average: `k`, or what `sae` records.

    Raises:
        ValueError: if `sae` has no thresholds, or `k` is not given and not recorded.
    """
    if not hasattr(sae, "threshold"):
        raise ValueError(
            f"An SAE of architecture {sae.cfg.architecture()!r} has no thresholds to "
            "calibrate; give a jumprelu SAE."
        )
    details = sae.cfg.metadata.training_architecture_details or {}
    k = details.get("k") if k is None else k
    if k is None or not 0 < k <= sae.cfg.d_sae:
        raise ValueError(
            f"k must be above 0 and at most d_sae={sae.cfg.d_sae}, got {k}. Where the "
            "SAE does not record the k that it was trained with, give --k."
        )
    return float(k)


def calibrate(
    sae: SAE[Any],
    batches: Iterable[torch.Tensor],
    k: float | None = None,
    rule: Rule = "rate",
    text: dict[str, Any] | None = None,
    overridden: dict[str, Any] | None = None,
) -> CalibrationReport:
    """
    Gives `sae` one threshold per latent, in place, and records in its metadata how.

    Args:
        sae: JumpReLU SAE exported from BatchTopK.
        batches: activations `[..., d_in]`, each a batch that BatchTopK selects over, of
            several thousand tokens as in training.
        k: see `Calibrator`.
        rule: see `Calibrator.thresholds`.
        text: what the batches were read from (`MeasuredOn.text`), to be recorded with them.
        overridden: what they were read with in the place of what `sae` records
            (`MeasuredOn.options`), to be recorded too.

    Raises:
        ValueError: as `Calibrator`, or if there are no batches.
    """
    calibrator = Calibrator(sae, k)
    for batch in batches:
        calibrator.update(batch)
    thresholds = calibrator.thresholds(rule)
    report = calibrator.report(thresholds, rule)
    sae.threshold = torch.nn.Parameter(thresholds.to(sae.device))
    sae.cfg.metadata.calibration = asdict(report) | {
        "k": calibrator.k,
        "text": text,
        "overridden": overridden or {},
    }
    return report


def _at_most(thresholds: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """
    The largest values of `dtype` that do not exceed `thresholds`, in float32.

    Loading casts thresholds to the SAE's dtype. Rounded to the nearest, the largest float32 would
    become infinite; rounded down, the same pre-activations, which have that dtype too, exceed them.
    """
    nearest = thresholds.to(dtype)
    below = torch.nextafter(nearest, torch.zeros_like(nearest))
    return torch.where(nearest > thresholds, below, nearest).float()


def _counts_above(histogram: np.ndarray) -> np.ndarray:
    """`[d, N_BINS + 1]`: values at or above each edge."""
    above = np.zeros((len(histogram), N_BINS + 1), dtype=np.int64)
    np.cumsum(histogram[:, ::-1], axis=1, out=above[:, -2::-1])
    return above


@njit(parallel=True, cache=True)
def _fill(histogram, selected, pre_acts, cut, scale):  # type: ignore[no-untyped-def]
    n, d = pre_acts.shape
    width = 64  # latents whose bins stay in the cache together
    for part in prange((d + width - 1) // width):
        for t in range(n):
            for j in range(part * width, min((part + 1) * width, d)):
                value = pre_acts[t, j]
                if value > 0:
                    place = int(value * scale)
                    histogram[j, place] += 1
                    if value >= cut:
                        selected[j, place] += 1
