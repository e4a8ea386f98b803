"""Architectures of SAELens with the penalty, each with all of its own behaviour."""

from dataclasses import dataclass

from sae_lens import (
    GatedTrainingSAE,
    GatedTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)

from sae_lens_meta.training.config import DecomposabilityConfig
from sae_lens_meta.training.decomposability import DecomposabilityMixin


@dataclass
class MetaTopKTrainingSAEConfig(DecomposabilityConfig, TopKTrainingSAEConfig):
    """
    Configuration class for training a MetaTopKTrainingSAE, architecture `meta_topk`.
    """


class MetaTopKTrainingSAE(DecomposabilityMixin, TopKTrainingSAE):
    """A TopK SAE of SAELens, penalised for rows that a meta SAE explains."""

    cfg: MetaTopKTrainingSAEConfig  # type: ignore[assignment]


@dataclass
class MetaJumpReLUTrainingSAEConfig(DecomposabilityConfig, JumpReLUTrainingSAEConfig):
    """
    Configuration class for training a MetaJumpReLUTrainingSAE, architecture `meta_jumprelu`.
    """


class MetaJumpReLUTrainingSAE(DecomposabilityMixin, JumpReLUTrainingSAE):
    """A JumpReLU SAE of SAELens, penalised for rows that a meta SAE explains."""

    cfg: MetaJumpReLUTrainingSAEConfig  # type: ignore[assignment]


@dataclass
class MetaStandardTrainingSAEConfig(DecomposabilityConfig, StandardTrainingSAEConfig):
    """
    Configuration class for training a MetaStandardTrainingSAE, architecture `meta_standard`.
    """


class MetaStandardTrainingSAE(DecomposabilityMixin, StandardTrainingSAE):
    """A standard (L1) SAE of SAELens, penalised for rows that a meta SAE explains."""

    cfg: MetaStandardTrainingSAEConfig  # type: ignore[assignment]


@dataclass
class MetaGatedTrainingSAEConfig(DecomposabilityConfig, GatedTrainingSAEConfig):
    """
    Configuration class for training a MetaGatedTrainingSAE, architecture `meta_gated`.
    """


class MetaGatedTrainingSAE(DecomposabilityMixin, GatedTrainingSAE):
    """A gated SAE of SAELens, penalised for rows that a meta SAE explains."""

    cfg: MetaGatedTrainingSAEConfig  # type: ignore[assignment]


@dataclass
class MetaMatryoshkaBatchTopKTrainingSAEConfig(
    DecomposabilityConfig, MatryoshkaBatchTopKTrainingSAEConfig
):
    """
    Configuration class for training a MetaMatryoshkaBatchTopKTrainingSAE, architecture `meta_matryoshka_batchtopk`.
    """


class MetaMatryoshkaBatchTopKTrainingSAE(
    DecomposabilityMixin, MatryoshkaBatchTopKTrainingSAE
):
    """A Matryoshka BatchTopK SAE of SAELens, penalised for rows that a meta SAE explains."""

    cfg: MetaMatryoshkaBatchTopKTrainingSAEConfig  # type: ignore[assignment]
