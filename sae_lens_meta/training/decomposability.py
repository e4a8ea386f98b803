"""The penalty on decomposable decoder rows, over any training architecture of SAELens."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from sae_lens.saes.sae import (
    TrainCoefficientConfig,
    TrainingSAE,
    TrainStepInput,
    TrainStepOutput,
)
from sae_lens.util import str_to_dtype
from torch import nn
from typing_extensions import override

from sae_lens_meta.training.backend import backend_of
from sae_lens_meta.training.config import FOLDED_NORMALIZATIONS, DecomposabilityConfig
from sae_lens_meta.training.host_counts import HostCounts
from sae_lens_meta.training.meta_sae import MetaSAE, MetaSAEConfig
from sae_lens_meta.training.normalized_batchtopk import NormalizedBatchTopKTrainingSAE
from sae_lens_meta.training.penalty import decomposability, unit_rows
from sae_lens_meta.training.resume import check_weights
from sae_lens_meta.training.sparse_product import has_sparse_products

META_FOLDER = "meta"
META = "meta_sae."
# On a device that is not waited for, every so many steps it is asked whether all went well.
CHECK_EVERY = 100

# a mixin that is checked as what it is mixed into
_Base = TrainingSAE[Any] if TYPE_CHECKING else object


class DecomposabilityMixin(HostCounts, _Base):
    """
    Trains a meta SAE beside an SAE and penalises the decoder rows that it explains.

    It stands before a training class of SAELens among the bases of a class. The loss of a step
    is that class's own plus `lambda_2 * d_in * mean_i p_i` (arXiv:2604.03436). The paper averages
    its squared error over dimensions where SAELens sums it: the factor `d_in` makes
    `decomposability_coefficient` mean the paper's lambda_2.

    `meta_sae` is None for a solo SAE (`decomposability_coefficient=0`), which is the class
    without the mixin. Its parameters are hidden from `parameters()`: SAELens gives those to its
    Adam and its gradient clipping, and the meta SAE has an optimizer of its own. So
    `requires_grad_` and `zero_grad` leave it alone, and `DistributedDataParallel` does: every
    process takes the same meta steps on the same decoder. `state_dict()` holds both.
    """

    cfg: DecomposabilityConfig
    meta_sae: MetaSAE | None
    steps_in_cycle: torch.Tensor
    n_not_finite: torch.Tensor | int = 0
    host_counts = ("steps_in_cycle",)

    def __init__(self, cfg: Any, use_error_term: bool = False):
        with _seeded(cfg.init_seed):
            super().__init__(cfg, use_error_term)
            is_solo = cfg.decomposability_coefficient == 0
            n_held = int(cfg.meta_k * cfg.d_sae) if cfg.meta_selection == "cycle" else 0
            self.meta_sae = None if is_solo else MetaSAE(self.meta_config(), n_held)
        self.register_buffer("steps_in_cycle", torch.tensor(0))
        # as DistributedDataParallel asks, which walks through modules
        self._ddp_params_and_buffers_to_ignore = [
            name for name in self.state_dict() if name.startswith(META)
        ]

    def meta_config(self) -> MetaSAEConfig:
        """The configuration of the meta SAE."""
        cfg = self.cfg
        return MetaSAEConfig(
            d_in=cfg.d_in,
            d_sae=cfg.meta_width,
            k=cfg.meta_k,
            # its moments are small numbers, which half precision would lose
            dtype=cfg.dtype
            if has_sparse_products(str_to_dtype(cfg.dtype))
            else "float32",
            device=cfg.device,
            # every other normalisation is a property of the activations, not of a vector
            normalize_activations="layer_norm"
            if cfg.normalize_activations == "layer_norm"
            else "none",
            aux_loss_coefficient=1 / 32,
            decoder_init_norm=1.0,
            lr=cfg.meta_lr,
            adam_beta1=cfg.meta_adam_beta1,
            adam_beta2=cfg.meta_adam_beta2,
        )

    @override
    def get_coefficients(self) -> dict[str, TrainCoefficientConfig | float]:
        coefficients = super().get_coefficients()  # type: ignore[safe-super]
        if self.meta_sae is None:
            return coefficients
        penalty = TrainCoefficientConfig(
            value=self.cfg.decomposability_coefficient,
            warm_up_steps=self.cfg.decomposability_warm_up_steps,
        )
        return {**coefficients, "decomposability": penalty}

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """Loss of one primary step on `[batch, d_in]`, preceded by the meta steps when due."""
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
        selecting = {"primary": self, "meta": self.meta_sae}
        for name, sae in selecting.items():
            if not isinstance(sae, NormalizedBatchTopKTrainingSAE):
                continue
            n_in_doubt = int(sae.n_in_doubt)
            if not n_in_doubt:
                continue
            sae.n_in_doubt, sae.spare = 0, 2 * sae.spare
            warnings.warn(
                f"In {n_in_doubt} of the last selections of the {name} SAE, activations within "
                "a rounding in TF32 of the cut may have changed places. From here on "
                f"{sae.spare:g} times as many as are kept are computed in float32, so that "
                "they cannot.",
                stacklevel=2,
            )

    @override
    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters of the primary alone."""
        meta = f"{prefix}." * bool(prefix) + META
        for name, parameter in super().named_parameters(
            prefix, recurse, remove_duplicate
        ):
            if not name.startswith(meta):
                yield name, parameter

    @override
    def to(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        if self.meta_sae is not None:
            self.meta_sae.to(*args, **kwargs)
        return super().to(*args, **kwargs)

    @override
    def save_model(self, path: str | Path) -> tuple[Path, Path]:
        self.check_finite()
        return super().save_model(path)

    @override
    def load_weights_from_checkpoint(self, checkpoint_path: Path | str) -> None:
        check_weights(Path(checkpoint_path), self)
        super().load_weights_from_checkpoint(checkpoint_path)

    @override
    def process_state_dict_for_loading(self, state_dict: dict[str, Any]) -> None:
        super().process_state_dict_for_loading(state_dict)
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
    def process_state_dict_for_saving_inference(
        self, state_dict: dict[str, Any]
    ) -> None:
        super().process_state_dict_for_saving_inference(state_dict)
        for name in list(state_dict):
            if name.startswith(META) or name == "steps_in_cycle":
                del state_dict[name]

    @override
    def save_inference_model(self, path: str | Path) -> tuple[Path, Path]:
        """
        Writes the SAE to `path` as its stock class does, and the meta SAE to `path/meta`.

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
        saved = super().save_inference_model(path)
        if self.meta_sae is not None:
            self.meta_sae.set_threshold(
                unit_rows(self.W_dec.detach().to(self.meta_sae.dtype))
            )
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


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds the CPU's generator for what happens inside, and leaves it as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
