"""The configuration of a meta SAE."""

from dataclasses import dataclass

from sae_lens import BatchTopKTrainingSAEConfig
from sae_lens.util import str_to_dtype
from typing_extensions import override

from sae_lens_meta.training.config import DecomposabilityConfig
from sae_lens_meta.training.sparse_product import has_sparse_products


@dataclass
class MetaSAEConfig(BatchTopKTrainingSAEConfig):
    """
    Configuration of the meta SAE that `MetaTrainingSAEConfig` implies.

    Args:
        lr (float): Learning rate of its own Adam.
        adam_beta1 (float): The beta1 parameter of its own Adam.
        adam_beta2 (float): The beta2 parameter of its own Adam.
    """

    lr: float = 3e-4
    adam_beta1: float = 0.9
    adam_beta2: float = 0.99
    use_sparse_activations: bool | None = None  # type: ignore[assignment]

    @override
    @classmethod
    def architecture(cls) -> str:
        # what stands in the metadata of the exported SAE: the training it came from
        return "meta"


def implied_by(cfg: DecomposabilityConfig) -> MetaSAEConfig:
    """The meta SAE's configuration that an SAE's implies."""
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
        aux_loss_coefficient=1 / 32,
        decoder_init_norm=1.0,
        lr=cfg.meta_lr,
        adam_beta1=cfg.meta_adam_beta1,
        adam_beta2=cfg.meta_adam_beta2,
    )
