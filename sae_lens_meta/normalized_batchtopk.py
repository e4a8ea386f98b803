"""BatchTopK trained in the space of its normalised inputs, the base of both SAEs."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from sae_lens.saes.topk_sae import act_times_W_dec, calculate_topk_aux_acts
from typing_extensions import override

from sae_lens_meta.batch_topk import ExactBatchTopK, RunningTopK, blocks
from sae_lens_meta.sparse_product import (
    ActiveCodes,
    DeadCodes,
    Reconstruct,
    SquaredError,
    has_sparse_products,
    sparse_is_faster,
)

INFERENCE_WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")


class Rows(Protocol):
    """A matrix `[n, d_in]`, or what makes its rows when they are read."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> torch.Tensor: ...


class Reconstruction(NamedTuple):
    """
    What one pass gives, in the normalised space.

    Attributes:
        feature_acts: codes `[n, d_sae]`, a sparse COO tensor where the pass is sparse.
        hidden_pre: pre-activations times decoder norms, `[n, d_sae]`; in a sparse pass
            those of the active latents alone, which are `feature_acts`.
        recons: `[n, d_in]`.
        mse_loss: squared error, summed over dimensions and averaged over the batch.
        aux_loss: the weighted loss of the dead latents.
    """

    feature_acts: torch.Tensor
    hidden_pre: torch.Tensor
    recons: torch.Tensor
    mse_loss: torch.Tensor
    aux_loss: torch.Tensor


class NormalizedBatchTopKTrainingSAE(BatchTopKTrainingSAE):
    """
    SAELens's BatchTopK with its losses between normalised input and reconstruction.

    That is how the paper takes them. SAELens undoes `layer_norm` first, so that the few
    tokens of huge norm dominate, and refuses its auxiliary loss there. Without a run-time
    normalisation the dense pass and SAELens's class are the same, bit for bit; the sparse
    pass gives the same numbers to rounding, with one dense product instead of five.
    """

    def __init__(self, cfg: BatchTopKTrainingSAEConfig, use_error_term: bool = False):
        super().__init__(cfg, use_error_term)
        self.is_sparse = cfg.use_sparse_activations
        if cfg.use_sparse_activations is None:
            self.is_sparse = sparse_is_faster(cfg.d_sae, cfg.k, cfg.device)

    @override
    def initialize_weights(self) -> None:
        """Draws them on the CPU: the generators of other devices give other weights."""
        device = self.device
        if device.type != "meta":  # where weights that are loaded take their place
            self.device = torch.device("cpu")
        super().initialize_weights()
        super().to(device)

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
        inputs, dead_mask = step_input.sae_in, step_input.dead_neuron_mask
        target = self.run_time_activation_norm_fn_in(inputs.to(self.dtype))
        if self.passes_sparse() and inputs.ndim == 2:
            result = self.sparse_pass(self.process_sae_in(inputs), target, dead_mask)
        else:
            result = self.dense_pass(inputs, target, dead_mask)
        return TrainStepOutput(
            sae_in=inputs,
            sae_out=self.run_time_activation_norm_fn_out(result.recons),
            feature_acts=result.feature_acts,
            hidden_pre=result.hidden_pre,
            loss=result.mse_loss + result.aux_loss,
            losses={
                "mse_loss": result.mse_loss,
                "auxiliary_reconstruction_loss": result.aux_loss,
            },
            metrics={"topk_threshold": self.topk_threshold},
        )

    def passes_sparse(self) -> bool:
        """Whether to pass over active latents only: not while a hook looks at the others."""
        hooks = (self.hook_sae_acts_pre, self.hook_sae_acts_post)
        is_watched = any(hook._forward_hooks or hook._backward_hooks for hook in hooks)
        return (
            self.is_sparse and has_sparse_products(self.W_dec.dtype) and not is_watched
        )

    def dense_pass(
        self,
        inputs: torch.Tensor,
        target: torch.Tensor,
        dead_mask: torch.Tensor | None,
    ) -> Reconstruction:
        """SAELens's pass over `inputs` `[..., d_in]`, whose normalised form is `target`."""
        feature_acts, hidden_pre = self.encode_with_hidden_pre(inputs)
        recons = self._decode_normalized(feature_acts) + self.b_dec
        recons = self.hook_sae_recons(recons)
        mse_loss = self.mse_loss_fn(recons, target).sum(dim=-1).mean()
        aux_loss = recons.new_tensor(0.0)
        n_dead = 0 if dead_mask is None else int(dead_mask.sum())
        if dead_mask is not None and n_dead > 0:
            k_aux = min(self.cfg.d_in // 2, n_dead)
            acts = calculate_topk_aux_acts(k_aux, hidden_pre, dead_mask)
            dead_recons = self._decode_normalized(acts)
            aux_loss = self._dead_latent_loss(dead_recons, target - recons, n_dead)
        self.update_topk_threshold(feature_acts)
        return Reconstruction(feature_acts, hidden_pre, recons, mse_loss, aux_loss)

    @torch.compiler.disable()
    def sparse_pass(
        self,
        x: torch.Tensor,
        target: torch.Tensor,
        dead_mask: torch.Tensor | None,
    ) -> Reconstruction:
        """The same by sparse products; `x` `[n, d_in]` is `target` without `b_dec`."""
        x = x.detach()
        b_dec_in_x = self.cfg.apply_b_dec_to_input
        codes, dead = self.encode_active(x, dead_mask)
        with torch.autocast(x.device.type, enabled=False):
            recons, dead_recons = Reconstruct.apply(  # type: ignore[misc]
                self.W_enc, self.b_enc, self.W_dec, self.b_dec, x, b_dec_in_x, codes, dead
            )  # fmt: skip
            recons = self.hook_sae_recons(recons)
            mse_loss: torch.Tensor = SquaredError.apply(recons, target)  # type: ignore[assignment]
            aux_loss = recons.new_tensor(0.0)
            if dead is not None:
                residual, n_dead = target - recons, len(dead.latents)
                aux_loss = self._dead_latent_loss(dead_recons, residual, n_dead)
        self.update_topk_threshold(codes.acts)
        acts = codes.as_coo()
        return Reconstruction(acts, acts, recons, mse_loss, aux_loss)

    @torch.no_grad()
    def encode_active(
        self, x: Rows, dead_mask: torch.Tensor | None = None
    ) -> tuple[ActiveCodes, DeadCodes | None]:
        """
        What BatchTopK keeps of `x`, `[n, d_in]`, normalised and without `b_dec`.

        Returns:
            The active codes; and the codes of the `d_in / 2` dead latents of each sample
            with the largest activations, or None where no latent is dead.
        """
        if dead_mask is None:
            dead_mask = torch.zeros_like(self.b_enc, dtype=torch.bool)
        dead = dead_mask.nonzero()[:, 0]
        norms = self._selection_norms()
        top, dead_acts = self._largest(x, int(self.cfg.k * len(x)), dead, norms)
        codes = ActiveCodes(top.flat, top.values, (len(x), self.cfg.d_sae), norms)
        if len(dead) == 0:
            return codes, None
        k_aux = min(self.cfg.d_in // 2, len(dead))
        largest = dead_acts.topk(k_aux, sorted=False).indices
        chosen = torch.zeros_like(dead_acts, dtype=torch.bool)
        chosen.scatter_(1, largest, True)
        return codes, DeadCodes(dead, dead_acts / norms[dead], chosen)

    def _largest(
        self, x: Rows, n_keep: int, dead: torch.Tensor, norms: torch.Tensor
    ) -> tuple[RunningTopK, torch.Tensor]:
        """
        The `n_keep` largest activations of `x`, and all those of `dead`, `[n, n_dead]`.

        The pre-activations `[n, d_sae]`, the one dense product of a pass, are made block
        by block and never exist as a whole.
        """
        top = RunningTopK(n_keep, self.W_dec.detach())
        dead_acts = self.W_dec.new_empty(len(x), len(dead))
        for rows, columns in blocks(len(x), self.cfg.d_sae):
            bias, weights = self.b_enc[columns], self.W_enc[:, columns]
            block = torch.addmm(bias, x[rows], weights).to(self.dtype)
            block *= norms[columns]
            top.add(block, rows.start * self.cfg.d_sae + columns.start, self.cfg.d_sae)
            here = (dead >= columns.start) & (dead < columns.stop)
            if here.any():
                dead_acts[rows, here] = block[:, dead[here] - columns.start]
        return top, dead_acts

    def _selection_norms(self) -> torch.Tensor:
        """Factors `[d_sae]` from pre-activations to activations."""
        if self.cfg.rescale_acts_by_decoder_norm:
            return self.W_dec.detach().norm(dim=-1)
        return self.W_dec.new_ones(self.cfg.d_sae)

    def _dead_latent_loss(
        self, dead_recons: torch.Tensor, residual: torch.Tensor, n_dead: int
    ) -> torch.Tensor:
        """
        SAELens's auxiliary loss, in the normalised space.

        The top `d_in / 2` dead latents reconstruct, `[n, d_in]`, what the living ones left
        over; the loss shrinks in proportion where fewer are dead.
        """
        loss = (dead_recons - residual.detach()).pow(2).sum(dim=-1).mean()
        scale = min(n_dead / (self.cfg.d_in // 2), 1.0)
        return self.cfg.aux_loss_coefficient * scale * loss

    def _decode_normalized(self, feature_acts: torch.Tensor) -> torch.Tensor:
        return act_times_W_dec(
            feature_acts, self.W_dec, self.cfg.rescale_acts_by_decoder_norm
        )

    @torch.no_grad()
    def set_threshold(self, inputs: torch.Tensor) -> None:
        """
        Sets the threshold to where BatchTopK cuts `inputs`, `[n, d_in]`, now.

        SAELens's running threshold starts at 0 and lags a hundred steps behind weights
        that move fast in a short run; gated by it, the L0 comes out far from k. The
        threshold lies halfway to the largest value left out, since a JumpReLU does not
        pass a value at its threshold. Of inputs so few that BatchTopK would keep nothing,
        the largest value is kept, so that the SAE fires at all.
        """
        x, n_keep = self.process_sae_in(inputs), max(1, int(self.cfg.k * len(inputs)))
        no_latents = x.new_empty(0, dtype=torch.long)
        top, _ = self._largest(x, n_keep + 1, no_latents, self._selection_norms())
        acts = top.values.sort(descending=True).values
        if len(acts) > 0:
            cut = acts[:n_keep][-1]
            left_out = acts[n_keep] if len(acts) > n_keep else 0.0
            self.topk_threshold = ((cut + left_out) / 2).to(self.topk_threshold)

    @override
    def process_state_dict_for_saving_inference(
        self, state_dict: dict[str, Any]
    ) -> None:
        super().process_state_dict_for_saving_inference(state_dict)
        for name in set(state_dict) - set(INFERENCE_WEIGHTS):
            del state_dict[name]
