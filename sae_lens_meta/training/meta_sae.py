"""The meta SAE: a dictionary of the directions that the primary's decoder rows share."""

from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import BatchTopKTrainingSAEConfig
from typing_extensions import override

from sae_lens_meta.training.backend import Sums, backend_of, products_at, starts_of
from sae_lens_meta.training.host_counts import HostCounts
from sae_lens_meta.training.normalized_batchtopk import (
    DeadLatents,
    Nearby,
    NormalizedBatchTopKTrainingSAE,
    Reconstruction,
)
from sae_lens_meta.training.normalized_rows import LAYER_NORM_EPS, NormalizedRows
from sae_lens_meta.training.penalty import unit_rows
from sae_lens_meta.training.sparse_product import ActiveCodes, fired_latents

# A meta latent is dead after this many meta steps without firing: the author's window. He counts
# the step at hand, we those behind it, as SAELens does for the primary.
DEAD_AFTER_STEPS = 5

ADAM_EPS = 1e-8  # torch's
OF_TRAINING = ("adam_step", "steps_since_fired", "held")


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
    use_sparse_activations: bool | None = None  # type: ignore[assignment]

    @override
    @classmethod
    def architecture(cls) -> str:
        # what stands in the metadata of the exported SAE: the training it came from
        return "meta"


class MetaSAE(HostCounts, NormalizedBatchTopKTrainingSAE):
    """
    BatchTopK SAE over decoder rows, with an optimizer of its own.

    Adam's moments and step and the count of dead latents are buffers, so that they move,
    save and load with the weights. Its training state is saved in the checkpoint of the
    primary; on its own it is saved by `save_inference_model`.
    """

    cfg: MetaSAEConfig  # type: ignore[assignment]
    adam_step: torch.Tensor
    steps_since_fired: torch.Tensor
    held: torch.Tensor
    host_counts = ("adam_step",)
    nearby: Nearby | None = None
    share_missed: torch.Tensor | None = None

    def __init__(self, cfg: MetaSAEConfig, n_held: int = 0):
        """
        Args:
            cfg: of the meta SAE.
            n_held: codes of the rows, of which the places can be held for a cycle.
        """
        super().__init__(cfg)
        for name, parameter in list(self.named_parameters()):
            for moment in ("exp_avg", "exp_avg_sq"):
                self.register_buffer(f"{moment}_{name}", torch.zeros_like(parameter))
        device = self.W_dec.device
        self.register_buffer("adam_step", torch.tensor(0))
        self.register_buffer(
            "steps_since_fired", torch.zeros(cfg.d_sae, dtype=torch.long, device=device)
        )
        if n_held:
            held = torch.full((n_held,), -1, device=device)
            self.register_buffer("held", held)

    def fit(self, W_dec: torch.Tensor, n_steps: int) -> None:
        """
        Takes `n_steps` Adam steps on the unit rows of `W_dec`, all of them each time.

        Nothing flows back into `W_dec`, `[d_sae, d_in]`, and autocast is off: the meta SAE
        is small and the distances it is judged by are not.
        """
        W_dec = W_dec.detach().to(self.dtype)
        self.nearby = Nearby() if hasattr(self, "held") else None
        with torch.enable_grad(), torch.autocast(W_dec.device.type, enabled=False):
            target = self._normalized(W_dec, torch.zeros_like(self.b_dec)).copy()
            x = torch.empty_like(target)
            by_silence, counts = self._by_silence(n_steps)
            for n_might in counts:
                result = self._pass(W_dec, target, x, by_silence[:n_might])
                (result.mse_loss + result.aux_loss).backward()
                self._take_adam_step()
                fired = fired_latents(result.feature_acts)
                self.steps_since_fired = (self.steps_since_fired + 1) * ~fired

    def _pass(
        self,
        W_dec: torch.Tensor,
        target: torch.Tensor,
        x: torch.Tensor,
        might_be_dead: torch.Tensor,
    ) -> Reconstruction:
        if not self.passes_sparse():
            return self.dense_pass(unit_rows(W_dec), target, self.dead_latents)
        torch.sub(target, self._input_bias(), out=x)
        dead = None
        if len(might_be_dead):
            is_dead = self.dead_latents[might_be_dead]
            if backend_of(W_dec).reads_freely:
                might_be_dead, is_dead = might_be_dead[is_dead].sort().values, None
            dead = DeadLatents(might_be_dead, is_dead) if len(might_be_dead) else None
        return self.sparse_pass(x, target, dead, self.nearby)

    @torch.no_grad()
    def reconstruct(self, W_dec: torch.Tensor) -> torch.Tensor:
        """Reconstruction r_i of each row of `W_dec`, `[d_sae, d_in]`, at norm 1."""
        with torch.autocast(W_dec.device.type, enabled=False):
            if not self.passes_sparse():
                return self(unit_rows(W_dec))
            rows = self._normalized(W_dec, self._input_bias())
            codes, _ = self.encode_active(rows)
            return self._decoded(codes, rows)

    @torch.no_grad()
    def hold(self, W_dec: torch.Tensor) -> None:
        """
        Selects for each row of `W_dec`, `[d_sae, d_in]`, the latents of the cycle ahead.

        `share_missed` then says of how many of them the last meta phase did not look at.
        """
        with torch.autocast(W_dec.device.type, enabled=False):
            rows = self._normalized(W_dec, self._input_bias())
            codes, _ = self.encode_active(rows)
            flat = codes.samples * self.cfg.d_sae + codes.latents
            n_none = len(self.held) - len(flat)  # where fewer are positive
            self.held = torch.cat([flat.new_full((n_none,), -1), flat])
            if self.nearby is not None and self.nearby.flat is not None:
                near = self.nearby.flat
                places = torch.searchsorted(near, flat).clamp(max=len(near) - 1)
                self.share_missed = 1 - (near[places] == flat).double().mean()

    @torch.no_grad()
    def reconstruct_held(self, W_dec: torch.Tensor) -> torch.Tensor:
        """
        As `reconstruct`, of the latents that `hold` selected, with their values now.

        The normalised rows are never made: with u_i the unit row, m_i its mean and s_i its
        deviation, `(u_i - m_i) / s_i . e_j = (W_i . e_j / ||W_i|| - m_i sum(e_j)) / s_i`.
        """
        with torch.autocast(W_dec.device.type, enabled=False):
            backend, encoder = backend_of(W_dec), self.encoder()
            norms = W_dec.norm(dim=1)
            mean, std = self._moments(W_dec.sum(dim=1) / norms)
            places = self.held.clamp(min=0)
            rows, latents = places // self.cfg.d_sae, places % self.cfg.d_sae
            products = products_at(places, W_dec, encoder.rows) / norms[rows]
            products -= mean[rows] * encoder.rows.sum(dim=1)[latents]
            products /= std[rows] + LAYER_NORM_EPS * self._is_layer_norm
            shifts = encoder.biases - encoder.rows @ self._input_bias()
            acts = (products + shifts[latents]).relu() * (self.held >= 0)
            weights = acts / encoder.norms[latents] * std[rows]
            sums = Sums(weights, latents, starts_of(rows, len(W_dec)))
            recons = backend.weighted_sums(sums, self.W_dec)
            # what comes back with the normalisation: s_i b_dec + m_i
            constant = torch.stack([self.b_dec, torch.ones_like(self.b_dec)])
            return recons.addmm_(torch.stack([std, mean], dim=1), constant)

    def _moments(self, sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation that layer_norm takes off unit rows with these sums, `[n]` each."""
        if not self._is_layer_norm:
            return torch.zeros_like(sums), torch.ones_like(sums)
        d_in = self.cfg.d_in
        mean = sums / d_in
        return mean, ((1 - d_in * mean.square()) / (d_in - 1)).sqrt()

    @property
    def _is_layer_norm(self) -> bool:
        return self.cfg.normalize_activations == "layer_norm"

    def _decoded(self, codes: ActiveCodes, rows: NormalizedRows) -> torch.Tensor:
        return rows.restore(codes.decode(self.W_dec).add_(self.b_dec))

    def _normalized(self, W_dec: torch.Tensor, shift: torch.Tensor) -> NormalizedRows:
        return NormalizedRows(W_dec, self._is_layer_norm, shift)

    def _input_bias(self) -> torch.Tensor:
        return self.b_dec.detach() * self.cfg.apply_b_dec_to_input

    def _by_silence(self, n_steps: int) -> tuple[torch.Tensor, list[int]]:
        """
        Latents by how long they have been silent, and how many of the first can be dead by then.

        A latent that is dead before a step was silent for so many steps fewer before the
        first: one look at the device tells the sizes for all of `n_steps`.
        """
        silent, order = self.steps_since_fired.sort(descending=True, stable=True)
        ahead = torch.arange(n_steps, device=silent.device)[:, None]
        counts = (silent + ahead >= DEAD_AFTER_STEPS).sum(dim=1)
        return order, counts.tolist()

    @property
    def dead_latents(self) -> torch.Tensor:
        """Mask `[meta_d_sae]` of meta latents that no row has used for a while."""
        return self.steps_since_fired >= DEAD_AFTER_STEPS

    @torch.no_grad()
    def _take_adam_step(self) -> None:
        """
        A step of Adam (arXiv:1412.6980, algorithm 1), its moments being buffers of this SAE.

        The operations and their order are those of `torch.optim.Adam`.
        """
        self.adam_step += 1
        step, beta1, beta2 = (
            int(self.adam_step),
            self.cfg.adam_beta1,
            self.cfg.adam_beta2,
        )
        rate = self.cfg.lr / (1 - beta1**step)
        scale = (1 - beta2**step) ** 0.5
        for name, parameter in self.named_parameters():
            if parameter.grad is None:
                continue
            mean = self.get_buffer(f"exp_avg_{name}")
            square = self.get_buffer(f"exp_avg_sq_{name}")
            mean.lerp_(parameter.grad, 1 - beta1)
            square.mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
            deviation = (square.sqrt() / scale).add_(ADAM_EPS)
            parameter.addcdiv_(mean, deviation, value=-rate)
            parameter.grad = None

    @override
    def process_state_dict_for_saving_inference(
        self, state_dict: dict[str, Any]
    ) -> None:
        super().process_state_dict_for_saving_inference(state_dict)
        for name in list(state_dict):
            if name.startswith("exp_avg_") or name in OF_TRAINING:
                del state_dict[name]
