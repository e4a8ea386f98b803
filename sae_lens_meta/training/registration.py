"""The one place of the training side that writes into SAELens."""

from sae_lens.registry import (
    SAE_TRAINING_CLASS_REGISTRY,
    register_sae_training_class,
)

from sae_lens_meta.training.config import MetaTrainingSAEConfig
from sae_lens_meta.training.joint import MetaTrainingSAE


def register() -> None:
    """
    Registers the training architecture `meta` with SAELens; again without effect.

    Raises:
        ValueError: if another package has taken the name `meta`.
    """
    name = MetaTrainingSAEConfig.architecture()
    registered = SAE_TRAINING_CLASS_REGISTRY.get(name)
    if registered is not None:
        owner = registered[0].__module__
        if owner != MetaTrainingSAE.__module__:
            raise ValueError(
                f"SAELens already has a training architecture {name!r}, from {owner}. "
                "Import either that package or sae_lens_meta, not both."
            )
        # a reloaded module brings new classes under the old name
        del SAE_TRAINING_CLASS_REGISTRY[name]
    register_sae_training_class(name, MetaTrainingSAE, MetaTrainingSAEConfig)
