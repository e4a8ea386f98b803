"""The penalty on decomposable decoder rows, over any training architecture of SAELens."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from sae_lens.saes.sae import (
    TrainCoefficientConfig,
    TrainingSAE,
    TrainStepInput,
    TrainStepOutput,
)
from typing_extensions import override

from sae_lens_meta.training.backend import Beside
from sae_lens_meta.training.carried import CarriesMetaSAE
from sae_lens_meta.training.config import DecomposabilityConfig
from sae_lens_meta.training.held_selection import HeldMetaSAE
from sae_lens_meta.training.implied_overlap import ImpliedOverlap
from sae_lens_meta.training.meta_config import MetaSAEConfig, implied_by
from sae_lens_meta.training.meta_fit import meta_fit
from sae_lens_meta.training.meta_sae import MetaSAE
from sae_lens_meta.training.orthogonality import Orthogonality
from sae_lens_meta.training.penalty import decomposability
from sae_lens_meta.training.watch import WatchedSteps

Overlap = Orthogonality | ImpliedOverlap
# a mixin that is checked as what it is mixed into
_Base = TrainingSAE[Any] if TYPE_CHECKING else object


class DecomposabilityMixin(WatchedSteps, CarriesMetaSAE, _Base):
    """
    Trains a meta SAE beside an SAE and penalises the decoder rows that it explains.

    It stands before a training class of SAELens among the bases of a class. The loss of a step
    is that class's own plus `lambda_2 * d_in * mean_i p_i` (arXiv:2604.03436). The paper averages
    its squared error over dimensions where SAELens sums it: the factor `d_in` makes
    `decomposability_coefficient` mean the paper's lambda_2.

    With another `penalty` p_i is that one's, and no meta SAE is trained. `meta_sae` and `overlap`
    are None for a solo SAE (`decomposability_coefficient=0`), which is the class without the mixin.
    """

    cfg: DecomposabilityConfig
    overlap: Overlap | None

    def __init__(self, cfg: Any, use_error_term: bool = False):
        with _seeded(cfg.init_seed):
            super().__init__(cfg, use_error_term)
            self.carry(self._new_meta_sae())
            self.overlap = self._new_overlap()
        self.beside = Beside()

    def _new_overlap(self) -> Overlap | None:
        if self.cfg.decomposability_coefficient == 0:
            return None
        if self.cfg.penalty == "orthogonality":
            return Orthogonality()
        if self.cfg.penalty == "implied_overlap":
            return ImpliedOverlap(self.cfg.d_sae, device=self.W_dec.device)
        return None

    def _new_meta_sae(self) -> MetaSAE | None:
        is_solo = self.cfg.decomposability_coefficient == 0
        if is_solo or self.cfg.penalty != "decomposability":
            return None
        if self.cfg.meta_selection == "cycle":
            return HeldMetaSAE(self.meta_config(), n_rows=self.cfg.d_sae)
        return MetaSAE(self.meta_config())

    def meta_config(self) -> MetaSAEConfig:
        """The configuration of the meta SAE."""
        return implied_by(self.cfg)

    @override
    def get_coefficients(self) -> dict[str, TrainCoefficientConfig | float]:
        coefficients = super().get_coefficients()  # type: ignore[safe-super]
        if self.meta_sae is None and self.overlap is None:
            return coefficients
        penalty = TrainCoefficientConfig(
            value=self.cfg.decomposability_coefficient,
            warm_up_steps=self.cfg.decomposability_warm_up_steps,
        )
        return {**coefficients, self.cfg.penalty: penalty}

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """Loss of one primary step on `[batch, d_in]`, preceded by the meta steps when due."""
        recons = None
        if self.meta_sae is not None:
            recons = self._reconstruct_rows(self.meta_sae)
        output = super().training_forward_pass(step_input)
        if self.meta_sae is not None and recons is not None:
            recons = self.beside.join(recons)
            penalties = self._decomposability(self.meta_sae, recons, output)
            self._charge(penalties, output, step_input)
        if self.overlap is not None:
            self.overlap.count(output.feature_acts)
            with torch.autocast(self.W_dec.device.type, enabled=False):
                penalties = self.overlap.penalties(self.W_dec)
            self._charge(penalties, output, step_input)
        self.watch(output.loss, step_input)
        return output

    def _charge(
        self,
        penalties: torch.Tensor,
        output: TrainStepOutput,
        step_input: TrainStepInput,
    ) -> None:
        """Adds the mean of the latents' penalties, `[d_sae]`, to the loss."""
        penalty, name = penalties.mean(), self.cfg.penalty
        loss = step_input.coefficients[name] * self.cfg.d_in * penalty
        output.loss = output.loss + loss
        output.losses[f"{name}_loss"] = loss
        output.metrics["mean_penalty"] = penalty.detach()

    @torch.compiler.disable()
    def _reconstruct_rows(self, meta_sae: MetaSAE) -> torch.Tensor:
        """r_i of each decoder row, `[d_sae, d_in]`, by the meta SAE after the steps that are due."""
        with self.beside.work_on(self.W_dec):
            self._advance_cycle()
            return meta_sae.reconstruct(self.W_dec.detach().to(meta_sae.dtype))

    def _advance_cycle(self) -> None:
        """
        Trains the meta SAE once `primary_steps_per_cycle` primary steps lie behind it.

        A step begins after the trainer's optimizer has finished the one before, so the
        meta phase of a cycle runs at the start of the next. The place in the cycle is a
        buffer: a checkpoint keeps it.
        """
        assert self.meta_sae is not None
        if int(self.steps_in_cycle) >= self.cfg.primary_steps_per_cycle:
            self.meta_sae.fit(self.W_dec, self.cfg.meta_steps_per_cycle)
            self.steps_in_cycle.zero_()
        if isinstance(self.meta_sae, HeldMetaSAE) and int(self.steps_in_cycle) == 0:
            self.meta_sae.hold(self.W_dec.detach().to(self.meta_sae.dtype))
        self.steps_in_cycle += 1

    def _decomposability(
        self, meta_sae: MetaSAE, recons: torch.Tensor, output: TrainStepOutput
    ) -> torch.Tensor:
        """p_i of each latent, `[d_sae]`; how well the rows are explained joins the metrics."""
        W_dec = self.W_dec.to(meta_sae.dtype)
        with torch.autocast(recons.device.type, enabled=False):
            penalties, squared_distances = decomposability(
                W_dec, recons, self.cfg.decomposability_bandwidth
            )
            output.metrics |= meta_fit(W_dec, squared_distances)
        if isinstance(meta_sae, HeldMetaSAE) and meta_sae.share_missed is not None:
            output.metrics["meta_share_missed"] = meta_sae.share_missed
        return penalties


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds the CPU's generator for what happens inside, and leaves it as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
