"""What changes with the steps of a training: the number of active latents, and dead rows drawn anew."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from typing_extensions import override

from sae_lens_meta.training.normalized_batchtopk import NormalizedBatchTopKTrainingSAE
from sae_lens_meta.training.ranges import require
from sae_lens_meta.training.resampling import resample


@dataclass
class SchedulesConfig:
    """
    What changes with the steps of a training.

    Args:
        resample_every (int): Steps after which rows of latents that have been dead for the trainer's
            `dead_feature_window` are drawn anew from what is reconstructed worst, again and again; 0
            leaves them to the auxiliary loss.
        resample_until (int | None): The last step at which that is done, so that the last rows have
            time to settle. None goes on to the end.
        k_start (float | None): Latents kept active at the first step, from which k is reached in a
            straight line. None begins at k.
        k_anneal_steps (int): Steps that this takes.
    """

    resample_every: int = 0
    resample_until: int | None = None
    k_start: float | None = None
    k_anneal_steps: int = 0

    @property
    def has_schedules(self) -> bool:
        """Whether anything changes with the steps."""
        return self.resample_every > 0 or self.k_start is not None

    def check_schedules(self, d_sae: int) -> None:
        """
        Raises:
            ValueError: for a value outside its range.
        """
        for field in ("resample_every", "resample_until", "k_anneal_steps"):
            value = getattr(self, field)
            require(self, field, isinstance(value, int | None), "a whole number")
            require(self, field, value is None or value >= 0, "at least 0")
        if self.k_start is not None:
            is_within = 0 < self.k_start <= d_sae
            require(self, "k_start", is_within, f"above 0 and at most d_sae={d_sae}")
            rule = "at least 1 where k_start is given"
            require(self, "k_anneal_steps", self.k_anneal_steps >= 1, rule)

    def check_annealing(self, n_steps: int) -> None:
        """
        Checks that a training of `n_steps` comes to k.

        Raises:
            ValueError: if it ends before.
        """
        if self.k_start is not None and self.k_anneal_steps > n_steps:
            raise ValueError(
                f"k_anneal_steps={self.k_anneal_steps} is more than the {n_steps} steps of the "
                "training, which would end before k is reached. Train longer, or give fewer."
            )


class ScheduledTrainingSAE(NormalizedBatchTopKTrainingSAE):
    """BatchTopK with the schedules of `SchedulesConfig`, its step a buffer, so that it resumes."""

    steps_taken: torch.Tensor

    def __init__(self, cfg: Any, use_error_term: bool = False):
        super().__init__(cfg, use_error_term)
        self.schedules: SchedulesConfig = cfg
        if cfg.has_schedules:
            self.register_buffer("steps_taken", torch.tensor(0))

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        if self.schedules.has_schedules:
            self.activation_fn.k = self.k_at(int(self.steps_taken))
            self._resample_when_due(step_input)
            self.steps_taken += 1
        return super().training_forward_pass(step_input)

    @override
    def save_inference_model(self, path: str | Path) -> tuple[Path, Path]:
        """
        SAELens's, with a warning where k has not been reached.

        It is exported at the k that its config records, as a saved checkpoint of it would be.
        """
        k = self.k_at(int(self.steps_taken)) if self.schedules.has_schedules else None
        if k not in (None, self.cfg.k):
            warnings.warn(
                f"After {int(self.steps_taken):,} steps k is still {k:g}, and the SAE is exported at "
                f"k={self.cfg.k:g}, which it was never trained at: k_anneal_steps is "
                f"{self.schedules.k_anneal_steps:,}. Train longer, or give fewer.",
                stacklevel=2,
            )
        return super().save_inference_model(path)

    def k_at(self, step: int) -> float:
        """Latents kept active on a sample at `step`."""
        start, steps = self.schedules.k_start, self.schedules.k_anneal_steps
        if start is None or step >= steps:
            return self.cfg.k
        return start + (self.cfg.k - start) * step / steps

    def _resample_when_due(self, step_input: TrainStepInput) -> None:
        step, every = int(self.steps_taken), self.schedules.resample_every
        last, dead = self.schedules.resample_until, step_input.dead_neuron_mask
        is_due = every > 0 and step > 0 and step % every == 0
        if not is_due or dead is None or (last is not None and step > last):
            return
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            inputs = step_input.sae_in.to(self.dtype)
            target = self.run_time_activation_norm_fn_in(inputs)
            codes, _ = self.encode_active(self.process_sae_in(inputs))
            residuals = target - codes.decode(self.W_dec) - self.b_dec
        # another seed at each step and for each SAE
        seed = 1_000_003 * getattr(self.cfg, "init_seed", 0) + step
        resample(self, dead, residuals, seed)
