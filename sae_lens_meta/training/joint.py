"""The joint objective: one primary step, and the cycle of primary and meta steps."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from sae_lens.saes.sae import TrainCoefficientConfig, TrainStepInput, TrainStepOutput
from sae_lens.util import str_to_dtype
from torch import nn
from typing_extensions import override

from sae_lens_meta.training.backend import backend_of
from sae_lens_meta.training.config import FOLDED_NORMALIZATIONS, MetaTrainingSAEConfig
from sae_lens_meta.training.meta_sae import MetaSAE, MetaSAEConfig
from sae_lens_meta.training.normalized_batchtopk import NormalizedBatchTopKTrainingSAE
from sae_lens_meta.training.penalty import decomposability, unit_rows
from sae_lens_meta.training.resume import check_weights
from sae_lens_meta.training.sparse_product import has_sparse_products

META_FOLDER = "meta"

# Activations that the exported threshold is taken from: some of each of the last 64 steps,
# since neighbouring batches often come from one document.
N_RECENT_INPUTS = 4096
N_RECENT_PER_STEP = 64


# On a device that is not waited for, every so many steps it is asked whether all went well.
CHECK_EVERY = 100


class MetaTrainingSAE(NormalizedBatchTopKTrainingSAE):
    """
    Primary SAE trained jointly with a meta SAE over its decoder rows (arXiv:2604.03436).

    The loss of a step is `L_SAE + lambda_2 * d_in * mean_i p_i`. The paper averages its
    squared error over dimensions where SAELens sums it: the factor `d_in` makes
    `decomposability_coefficient` mean the paper's lambda_2.

    `meta_sae` is None for a solo SAE (`decomposability_coefficient=0`).
    """

    cfg: MetaTrainingSAEConfig  # type: ignore[assignment]
    meta_sae: MetaSAE | None
    steps_in_cycle: torch.Tensor
    recent_inputs: torch.Tensor
    n_recent_inputs: torch.Tensor
    n_not_finite: torch.Tensor | int = 0
    host_counts = ("steps_in_cycle", "n_recent_inputs")

    def __init__(self, cfg: MetaTrainingSAEConfig, use_error_term: bool = False):
        with _seeded(cfg.init_seed):
            super().__init__(cfg, use_error_term)
            is_solo = cfg.decomposability_coefficient == 0
            is_held = cfg.meta_selection == "cycle"
            n_held = int(cfg.meta_k * cfg.d_sae) if is_held else 0
            self.meta_sae = None if is_solo else MetaSAE(_meta_config(cfg), n_held)
        recent_inputs = self.W_dec.new_zeros(N_RECENT_INPUTS, cfg.d_in)
        self.register_buffer("recent_inputs", recent_inputs)
        for count in self.host_counts:
            self.register_buffer(count, torch.tensor(0))

    @override
    def get_coefficients(self) -> dict[str, TrainCoefficientConfig | float]:
        if self.meta_sae is None:
            return {}
        return {
            "decomposability": TrainCoefficientConfig(
                value=self.cfg.decomposability_coefficient,
                warm_up_steps=self.cfg.decomposability_warm_up_steps,
            )
        }

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
        if self.meta_sae is not None:
            self._advance_cycle()
        output = super().training_forward_pass(step_input)
        if self.meta_sae is not None:
            self._add_penalty(output, step_input.coefficients["decomposability"])
        self._watch(output.loss, step_input)
        return output

    @torch.compiler.disable()
    def _advance_cycle(self) -> None:
        """
        Trains the meta SAE once `primary_steps_per_cycle` primary steps lie behind it.

        A step begins after the trainer's optimizer has finished the one before, so the
        meta phase of a cycle runs at the start of the next. The place in the cycle is a
        buffer: a checkpoint keeps it.
        """
        assert self.meta_sae is not None
        if int(self.steps_in_cycle) >= self.cfg.primary_steps_per_cycle:
            self.meta_sae.fit(self.W_dec, self.cfg.meta_steps_per_cycle)
            self.steps_in_cycle.zero_()
        if self.cfg.meta_selection == "cycle" and int(self.steps_in_cycle) == 0:
            self.meta_sae.hold(self.W_dec.detach().to(self.meta_sae.dtype))
        self.steps_in_cycle += 1

    def _add_penalty(self, output: TrainStepOutput, coefficient: float) -> None:
        assert self.meta_sae is not None
        meta_sae, W_dec = self.meta_sae, self.W_dec.to(self.meta_sae.dtype)
        is_held = self.cfg.meta_selection == "cycle"
        reconstruct = meta_sae.reconstruct_held if is_held else meta_sae.reconstruct
        recons = reconstruct(W_dec.detach())
        with torch.autocast(recons.device.type, enabled=False):
            penalties, squared_distances = decomposability(
                W_dec, recons, self.cfg.decomposability_bandwidth
            )
            fit = meta_fit(W_dec, squared_distances)
        penalty = penalties.mean()
        loss = coefficient * self.cfg.d_in * penalty
        output.loss = output.loss + loss
        output.losses["decomposability_loss"] = loss
        output.metrics |= {"mean_penalty": penalty.detach()} | fit
        if meta_sae.share_missed is not None:
            output.metrics["meta_share_missed"] = meta_sae.share_missed

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
    def _watch(self, loss: torch.Tensor, step_input: TrainStepInput) -> None:
        """Keeps in mind on the device that a loss was not finite, and asks it now and then."""
        if backend_of(loss).reads_freely:
            return
        self.n_not_finite = self.n_not_finite + ~torch.isfinite(loss.detach())
        step = step_input.n_training_steps
        if step_input.is_logging_step or step % CHECK_EVERY == CHECK_EVERY - 1:
            self.check_finite()
            self._resolve_doubt()

    def check_finite(self) -> None:
        """
        Raises:
            ValueError: if a loss was not finite since the last call, as is said at once on CPU.
        """
        n_bad, self.n_not_finite = int(self.n_not_finite), 0
        if n_bad:
            raise ValueError(
                f"The loss of {n_bad} of the last steps was NaN or inf, and the weights are spoiled; "
                "the last checkpoint is intact. Look for an overflow in the language model, for "
                "instance float16, or resume from it with a lower learning rate."
            )

    def _resolve_doubt(self) -> None:
        """Looks at more pairs from here on where a selection may not have been float32's."""
        for name, sae in (("primary", self), ("meta", self.meta_sae)):
            n_in_doubt = 0 if sae is None else int(sae.n_in_doubt)
            if sae is None or not n_in_doubt:
                continue
            sae.n_in_doubt, sae.spare = 0, 2 * sae.spare
            warnings.warn(
                f"In {n_in_doubt} of the last selections of the {name} SAE, activations within "
                "a rounding in TF32 of the cut may have changed places. From here on "
                f"{sae.spare:g} times as many as are kept are computed in float32, so that "
                "they cannot.",
                stacklevel=2,
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
    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """
        Parameters of the primary alone.

        SAELens gives `parameters()` to its Adam and its gradient clipping; the meta SAE
        has an optimizer of its own. `state_dict()` holds both.
        """
        meta = f"{prefix}." * bool(prefix) + "meta_sae."
        for name, parameter in super().named_parameters(
            prefix, recurse, remove_duplicate
        ):
            if not name.startswith(meta):
                yield name, parameter

    @override
    def save_model(self, path: str | Path) -> tuple[Path, Path]:
        self.check_finite()
        return super().save_model(path)

    @override
    def to(self, *args: Any, **kwargs: Any) -> "MetaTrainingSAE":  # type: ignore[override]
        if self.meta_sae is not None:
            self.meta_sae.to(*args, **kwargs)
        return super().to(*args, **kwargs)

    @override
    def load_weights_from_checkpoint(self, checkpoint_path: Path | str) -> None:
        check_weights(Path(checkpoint_path), self)
        super().load_weights_from_checkpoint(checkpoint_path)

    @override
    def process_state_dict_for_loading(self, state_dict: dict[str, Any]) -> None:
        # load_from_disk gives every tensor the dtype of the weights, counters too
        for name, tensor in self.state_dict().items():
            if name in state_dict and not tensor.is_floating_point():
                if not torch.isfinite(state_dict[name]).all():
                    raise ValueError(
                        f"The counter {name} does not fit into {self.cfg.dtype}. "
                        'Load the training SAE with dtype="float32".'
                    )
                state_dict[name] = state_dict[name].to(tensor.dtype)

    @override
    def save_inference_model(self, path: str | Path) -> tuple[Path, Path]:
        """
        Writes a plain `jumprelu` SAE to `path`, and the meta SAE as one to `path/meta`.

        Returns:
            The paths of the primary's weights and config.

        Raises:
            ValueError: if the training has not ended and its normalisation is not folded yet.
        """
        if self.cfg.normalize_activations in FOLDED_NORMALIZATIONS:
            raise ValueError(
                "This SAE takes activations scaled by a factor, as normalize_activations="
                f"{self.cfg.normalize_activations!r} says, and an exported SAE would not: the "
                "factor is folded into the weights when the training ends. To export one from a "
                "checkpoint, call fold_activation_norm_scaling_factor first, with the "
                "scaling_factor in the activation_scaler.json beside its weights."
            )
        self.check_finite()
        if int(self.n_recent_inputs) > 0:
            self.set_threshold(self.recent_inputs[: self.n_recent_inputs])
        saved = super().save_inference_model(path)
        if self.meta_sae is not None:
            self.meta_sae.set_threshold(unit_rows(self.W_dec.detach()))
            self.meta_sae.save_inference_model(Path(path) / META_FOLDER)
        else:
            # what an earlier joint SAE left here describes another decoder
            for name in (SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME):
                (Path(path) / META_FOLDER / name).unlink(missing_ok=True)
        return saved


@torch.no_grad()
def meta_fit(
    W_dec: torch.Tensor, squared_distances: torch.Tensor
) -> dict[str, torch.Tensor]:
    """
    How well unit decoder rows are meta-reconstructed.

    Args:
        W_dec: decoder rows, `[d_sae, d_in]`.
        squared_distances: of each unit row to its reconstruction, `[d_sae]`.

    Returns:
        `meta_mse`, summed over dimensions and averaged over rows, and
        `meta_explained_variance`, 1 for a perfect and 0 for a constant reconstruction.
    """
    mse = squared_distances.mean()
    mean_row = (1 / W_dec.norm(dim=-1)) @ W_dec / len(W_dec)
    variance = 1 - mean_row.pow(2).sum()  # the mean squared norm of the rows is 1
    return {"meta_mse": mse, "meta_explained_variance": 1 - mse / variance}


def _meta_config(cfg: MetaTrainingSAEConfig) -> MetaSAEConfig:
    return MetaSAEConfig(
        d_in=cfg.d_in,
        d_sae=cfg.meta_width,
        k=cfg.meta_k,
        # its moments are small numbers, which half precision would lose
        dtype=cfg.dtype if has_sparse_products(str_to_dtype(cfg.dtype)) else "float32",
        device=cfg.device,
        # every other normalisation is a property of the activations, not of a vector
        normalize_activations="layer_norm"
        if cfg.normalize_activations == "layer_norm"
        else "none",
        apply_b_dec_to_input=cfg.apply_b_dec_to_input,
        aux_loss_coefficient=cfg.aux_loss_coefficient,
        decoder_init_norm=cfg.decoder_init_norm,
        lr=cfg.meta_lr,
        adam_beta1=cfg.meta_adam_beta1,
        adam_beta2=cfg.meta_adam_beta2,
        use_sparse_activations=cfg.use_sparse_activations,
    )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds the CPU's generator for what happens inside, and leaves it as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
