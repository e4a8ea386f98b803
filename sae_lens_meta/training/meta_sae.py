"""The meta SAE: a dictionary of the directions that the primary's decoder rows share."""

from collections.abc import Sequence

import torch

from sae_lens_meta.training.adam import MOMENTS, BufferedAdam
from sae_lens_meta.training.backend import Graphs
from sae_lens_meta.training.meta_config import MetaSAEConfig
from sae_lens_meta.training.normalized_batchtopk import (
    Nearby,
    NormalizedBatchTopKTrainingSAE,
    Reconstruction,
)
from sae_lens_meta.training.normalized_rows import NormalizedRows
from sae_lens_meta.training.of_training import LeavesOut
from sae_lens_meta.training.penalty import unit_rows
from sae_lens_meta.training.silence import DEAD_AFTER_STEPS, by_silence, dead_among
from sae_lens_meta.training.sparse_product import fired_latents


class MetaSAE(BufferedAdam, LeavesOut, NormalizedBatchTopKTrainingSAE):
    """
    BatchTopK SAE over decoder rows, with an optimizer of its own.

    Adam's moments and step and the count of dead latents are buffers, so that they move,
    save and load with the weights. Its training state is saved in the checkpoint of the
    primary; on its own it is saved by `save_inference_model`.
    """

    cfg: MetaSAEConfig  # type: ignore[assignment]
    steps_since_fired: torch.Tensor
    near: torch.Tensor | None = (
        None  # where this meta phase looks, once it has selected
    )
    looks_near = False
    of_training = (*MOMENTS, "adam_step", "steps_since_fired")

    def __init__(self, cfg: MetaSAEConfig):
        super().__init__(cfg)
        self.add_adam_state()
        silent = torch.zeros(cfg.d_sae, dtype=torch.long, device=self.W_dec.device)
        self.register_buffer("steps_since_fired", silent)
        self.graphs = Graphs(("steps_since_fired", "topk_threshold", "n_in_doubt"))

    def fit(self, W_dec: torch.Tensor, n_steps: int) -> None:
        """
        Takes `n_steps` Adam steps on the unit rows of `W_dec`, all of them each time.

        Nothing flows back into `W_dec`, `[d_sae, d_in]`, and autocast is off: the meta SAE
        is small and the distances it is judged by are not.
        """
        W_dec = W_dec.detach().to(self.dtype)
        self.near = None
        with torch.enable_grad(), torch.autocast(W_dec.device.type, enabled=False):
            target = self._normalized(W_dec, torch.zeros_like(self.b_dec)).copy()
            latents, sizes = by_silence(self.steps_since_fired, n_steps)
            for n_might in sizes:
                might_be_dead = latents[:n_might]
                self.take_adam_step(self._gradients(W_dec, target, might_be_dead))

    def _gradients(
        self, W_dec: torch.Tensor, target: torch.Tensor, might_be_dead: torch.Tensor
    ) -> Sequence[torch.Tensor]:
        """Of the parameters that are trained, in one step; and counts who fired in it."""
        if not self.passes_sparse():
            result = self.dense_pass(unit_rows(W_dec), target, self.dead_latents)
            return self._gradients_of(result)
        inputs = [target, might_be_dead, *([] if self.near is None else [self.near])]
        found = self.graphs.call(
            self, self._sparse_gradients, *inputs, settings=self._settings
        )
        if self.looks_near:
            *found, self.near = found
        return found

    def _sparse_gradients(
        self,
        target: torch.Tensor,
        might_be_dead: torch.Tensor,
        near: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """The gradients; and, if the steps look near those of the first, where that is."""
        x = target - self._input_bias()
        dead = dead_among(might_be_dead, self.steps_since_fired)
        nearby = Nearby(near) if self.looks_near else None
        result = self.sparse_pass(x, target, dead, nearby)
        found = self._gradients_of(result)
        if nearby is None:
            return found
        assert nearby.flat is not None
        return *found, nearby.flat

    def _gradients_of(self, result: Reconstruction) -> tuple[torch.Tensor, ...]:
        fired = fired_latents(result.feature_acts)
        self.steps_since_fired = (self.steps_since_fired + 1) * ~fired
        loss = result.mse_loss + result.aux_loss
        return torch.autograd.grad(loss, [p for _, p in self.trained()])

    @torch.no_grad()
    def reconstruct(self, W_dec: torch.Tensor) -> torch.Tensor:
        """Reconstruction r_i of each row of `W_dec`, `[d_sae, d_in]`, at norm 1."""
        with torch.autocast(W_dec.device.type, enabled=False):
            if not self.passes_sparse():
                return self(unit_rows(W_dec))
            return self.graphs.call(
                self, self._reconstruct, W_dec, settings=self._settings
            )[0]

    def _reconstruct(self, W_dec: torch.Tensor) -> tuple[torch.Tensor]:
        rows = self._normalized(W_dec, self._input_bias())
        codes, _ = self.encode_active(rows)
        recons = codes.decode(self.W_dec).add_(self.b_dec)
        return (rows.restore(recons),)

    @property
    def _settings(self) -> tuple[float, float]:
        """Numbers that a selection goes by."""
        return self.spare, self.activation_fn.k

    @property
    def _is_layer_norm(self) -> bool:
        return self.cfg.normalize_activations == "layer_norm"

    def _normalized(self, W_dec: torch.Tensor, shift: torch.Tensor) -> NormalizedRows:
        return NormalizedRows(W_dec, self._is_layer_norm, shift)

    def _input_bias(self) -> torch.Tensor:
        return self.b_dec.detach() * self.cfg.apply_b_dec_to_input

    @property
    def dead_latents(self) -> torch.Tensor:
        """Mask `[meta_d_sae]` of meta latents that no row has used for a while."""
        return self.steps_since_fired >= DEAD_AFTER_STEPS
