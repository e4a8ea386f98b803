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
    """


class MetaTopKTrainingSAE(DecomposabilityMixin, TopKTrainingSAE):
    """A TopK SAE of SAELens, penalised for rows that a meta SAE explains."""

    cfg: MetaTopKTrainingSAEConfig  # type: ignore[assignment]


@dataclass
class MetaJumpReLUTrainingSAEConfig(DecomposabilityConfig, JumpReLUTrainingSAEConfig):
    """
    Configuration class for training a MetaJumpReLUTrainingSAE, architecture `meta_jumprelu`.

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
    """


class MetaJumpReLUTrainingSAE(DecomposabilityMixin, JumpReLUTrainingSAE):
    """A JumpReLU SAE of SAELens, penalised for rows that a meta SAE explains."""

    cfg: MetaJumpReLUTrainingSAEConfig  # type: ignore[assignment]


@dataclass
class MetaStandardTrainingSAEConfig(DecomposabilityConfig, StandardTrainingSAEConfig):
    """
    Configuration class for training a MetaStandardTrainingSAE, architecture `meta_standard`.

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
    """


class MetaStandardTrainingSAE(DecomposabilityMixin, StandardTrainingSAE):
    """A standard (L1) SAE of SAELens, penalised for rows that a meta SAE explains."""

    cfg: MetaStandardTrainingSAEConfig  # type: ignore[assignment]


@dataclass
class MetaGatedTrainingSAEConfig(DecomposabilityConfig, GatedTrainingSAEConfig):
    """
    Configuration class for training a MetaGatedTrainingSAE, architecture `meta_gated`.

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
    """


class MetaMatryoshkaBatchTopKTrainingSAE(
    DecomposabilityMixin, MatryoshkaBatchTopKTrainingSAE
):
    """A Matryoshka BatchTopK SAE of SAELens, penalised for rows that a meta SAE explains."""

    cfg: MetaMatryoshkaBatchTopKTrainingSAEConfig  # type: ignore[assignment]
