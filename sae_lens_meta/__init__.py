"""
MetaSAEs for SAELens. Importing this package registers its architectures and its releases.

That happens as soon as SAELens itself is imported: at once, where it is already. So the command
line tells its options without waiting for torch.
"""

from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from sae_lens_meta.training.joint import MetaTrainingSAE, MetaTrainingSAEConfig
    from sae_lens_meta.training.meta_sae import MetaSAE
    from sae_lens_meta.training.registration import register
    from sae_lens_meta.zoo.names import list_pretrained, load_meta_sae, register_zoo

__version__ = "0.1.0"

_HOMES = {
    "MetaSAE": "training.meta_sae",
    "MetaTrainingSAE": "training.joint",
    "MetaTrainingSAEConfig": "training.joint",
    "list_pretrained": "zoo.names",
    "load_meta_sae": "zoo.names",
    "register": "training.registration",
    "register_zoo": "zoo.names",
}

__all__ = [
    "MetaSAE",
    "MetaTrainingSAE",
    "MetaTrainingSAEConfig",
    "list_pretrained",
    "load_meta_sae",
    "register",
    "register_zoo",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


@wrapt.when_imported("sae_lens")
def _register(_sae_lens: Any) -> None:
    from sae_lens_meta.training.registration import register
    from sae_lens_meta.zoo.names import register_zoo

    register()
    register_zoo()
