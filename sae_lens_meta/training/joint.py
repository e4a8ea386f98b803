"""The architecture `meta`: fast exact BatchTopK in the normalised space, with the penalty."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from sae_lens import BatchTopKTrainingSAEConfig
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from typing_extensions import override

from sae_lens_meta.training.backend import backend_of
from sae_lens_meta.training.config import DecomposabilityConfig
from sae_lens_meta.training.decomposability import DecomposabilityMixin
from sae_lens_meta.training.meta_config import MetaSAEConfig
from sae_lens_meta.training.ranges import check_batch_topk
from sae_lens_meta.training.schedules import ScheduledTrainingSAE, SchedulesConfig

# Activations that the exported threshold is taken from: some of each of the last 64 steps,
# since neighbouring batches often come from one document.
N_RECENT_INPUTS = 4096
N_RECENT_PER_STEP = 64


@dataclass
class MetaTrainingSAEConfig(
    SchedulesConfig, DecomposabilityConfig, BatchTopKTrainingSAEConfig
):
    """
    Configuration class for training a MetaTrainingSAE.

    A primary BatchTopK SAE is trained jointly with a small meta SAE that sparsely
    reconstructs the primary's decoder rows. Every decoder row that the meta SAE
    reconstructs well adds to the primary's loss (MetaSAEs, arXiv:2604.03436), which
    pushes the primary towards latents that are not mixtures of shared directions.

    A solo SAE, the control, is this architecture with `decomposability_coefficient=0`.
    After training, both SAEs are saved as JumpReLU SAEs.

    Args:
        k (float): Average number of latents to keep active across the batch.
            Inherited from BatchTopKTrainingSAEConfig.
        topk_threshold_lr (float): Rate of the running threshold that is logged. The exported one
            is taken from the last activations instead. Inherited from BatchTopKTrainingSAEConfig.
        aux_loss_coefficient (float): Weight of the dead-latent loss; 1/32 as in the author's code.
            Inherited from TopKTrainingSAEConfig.
        use_sparse_activations (bool | None): Whether products are taken over active latents only:
            the same numbers to rounding. None chooses by shape and device; False is for
            debugging. Inherited from TopKTrainingSAEConfig.
        rescale_acts_by_decoder_norm (bool): Treat the decoder as if it was already normalized.
            Inherited from TopKTrainingSAEConfig.
        decoder_init_norm (float | None): Norm to initialize decoder rows to; 1 as in the author's
            code. Inherited from TrainingSAEConfig.
        normalize_activations (str): none, expected_average_only_in or layer_norm. With layer_norm,
            as in the paper, all losses are taken in the normalized space. Inherited from SAEConfig.
        d_in (int): Input dimension (dimensionality of the activations being encoded).
            Inherited from SAEConfig.
        d_sae (int): SAE latent dimension (number of features in the SAE).
            Inherited from SAEConfig.
        dtype (str): Data type for the SAE parameters. Inherited from SAEConfig.
        device (str): Device to place the SAE on. Inherited from SAEConfig.

    Raises:
        ValueError: for a value outside its range, naming the field and the value.
    """

    normalize_activations: Literal[  # type: ignore[assignment]
        "none", "expected_average_only_in", "layer_norm"
    ] = "layer_norm"
    aux_loss_coefficient: float = 1 / 32
    decoder_init_norm: float | None = 1.0
    use_sparse_activations: bool | None = None  # type: ignore[assignment]

    @override
    @classmethod
    def architecture(cls) -> str:
        return "meta"

    @override
    def _check(self) -> None:
        check_batch_topk(self)
        self.check_schedules(self.d_sae)
        super()._check()


class MetaTrainingSAE(DecomposabilityMixin, ScheduledTrainingSAE):
    """
    Primary SAE trained jointly with a meta SAE over its decoder rows (arXiv:2604.03436).

    After training it is saved as a JumpReLU SAE, its threshold taken from the last activations.
    """

    cfg: MetaTrainingSAEConfig  # type: ignore[assignment]
    recent_inputs: torch.Tensor
    n_recent_inputs: torch.Tensor
    host_counts = (*DecomposabilityMixin.host_counts, "n_recent_inputs", "steps_taken")
    of_training = (
        *DecomposabilityMixin.of_training,
        "recent_inputs",
        "n_recent_inputs",
        "steps_taken",
    )

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
    def save_inference_model(self, path: str | Path) -> tuple[Path, Path]:
        if int(self.n_recent_inputs) > 0:
            self.set_threshold(self.recent_inputs[: self.n_recent_inputs])
        return super().save_inference_model(path)
