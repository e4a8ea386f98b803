"""Settings of the training architectures whose decoder rows a meta SAE explains."""

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sae_lens import BatchTopKTrainingSAEConfig
from sae_lens.registry import SAE_CLASS_REGISTRY, get_sae_class
from sae_lens.saes.sae import SAEConfig, TrainingSAEConfig
from typing_extensions import override

SUPPORTED_NORMALIZATIONS = ("none", "expected_average_only_in", "layer_norm")
# whose factor or matrices SAELens folds into the weights when a training ends
FOLDED_NORMALIZATIONS = ("expected_average_only_in", "covariance_whitening")
META_SELECTIONS = ("every_step", "cycle")
META_WIDTH_RATIO = 0.09
WHOLE_NUMBERS = (
    "meta_d_sae",
    "decomposability_warm_up_steps",
    "primary_steps_per_cycle",
    "meta_steps_per_cycle",
    "init_seed",
)


# a mixin that is checked as what it is mixed into, and leaves that class's defaults alone
_Base = TrainingSAEConfig if TYPE_CHECKING else object


@dataclass
class DecomposabilityConfig(_Base):
    """
    What the penalty adds to the configuration of a training architecture of SAELens.

    Args:
        meta_d_sae (int | None): Number of meta latents. Defaults to 0.09 * d_sae, rounded.
        meta_k (float): Average number of meta latents that reconstruct one decoder row.
        decomposability_coefficient (float): Weight of the penalty, lambda_2 of the paper, in units
            of the squared error per dimension of what the loss is taken of: where inputs have
            unit variance, the paper's. 0 trains a solo SAE without a meta SAE.
        decomposability_warm_up_steps (int): Steps over which the weight rises linearly from 0.
        decomposability_bandwidth (float): sigma^2 of the paper: the squared distance between a
            unit-norm decoder row and its meta reconstruction at which the penalty has fallen to 1/e.
        primary_steps_per_cycle (int): Primary steps, with the meta SAE frozen, in one cycle.
        meta_steps_per_cycle (int): Meta steps, each on all decoder rows, that end a cycle.
        meta_lr (float): Learning rate of the meta SAE's own Adam. The paper's is 3e-4, with
            which mean |phi| hardly fell in our runs: docs/training.md.
        meta_selection (str): When the meta latents that reconstruct a decoder row are selected while
            the meta SAE is frozen. every_step, as in the paper, selects anew in each primary step;
            cycle selects in the first and holds the choice, their values following the rows.
        meta_adam_beta1 (float): The beta1 parameter of the meta SAE's own Adam.
        meta_adam_beta2 (float): The beta2 parameter of the meta SAE's own Adam.
        init_seed (int): Seed of the initial weights. SAELens's runners seed nothing, so that
            two SAEs differ in their initial weights only if their init_seed differs.

    Raises:
        ValueError: for a value outside its range, naming the field and the value.
    """

    meta_d_sae: int | None = None
    meta_k: float = 8
    decomposability_coefficient: float = 0.3
    decomposability_warm_up_steps: int = 0
    decomposability_bandwidth: float = 1.0
    primary_steps_per_cycle: int = 10
    meta_steps_per_cycle: int = 5
    meta_lr: float = 3e-3
    meta_selection: Literal["every_step", "cycle"] = "every_step"
    meta_adam_beta1: float = 0.9
    meta_adam_beta2: float = 0.99
    init_seed: int = 42

    @override
    @classmethod
    def architecture(cls) -> str:
        return f"meta_{cls.stock_architecture()}"

    @classmethod
    def stock_architecture(cls) -> str:
        """The architecture of SAELens that the penalty is added to."""
        return super().architecture()  # type: ignore[safe-super]

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        stock = self.stock_architecture()
        if stock in SAE_CLASS_REGISTRY:
            return get_sae_class(stock)[1]
        # an architecture that is saved as another says so itself
        return super().get_inference_config_class()

    def __post_init__(self) -> None:
        # dataclasses.replace, the way to a solo control, would share one metadata object
        self.metadata = copy.deepcopy(self.metadata)
        self._check()
        super().__post_init__()

    @override
    def get_training_architecture_details(self) -> dict[str, Any]:
        details = super().get_training_architecture_details()
        return {**details, "meta_d_sae": self.meta_width}

    @property
    def meta_width(self) -> int:
        """Number of meta latents: `meta_d_sae`, or 9 % of `d_sae` where it is None."""
        if self.meta_d_sae is not None:
            return self.meta_d_sae
        return max(1, round(META_WIDTH_RATIO * self.d_sae))

    def _require(self, field: str, holds: bool, rule: str) -> None:
        value = getattr(self, field)
        if not holds or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{field} must be {rule}, got {value}.")

    def _check(self) -> None:
        require = self._require
        for field in WHOLE_NUMBERS:
            is_whole = isinstance(getattr(self, field), int | None)
            require(field, is_whole, "a whole number")
        require(
            "meta_selection",
            self.meta_selection in META_SELECTIONS,
            f"one of {', '.join(META_SELECTIONS)}",
        )
        if not 1 <= self.meta_width < self.d_sae:
            raise ValueError(
                f"meta_d_sae must be at least 1 and below d_sae={self.d_sae}, "
                f"got {self.meta_width}."
            )
        require(
            "meta_k",
            0 < self.meta_k <= self.meta_width,
            f"above 0 and at most meta_d_sae={self.meta_width}",
        )
        require(
            "meta_k",
            int(self.meta_k * self.d_sae) >= 1,
            f"at least 1 / d_sae = {1 / self.d_sae:.3g}, to keep a latent of all rows",
        )
        for field in ("decomposability_coefficient", "decomposability_warm_up_steps"):
            require(field, getattr(self, field) >= 0, "at least 0")
        norm = self.decoder_init_norm
        require("decoder_init_norm", norm is None or norm > 0, "above 0 or None")
        for field in ("decomposability_bandwidth", "meta_lr"):
            require(field, getattr(self, field) > 0, "above 0")
        for field in ("primary_steps_per_cycle", "meta_steps_per_cycle"):
            require(field, getattr(self, field) >= 1, "at least 1")
        for field in ("meta_adam_beta1", "meta_adam_beta2"):
            require(field, 0 <= getattr(self, field) < 1, "at least 0 and below 1")


@dataclass
class MetaTrainingSAEConfig(DecomposabilityConfig, BatchTopKTrainingSAEConfig):
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
        require = self._require
        require(
            "normalize_activations",
            self.normalize_activations in SUPPORTED_NORMALIZATIONS,
            f"one of {', '.join(SUPPORTED_NORMALIZATIONS)} for architecture 'meta'",
        )
        require(
            "k", 0 < self.k <= self.d_sae, f"above 0 and at most d_sae={self.d_sae}"
        )
        require("aux_loss_coefficient", self.aux_loss_coefficient >= 0, "at least 0")
        if self.use_sparse_activations and self.dtype not in ("float32", "float64"):
            raise ValueError(
                f"use_sparse_activations=True needs dtype float32 or float64, got "
                f"{self.dtype}. Leave it at None, which chooses what is faster."
            )
        super()._check()
