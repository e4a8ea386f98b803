"""MetaSAEs for SAELens. Importing this package registers the architecture `meta`."""

from sae_lens_meta.config import MetaTrainingSAEConfig
from sae_lens_meta.meta_sae import MetaSAE
from sae_lens_meta.registration import register
from sae_lens_meta.training_sae import MetaTrainingSAE
from sae_lens_meta.zoo import list_pretrained, load_meta_sae, register_zoo

__version__ = "0.1.0"

register()
register_zoo()

__all__ = [
    "MetaSAE",
    "MetaTrainingSAE",
    "MetaTrainingSAEConfig",
    "list_pretrained",
    "load_meta_sae",
    "register",
    "register_zoo",
]
