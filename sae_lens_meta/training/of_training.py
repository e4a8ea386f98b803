"""State that a training keeps in an SAE, and that an exported SAE does not have."""

from typing import TYPE_CHECKING, Any

from sae_lens.saes.sae import TrainingSAE
from typing_extensions import override

# a mixin that is checked as what it is mixed into
_Base = TrainingSAE[Any] if TYPE_CHECKING else object


class LeavesOut(_Base):
    """A training SAE whose tensors with a name that begins as in `of_training` are not exported."""

    of_training: tuple[str, ...] = ()

    @override
    def process_state_dict_for_saving_inference(
        self, state_dict: dict[str, Any]
    ) -> None:
        super().process_state_dict_for_saving_inference(state_dict)
        for name in list(state_dict):
            if name.startswith(self.of_training):
                del state_dict[name]
