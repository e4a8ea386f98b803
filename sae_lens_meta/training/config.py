"""Settings of the training architectures whose decoder rows a meta SAE explains."""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sae_lens.registry import SAE_CLASS_REGISTRY, get_sae_class
from sae_lens.saes.sae import SAEConfig, TrainingSAEConfig
from typing_extensions import override

from sae_lens_meta.formats import check_format
from sae_lens_meta.hooks import both_names
from sae_lens_meta.training.ranges import check_penalty

# whose factor or matrices SAELens folds into the weights when a training ends
FOLDED_NORMALIZATIONS = ("expected_average_only_in", "covariance_whitening")
META_WIDTH_RATIO = 0.09
# of checkpoints and of what is exported from them, in the metadata of their configs
FORMAT, FORMAT_KEY = 1, "sae_lens_meta_format"


# a mixin that is checked as what it is mixed into, and leaves that class's defaults alone
_Base = TrainingSAEConfig if TYPE_CHECKING else object


@dataclass
class DecomposabilityConfig(_Base):
    """
    What the penalty adds to the configuration of a training architecture of SAELens.

    Args:
        meta_d_sae (int | None): Number of meta latents. Defaults to 0.09 * d_sae, rounded.
        meta_k (float): Average number of meta latents that reconstruct one decoder row.
        penalty (str): What a decoder row is charged for. decomposability, the paper's: that a meta SAE
            explains it. orthogonality: its cosine with the nearest other row (OrtSAE,
            arXiv:2509.22033). implied_overlap: that it holds the direction of a latent which fires
            wherever it does. The last two train no meta SAE.
        decomposability_coefficient (float): Weight of the penalty, lambda_2 of the paper, in units
            of the squared error per dimension of what the loss is taken of: where inputs have
            unit variance, the paper's. 0 trains a solo SAE without a penalty.
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
    penalty: Literal["decomposability", "orthogonality", "implied_overlap"] = (
        "decomposability"
    )
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
        check_format(
            "This SAE", self.metadata.get(FORMAT_KEY, FORMAT), FORMAT, "train it again"
        )
        self.metadata[FORMAT_KEY] = FORMAT
        self._check()
        super().__post_init__()

    @override
    def get_training_architecture_details(self) -> dict[str, Any]:
        details = super().get_training_architecture_details()
        return {**details, "meta_d_sae": self.meta_width}

    @override
    def get_inference_sae_cfg_dict(self) -> dict[str, Any]:
        saved = super().get_inference_sae_cfg_dict()
        metadata = saved["metadata"]
        return saved | {"metadata": metadata | both_names(metadata.get("hook_name"))}

    @property
    def meta_width(self) -> int:
        """Number of meta latents: `meta_d_sae`, or 9 % of `d_sae` where it is None."""
        if self.meta_d_sae is not None:
            return self.meta_d_sae
        return max(1, round(META_WIDTH_RATIO * self.d_sae))

    def _check(self) -> None:
        check_penalty(self)
