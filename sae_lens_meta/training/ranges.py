"""The ranges of the settings: what is out of them is refused, with the field and its value."""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_lens_meta.training.config import DecomposabilityConfig
    from sae_lens_meta.training.joint import MetaTrainingSAEConfig

SUPPORTED_NORMALIZATIONS = ("none", "expected_average_only_in", "layer_norm")
META_SELECTIONS = ("every_step", "cycle")
PENALTIES = ("decomposability", "orthogonality", "implied_overlap")
WHOLE_NUMBERS = (
    "meta_d_sae",
    "decomposability_warm_up_steps",
    "primary_steps_per_cycle",
    "meta_steps_per_cycle",
    "init_seed",
)


def require(cfg: Any, field: str, holds: bool, rule: str) -> None:
    """
    Raises:
        ValueError: unless `holds` and the field of `cfg` is finite, naming both and the rule.
    """
    value = getattr(cfg, field)
    if not holds or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"{field} must be {rule}, got {value}.")


def check_penalty(cfg: "DecomposabilityConfig") -> None:
    """
    Checks what the penalty adds to a configuration.

    Raises:
        ValueError: for a value outside its range.
    """
    for field in WHOLE_NUMBERS:
        is_whole = isinstance(getattr(cfg, field), int | None)
        require(cfg, field, is_whole, "a whole number")
    is_known = cfg.penalty in PENALTIES
    require(cfg, "penalty", is_known, f"one of {', '.join(PENALTIES)}")
    if cfg.penalty == "implied_overlap":
        # a checkpoint gives everything the dtype of the weights, the numbers of latents too
        is_exact = cfg.dtype in ("float32", "float64")
        require(
            cfg, "dtype", is_exact, "float32 or float64 with penalty implied_overlap"
        )
    is_known = cfg.meta_selection in META_SELECTIONS
    require(cfg, "meta_selection", is_known, f"one of {', '.join(META_SELECTIONS)}")
    _check_meta_shape(cfg)
    for field in ("decomposability_coefficient", "decomposability_warm_up_steps"):
        require(cfg, field, getattr(cfg, field) >= 0, "at least 0")
    norm = cfg.decoder_init_norm
    require(cfg, "decoder_init_norm", norm is None or norm > 0, "above 0 or None")
    for field in ("decomposability_bandwidth", "meta_lr"):
        require(cfg, field, getattr(cfg, field) > 0, "above 0")
    for field in ("primary_steps_per_cycle", "meta_steps_per_cycle"):
        require(cfg, field, getattr(cfg, field) >= 1, "at least 1")
    for field in ("meta_adam_beta1", "meta_adam_beta2"):
        require(cfg, field, 0 <= getattr(cfg, field) < 1, "at least 0 and below 1")


def _check_meta_shape(cfg: "DecomposabilityConfig") -> None:
    width = cfg.meta_width
    if not 1 <= width < cfg.d_sae:
        raise ValueError(
            f"meta_d_sae must be at least 1 and below d_sae={cfg.d_sae}, got {width}."
        )
    is_within = 0 < cfg.meta_k <= width
    require(cfg, "meta_k", is_within, f"above 0 and at most meta_d_sae={width}")
    least = f"at least 1 / d_sae = {1 / cfg.d_sae:.3g}, to keep a latent of all rows"
    require(cfg, "meta_k", int(cfg.meta_k * cfg.d_sae) >= 1, least)


def check_batch_topk(cfg: "MetaTrainingSAEConfig") -> None:
    """
    Checks what is of the architecture `meta` alone.

    Raises:
        ValueError: for a value outside its range.
    """
    known = ", ".join(SUPPORTED_NORMALIZATIONS)
    is_known = cfg.normalize_activations in SUPPORTED_NORMALIZATIONS
    rule = f"one of {known} for architecture 'meta'"
    require(cfg, "normalize_activations", is_known, rule)
    require(cfg, "k", 0 < cfg.k <= cfg.d_sae, f"above 0 and at most d_sae={cfg.d_sae}")
    require(cfg, "aux_loss_coefficient", cfg.aux_loss_coefficient >= 0, "at least 0")
    if cfg.use_sparse_activations and cfg.dtype not in ("float32", "float64"):
        raise ValueError(
            f"use_sparse_activations=True needs dtype float32 or float64, got "
            f"{cfg.dtype}. Leave it at None, which chooses what is faster."
        )
