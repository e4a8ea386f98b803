"""BatchTopK trained in the space of its normalised inputs, the base of both SAEs."""

from collections.abc import Callable
from typing import Any

import torch
from sae_lens import BatchTopKTrainingSAE
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from sae_lens.saes.topk_sae import act_times_W_dec, calculate_topk_aux_acts
from typing_extensions import override

from sae_lens_meta.batch_topk import ExactBatchTopK

INFERENCE_WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")


class NormalizedBatchTopKTrainingSAE(BatchTopKTrainingSAE):
    """
    SAELens's BatchTopK with its losses between normalised input and reconstruction.

    That is how the paper takes them. SAELens undoes `layer_norm` first, so that the few
    tokens of huge norm dominate, and refuses its auxiliary loss there. Without a run-time
    normalisation the two classes are the same, bit for bit.
    """

    @override
    def get_activation_fn(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return ExactBatchTopK(self.cfg.k)

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """
        One pass over `step_input.sae_in`, `[batch, d_in]`.

        Losses are summed over dimensions and averaged over the batch, as SAELens reports
        them. `sae_in` and `sae_out` of the output are in the space of the input.
        """
        target = self.run_time_activation_norm_fn_in(step_input.sae_in.to(self.dtype))
        feature_acts, hidden_pre = self.encode_with_hidden_pre(step_input.sae_in)
        recons = self._decode_normalized(feature_acts) + self.b_dec
        recons = self.hook_sae_recons(recons)

        mse_loss = self.mse_loss_fn(recons, target).sum(dim=-1).mean()
        aux_loss = self._dead_latent_loss(
            (target - recons).detach(), hidden_pre, step_input.dead_neuron_mask
        )
        self.update_topk_threshold(feature_acts)
        return TrainStepOutput(
            sae_in=step_input.sae_in,
            sae_out=self.run_time_activation_norm_fn_out(recons),
            feature_acts=feature_acts,
            hidden_pre=hidden_pre,
            loss=mse_loss + aux_loss,
            losses={
                "mse_loss": mse_loss,
                "auxiliary_reconstruction_loss": aux_loss,
            },
            metrics={"topk_threshold": self.topk_threshold},
        )

    def _decode_normalized(self, feature_acts: torch.Tensor) -> torch.Tensor:
        return act_times_W_dec(
            feature_acts, self.W_dec, self.cfg.rescale_acts_by_decoder_norm
        )

    def _dead_latent_loss(
        self,
        residual: torch.Tensor,
        hidden_pre: torch.Tensor,
        dead_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """
        SAELens's auxiliary loss on a residual `[batch, d_in]` in the normalised space.

        The top `d_in / 2` dead latents reconstruct what the living ones left over; the
        loss shrinks in proportion where fewer are dead.
        """
        n_dead = 0 if dead_mask is None else int(dead_mask.sum())
        if dead_mask is None or n_dead == 0:
            return residual.new_tensor(0.0)
        k_aux = residual.shape[-1] // 2
        acts = calculate_topk_aux_acts(min(k_aux, n_dead), hidden_pre, dead_mask)
        loss = (self._decode_normalized(acts) - residual).pow(2).sum(dim=-1).mean()
        return self.cfg.aux_loss_coefficient * min(n_dead / k_aux, 1.0) * loss

    @torch.no_grad()
    def set_threshold(self, inputs: torch.Tensor) -> None:
        """
        Sets the threshold to where BatchTopK cuts `inputs`, `[n, d_in]`, now.

        SAELens's running threshold starts at 0 and lags a hundred steps behind weights
        that move fast in a short run; gated by it, the L0 comes out far from k. The
        threshold lies halfway to the largest value left out, since a JumpReLU does not
        pass a value at its threshold.
        """
        acts, hidden_pre = self.encode_with_hidden_pre(inputs)
        if (acts > 0).any():
            cut = acts[acts > 0].min()
            left_out = (hidden_pre * (hidden_pre < cut)).max()
            self.topk_threshold = ((cut + left_out) / 2).to(self.topk_threshold)

    @override
    def process_state_dict_for_saving_inference(
        self, state_dict: dict[str, Any]
    ) -> None:
        super().process_state_dict_for_saving_inference(state_dict)
        for name in set(state_dict) - set(INFERENCE_WEIGHTS):
            del state_dict[name]
