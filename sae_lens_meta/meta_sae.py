"""The meta SAE: a dictionary of the directions that the primary's decoder rows share."""

from dataclasses import dataclass

import torch
from sae_lens import BatchTopKTrainingSAEConfig
from sae_lens.saes.sae import TrainStepInput
from typing_extensions import override

from sae_lens_meta.normalized_batchtopk import NormalizedBatchTopKTrainingSAE

# A meta latent is dead after this many meta steps without firing: the author's window.
DEAD_AFTER_STEPS = 5


@dataclass
class MetaSAEConfig(BatchTopKTrainingSAEConfig):
    """
    Configuration of the meta SAE that `MetaTrainingSAEConfig` implies.

    Args:
        lr (float): Learning rate of its own Adam.
        adam_beta1 (float): The beta1 parameter of its own Adam.
        adam_beta2 (float): The beta2 parameter of its own Adam.
    """

    lr: float = 3e-4
    adam_beta1: float = 0.9
    adam_beta2: float = 0.99

    @override
    @classmethod
    def architecture(cls) -> str:
        # what stands in the metadata of the exported SAE: the training it came from
        return "meta"


class MetaSAE(NormalizedBatchTopKTrainingSAE):
    """
    BatchTopK SAE over decoder rows, with an optimizer of its own.

    Adam's moments and step and the count of dead latents are buffers, so that they move,
    save and load with the weights. Its training state is saved in the checkpoint of the
    primary; on its own it is saved by `save_inference_model`.
    """

    cfg: MetaSAEConfig  # type: ignore[assignment]
    adam_step: torch.Tensor
    steps_since_fired: torch.Tensor

    def __init__(self, cfg: MetaSAEConfig):
        super().__init__(cfg)
        for name, parameter in list(self.named_parameters()):
            for moment in ("exp_avg", "exp_avg_sq"):
                self.register_buffer(f"{moment}_{name}", torch.zeros_like(parameter))
        device = self.W_dec.device
        self.register_buffer("adam_step", torch.tensor(0, device=device))
        self.register_buffer(
            "steps_since_fired", torch.zeros(cfg.d_sae, dtype=torch.long, device=device)
        )

    def fit(self, rows: torch.Tensor, n_steps: int) -> None:
        """
        Takes `n_steps` Adam steps on `rows`, `[n_rows, d_in]`, all of them each time.

        Nothing flows back into `rows`, and autocast is off: the meta SAE is small and
        the distances it is judged by are not.
        """
        rows = rows.detach()
        optimizer = self._adam()
        with torch.enable_grad(), torch.autocast(rows.device.type, enabled=False):
            for _ in range(n_steps):
                output = self.training_forward_pass(self._step_input(rows))
                output.loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                self.adam_step += 1
                fired = (output.feature_acts > 0).any(dim=0)
                self.steps_since_fired = (self.steps_since_fired + 1) * ~fired

    @torch.no_grad()
    def reconstruct(self, rows: torch.Tensor) -> torch.Tensor:
        """Reconstruction r_i of each row, `[n_rows, d_in]`, with the meta SAE frozen."""
        with torch.autocast(rows.device.type, enabled=False):
            return self(rows)

    @property
    def dead_latents(self) -> torch.Tensor:
        """Mask `[meta_d_sae]` of meta latents that no row has used for a while."""
        return self.steps_since_fired >= DEAD_AFTER_STEPS

    def _step_input(self, rows: torch.Tensor) -> TrainStepInput:
        return TrainStepInput(
            sae_in=rows,
            coefficients={},
            dead_neuron_mask=self.dead_latents,
            n_training_steps=int(self.adam_step),
            is_logging_step=False,
        )

    def _adam(self) -> torch.optim.Adam:
        """torch's Adam over this SAE's parameters, its state being this SAE's buffers."""
        optimizer = torch.optim.Adam(
            self.parameters(),
            lr=self.cfg.lr,
            betas=(self.cfg.adam_beta1, self.cfg.adam_beta2),
        )
        for name, parameter in self.named_parameters():
            optimizer.state[parameter] = {
                "step": torch.tensor(float(self.adam_step)),
                "exp_avg": self.get_buffer(f"exp_avg_{name}"),
                "exp_avg_sq": self.get_buffer(f"exp_avg_sq_{name}"),
            }
        return optimizer
