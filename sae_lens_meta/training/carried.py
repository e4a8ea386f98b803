"""How a meta SAE goes along with its primary: hidden from optimizers, moved, saved, exported."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from sae_lens.saes.sae import TrainingSAE
from torch import nn
from typing_extensions import override

from sae_lens_meta.training.config import FOLDED_NORMALIZATIONS
from sae_lens_meta.training.host_counts import HostCounts
from sae_lens_meta.training.meta_sae import MetaSAE
from sae_lens_meta.training.of_training import LeavesOut
from sae_lens_meta.training.penalty import unit_rows
from sae_lens_meta.training.resume import check_weights

META_FOLDER = "meta"
META = "meta_sae."
OVERLAP = "overlap."  # what another penalty counts

# a mixin that is checked as what it is mixed into
_Base = TrainingSAE[Any] if TYPE_CHECKING else object


class CarriesMetaSAE(LeavesOut, HostCounts, _Base):
    """
    A training SAE of SAELens with a meta SAE, or None, and the place in its cycle.

    The parameters of the meta SAE are hidden from `parameters()`: SAELens gives those to its
    Adam and its gradient clipping, and the meta SAE has an optimizer of its own. So
    `requires_grad_` and `zero_grad` leave it alone, and `DistributedDataParallel` does: every
    process takes the same meta steps on the same decoder. `state_dict()` holds both.
    """

    meta_sae: MetaSAE | None
    steps_in_cycle: torch.Tensor
    host_counts = ("steps_in_cycle",)
    of_training = (META, OVERLAP, "steps_in_cycle")

    def carry(self, meta_sae: MetaSAE | None) -> None:
        """Takes the meta SAE along; None for a solo SAE."""
        self.meta_sae = meta_sae
        self.register_buffer("steps_in_cycle", torch.tensor(0))
        # as DistributedDataParallel asks, which walks through modules
        self._ddp_params_and_buffers_to_ignore = [
            name for name in self.state_dict() if name.startswith(META)
        ]

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
