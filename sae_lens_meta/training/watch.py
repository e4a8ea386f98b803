"""What is asked of a device now and then: whether losses were finite and selections exact."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sae_lens.saes.sae import TrainingSAE, TrainStepInput
from typing_extensions import override

from sae_lens_meta.training.backend import backend_of
from sae_lens_meta.training.meta_sae import MetaSAE
from sae_lens_meta.training.normalized_batchtopk import NormalizedBatchTopKTrainingSAE

# On a device that is not waited for, every so many steps it is asked whether all went well.
CHECK_EVERY = 100

# a mixin that is checked as what it is mixed into
_Base = TrainingSAE[Any] if TYPE_CHECKING else object


class WatchedSteps(_Base):
    """A training SAE whose weights are not saved once a loss was NaN or inf."""

    meta_sae: MetaSAE | None
    n_not_finite: torch.Tensor | int = 0

    @torch.compiler.disable()
    @torch.no_grad()
    def watch(self, loss: torch.Tensor, step_input: TrainStepInput) -> None:
        """Keeps in mind on the device that a loss was not finite, and asks it now and then."""
        if backend_of(loss).reads_freely:
            return
        self.n_not_finite = self.n_not_finite + ~torch.isfinite(loss.detach())
        step = step_input.n_training_steps
        if step_input.is_logging_step or step % CHECK_EVERY == CHECK_EVERY - 1:
            self.check_finite()
            self._resolve_doubt()

    def check_finite(self) -> None:
        """
        Raises:
            ValueError: if a loss was not finite since the last call, as is said at once on CPU.
        """
        n_bad, self.n_not_finite = int(self.n_not_finite), 0
        if n_bad:
            raise ValueError(
                f"The loss of {n_bad} of the last steps was NaN or inf, and the weights are spoiled; "
                "the last checkpoint is intact. Look for an overflow in the language model, for "
                "instance float16, or resume from it with a lower learning rate."
            )

    def _resolve_doubt(self) -> None:
        """Looks at more pairs from here on where a selection may not have been float32's."""
        selecting = {"primary": self, "meta": self.meta_sae}
        for name, sae in selecting.items():
            if not isinstance(sae, NormalizedBatchTopKTrainingSAE):
                continue
            n_in_doubt = int(sae.n_in_doubt)
            if not n_in_doubt:
                continue
            sae.n_in_doubt, sae.spare = 0, 2 * sae.spare
            warnings.warn(
                f"In {n_in_doubt} of the last selections of the {name} SAE, activations within "
                "a rounding in half precision of the cut may have changed places. From here on "
                f"{sae.spare:g} times as many as are kept are computed in float32, so that "
                "they cannot.",
                stacklevel=2,
            )

    @override
    def save_model(self, path: str | Path) -> tuple[Path, Path]:
        self.check_finite()
        return super().save_model(path)

    @override
    def save_inference_model(self, path: str | Path) -> tuple[Path, Path]:
        self.check_finite()
        return super().save_inference_model(path)
