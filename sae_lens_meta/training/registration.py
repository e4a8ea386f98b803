"""The one place of the training side that writes into SAELens."""

from sae_lens.registry import (
    SAE_TRAINING_CLASS_REGISTRY,
    register_sae_training_class,
)

from sae_lens_meta.training import architectures as made
from sae_lens_meta.training.joint import MetaTrainingSAE, MetaTrainingSAEConfig

ARCHITECTURES = (
    (MetaTrainingSAE, MetaTrainingSAEConfig),
    (made.MetaTopKTrainingSAE, made.MetaTopKTrainingSAEConfig),
    (made.MetaJumpReLUTrainingSAE, made.MetaJumpReLUTrainingSAEConfig),
    (made.MetaStandardTrainingSAE, made.MetaStandardTrainingSAEConfig),
    (made.MetaGatedTrainingSAE, made.MetaGatedTrainingSAEConfig),
    (
        made.MetaMatryoshkaBatchTopKTrainingSAE,
        made.MetaMatryoshkaBatchTopKTrainingSAEConfig,
    ),
)


def register() -> None:
    """
    Registers the training architectures with SAELens; again without effect.

    Raises:
        ValueError: if another package has taken one of their names.
    """
    for sae_class, config_class in ARCHITECTURES:
        name = config_class.architecture()
        registered = SAE_TRAINING_CLASS_REGISTRY.get(name)
        if registered is not None:
            owner = registered[0].__module__
            if owner != sae_class.__module__:
                raise ValueError(
                    f"SAELens already has a training architecture {name!r}, from {owner}. "
                    "Import either that package or sae_lens_meta, not both."
                )
            # a reloaded module brings new classes under the old name
            del SAE_TRAINING_CLASS_REGISTRY[name]
        register_sae_training_class(name, sae_class, config_class)  # type: ignore[arg-type]
