"""The architecture `meta`: fast exact BatchTopK in the normalised space, with the penalty."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from typing_extensions import override

from sae_lens_meta.training.backend import backend_of
from sae_lens_meta.training.config import MetaTrainingSAEConfig
from sae_lens_meta.training.decomposability import DecomposabilityMixin
from sae_lens_meta.training.meta_sae import MetaSAEConfig
from sae_lens_meta.training.normalized_batchtopk import NormalizedBatchTopKTrainingSAE

# Activations that the exported threshold is taken from: some of each of the last 64 steps,
# since neighbouring batches often come from one document.
N_RECENT_INPUTS = 4096
N_RECENT_PER_STEP = 64
RECENT = ("recent_inputs", "n_recent_inputs")


class MetaTrainingSAE(DecomposabilityMixin, NormalizedBatchTopKTrainingSAE):
    """
    Primary SAE trained jointly with a meta SAE over its decoder rows (arXiv:2604.03436).

    After training it is saved as a JumpReLU SAE, its threshold taken from the last activations.
    """

    cfg: MetaTrainingSAEConfig  # type: ignore[assignment]
    recent_inputs: torch.Tensor
    n_recent_inputs: torch.Tensor
    host_counts = ("steps_in_cycle", "n_recent_inputs")

    def __init__(self, cfg: MetaTrainingSAEConfig, use_error_term: bool = False):
        super().__init__(cfg, use_error_term)
        recent_inputs = self.W_dec.new_zeros(N_RECENT_INPUTS, cfg.d_in)
        self.register_buffer("recent_inputs", recent_inputs)
        self.register_buffer("n_recent_inputs", torch.tensor(0))

    @override
    def meta_config(self) -> MetaSAEConfig:
        return replace(
            super().meta_config(),
            apply_b_dec_to_input=self.cfg.apply_b_dec_to_input,
            aux_loss_coefficient=self.cfg.aux_loss_coefficient,
            decoder_init_norm=self.cfg.decoder_init_norm,
            use_sparse_activations=self.cfg.use_sparse_activations,
        )

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """
        Loss of one primary step on `[batch, d_in]`, preceded by the meta steps when due.

        Raises:
            ValueError: if the batch has another width than `d_in`, is so small that BatchTopK
                keeps nothing of it, or holds NaN or inf.
        """
        self._check_batch(step_input)
        self._remember(step_input.sae_in)
        return super().training_forward_pass(step_input)

    @torch.compiler.disable()
    def _check_batch(self, step_input: TrainStepInput) -> None:
        batch = step_input.sae_in
        if batch.shape[-1] != self.cfg.d_in:
            raise ValueError(
                f"The activations have {batch.shape[-1]} dimensions but the SAE has "
                f"d_in={self.cfg.d_in}. Set d_in to the width of the hook "
                f"{self.cfg.metadata.hook_name!r}."
            )
        if int(self.cfg.k * len(batch)) == 0:
            raise ValueError(
                f"BatchTopK with k={self.cfg.k:g} keeps no latent active in a batch of "
                f"{len(batch)} activations. Set train_batch_size_tokens to "
                f"{math.ceil(1 / self.cfg.k)} or more."
            )
        if not backend_of(self.W_dec).reads_freely:
            return
        finite = torch.isfinite(batch).all(dim=-1)
        if not finite.all():
            bad = (~finite).nonzero().flatten()
            raise ValueError(
                f"NaN or inf in {len(bad)} of {len(batch)} activations of the batch at "
                f"training step {step_input.n_training_steps} (first in row {int(bad[0])}). "
                "The weights are untouched by this batch and the last checkpoint is intact. "
                "Look for an overflow in the language model, for instance float16, before resuming."
            )

    @torch.compiler.disable()
    @torch.no_grad()
    def _remember(self, batch: torch.Tensor) -> None:
        """Keeps some activations of this batch, the oldest ones giving way."""
        rows = batch[:: max(1, len(batch) // N_RECENT_PER_STEP)][:N_RECENT_PER_STEP]
        first = int(self.n_recent_inputs)
        places = torch.arange(first, first + len(rows), device=rows.device)
        self.recent_inputs[places % N_RECENT_INPUTS] = rows.to(self.recent_inputs)
        self.n_recent_inputs += len(rows)
        if int(self.n_recent_inputs) >= 2 * N_RECENT_INPUTS:
            self.n_recent_inputs -= N_RECENT_INPUTS

    @override
    @torch.no_grad()
    def fold_activation_norm_scaling_factor(self, scaling_factor: float) -> None:
        super().fold_activation_norm_scaling_factor(scaling_factor)
        self.recent_inputs /= scaling_factor

    @override
    def process_state_dict_for_saving_inference(
        self, state_dict: dict[str, Any]
    ) -> None:
        super().process_state_dict_for_saving_inference(state_dict)
        for name in RECENT:
            del state_dict[name]

    @override
    def save_inference_model(self, path: str | Path) -> tuple[Path, Path]:
        if int(self.n_recent_inputs) > 0:
            self.set_threshold(self.recent_inputs[: self.n_recent_inputs])
        return super().save_inference_model(path)
