"""BatchTopK, fast and exact, trained in the space of its normalised inputs."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from sae_lens import BatchTopKTrainingSAE
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from sae_lens.saes.topk_sae import act_times_W_dec, calculate_topk_aux_acts
from typing_extensions import override

from sae_lens_meta.training.backend import Encoder, Rows, backend_of
from sae_lens_meta.training.batch_topk import ExactBatchTopK
from sae_lens_meta.training.sparse_product import (
    ActiveCodes,
    DeadCodes,
    SquaredErrors,
    has_sparse_products,
)


@dataclass
class DeadLatents:
    """
    Latents that the auxiliary loss revives.

    Attributes:
        latents: their indices, `[n]`.
        is_dead: mask `[n]` of those that are, where some of them only might be; else None.
    """

    latents: torch.Tensor
    is_dead: torch.Tensor | None = None

    @property
    def number(self) -> torch.Tensor | int:
        """How many are dead, without a look at the device."""
        return len(self.latents) if self.is_dead is None else self.is_dead.sum()


@dataclass
class Nearby:
    """
    Where selections over the same inputs are looked for, once one was made.

    Attributes:
        flat: ascending indices, into the flattened codes, of what was selected first and of
            half as many next largest; None before, and then set by that selection.
    """

    flat: torch.Tensor | None = None


class Reconstruction(NamedTuple):
    """
    What one pass gives, in the normalised space.

    Attributes:
        feature_acts: codes `[n, d_sae]`, a sparse COO tensor where the pass is sparse.
        hidden_pre: pre-activations times decoder norms, `[n, d_sae]`; in a sparse pass
            those of the active latents alone, which are `feature_acts`.
        difference: of the reconstruction from its target, `[n, d_in]`.
        mse_loss: squared error, summed over dimensions and averaged over the batch.
        aux_loss: the weighted loss of the dead latents.
    """

    feature_acts: torch.Tensor
    hidden_pre: torch.Tensor
    difference: torch.Tensor
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

    # selections of which it is not certain that they are float32's, counted on the device
    n_in_doubt: torch.Tensor | int = 0
    spare: float = 2  # `Backend.largest`
    activation_fn: ExactBatchTopK  # its k is the number kept now

    @override
    def initialize_weights(self) -> None:
        """Draws them on the CPU: the generators of other devices give other weights."""
        device = self.device
        if device.type != "meta":  # where weights that are loaded take their place
            self.device = torch.device("cpu")
        super().initialize_weights()
        super().to(device)

    @override
    def get_activation_fn(self) -> ExactBatchTopK:
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
            x, dead = self.process_sae_in(inputs), _dead_latents(dead_mask)
            result = self.sparse_pass(x, target, dead)
        else:
            result = self.dense_pass(inputs, target, dead_mask)
        recons = target + result.difference
        return TrainStepOutput(
            sae_in=inputs,
            sae_out=self.run_time_activation_norm_fn_out(recons),
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
        """
        Whether to pass over active latents only, by where the weights are now.

        Not while a hook looks at the others or changes what goes in or out, and not in half precision.
        """
        hooks = (
            self.hook_sae_input,
            self.hook_sae_acts_pre,
            self.hook_sae_acts_post,
            self.hook_sae_recons,
        )
        is_watched = any(hook._forward_hooks or hook._backward_hooks for hook in hooks)
        if is_watched or not has_sparse_products(self.W_dec.dtype):
            return False
        if self.cfg.use_sparse_activations is not None:
            return self.cfg.use_sparse_activations
        share = self.activation_fn.k / self.cfg.d_sae
        return share <= backend_of(self.W_dec).max_active_share

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
        aux_loss = recons.new_zeros(())
        n_dead = 0 if dead_mask is None else int(dead_mask.sum())
        if dead_mask is not None and n_dead > 0:
            k_aux = min(self.cfg.d_in // 2, n_dead)
            acts = calculate_topk_aux_acts(k_aux, hidden_pre, dead_mask)
            dead_recons = self._decode_normalized(acts)
            residual = (target - recons).detach()
            error = (dead_recons - residual).pow(2).sum(dim=-1).mean()
            aux_loss = self._dead_latent_loss(error, n_dead)
        self.update_topk_threshold(feature_acts)
        difference = recons - target
        return Reconstruction(feature_acts, hidden_pre, difference, mse_loss, aux_loss)

    @torch.compiler.disable()
    def sparse_pass(
        self,
        x: torch.Tensor,
        target: torch.Tensor,
        dead_latents: DeadLatents | None,
        nearby: Nearby | None = None,
    ) -> Reconstruction:
        """
        The same by sparse products.

        Args:
            x: `target` without `b_dec`, `[n, d_in]`.
            target: normalised inputs, `[n, d_in]`.
            dead_latents: those that the auxiliary loss revives, or None.
            nearby: for passes over the same inputs while the weights hardly move.
        """
        x = x.detach()
        codes, dead = self.encode_active(x, dead_latents, nearby)
        with torch.autocast(x.device.type, enabled=False):
            mse_loss, error_of_dead, difference = SquaredErrors.apply(  # type: ignore[misc]
                self.W_enc, self.b_enc, self.W_dec, self.b_dec,
                x, target, self.cfg.apply_b_dec_to_input, codes, dead,
            )  # fmt: skip
            aux_loss = difference.new_zeros(())
            if dead_latents is not None:
                aux_loss = self._dead_latent_loss(error_of_dead, dead_latents.number)
        self.update_topk_threshold(codes.acts)
        acts = codes.as_coo()
        return Reconstruction(acts, acts, difference, mse_loss, aux_loss)

    @torch.no_grad()
    def encode_active(
        self,
        x: Rows,
        dead_latents: DeadLatents | None = None,
        nearby: Nearby | None = None,
    ) -> tuple[ActiveCodes, DeadCodes | None]:
        """
        What BatchTopK keeps of `x`, `[n, d_in]`, normalised and without `b_dec`.

        Returns:
            The active codes; and the codes of the `d_in / 2` dead latents of each sample
            with the largest activations, or None where no latent is dead.
        """
        n_keep, encoder = int(self.activation_fn.k * len(x)), self.encoder()
        if dead_latents is None:
            dead_latents = DeadLatents(self.b_enc.new_empty(0, dtype=torch.long))
        latents = dead_latents.latents
        backend = backend_of(self.W_dec)
        if nearby is None or nearby.flat is None:
            n_near = 0 if nearby is None else n_keep // 2
            selected, dead_acts = backend.largest(
                x, encoder, n_keep, latents, n_near, self.spare
            )
        else:
            inputs = x[slice(None)]
            selected = backend.among(nearby.flat, inputs, encoder, n_keep)
            dead_acts = encoder.acts_of(latents, inputs)
        if nearby is not None and nearby.flat is None:
            nearby.flat = selected.near
        if selected.in_doubt is not None:
            self.n_in_doubt = self.n_in_doubt + selected.in_doubt
        codes = ActiveCodes(selected, (len(x), self.cfg.d_sae), encoder.norms)
        if len(latents) == 0:
            return codes, None
        chosen = _largest_dead(dead_acts, self.cfg.d_in // 2, dead_latents.is_dead)
        values = dead_acts / encoder.norms[latents]
        return codes, DeadCodes(latents, values, chosen)

    def encoder(self) -> Encoder:
        """The encoder, with what makes activations of pre-activations."""
        W_enc, W_dec = self.W_enc.detach(), self.W_dec.detach()
        norms = W_dec.new_ones(self.cfg.d_sae)
        if self.cfg.rescale_acts_by_decoder_norm:
            norms = W_dec.norm(dim=-1)
        return Encoder(W_enc, self.b_enc.detach(), norms)

    def _dead_latent_loss(
        self, error: torch.Tensor, n_dead: torch.Tensor | int
    ) -> torch.Tensor:
        """
        SAELens's auxiliary loss, in the normalised space.

        The top `d_in / 2` dead latents reconstruct what the living ones left over; `error` is
        what they miss of it, and the loss shrinks in proportion where fewer are dead.
        """
        scale = n_dead / (self.cfg.d_in // 2)
        scale = scale.clamp(max=1) if isinstance(scale, torch.Tensor) else min(scale, 1)
        return self.cfg.aux_loss_coefficient * scale * error

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
        x = self.process_sae_in(inputs)
        n_keep = max(1, int(self.cfg.k * len(inputs)))
        n_looked_at = min(n_keep + 1, len(x) * self.cfg.d_sae)
        no_latents = x.new_empty(0, dtype=torch.long)
        backend = backend_of(x)
        top, _ = backend.largest(x, self.encoder(), n_looked_at, no_latents)
        acts = top.acts[top.acts > 0].sort(descending=True).values
        if len(acts) > 0:
            cut = acts[:n_keep][-1]
            left_out = acts[n_keep] if len(acts) > n_keep else 0.0
            self.topk_threshold = ((cut + left_out) / 2).to(self.topk_threshold)

    @override
    @torch.no_grad()
    def update_topk_threshold(self, acts_topk: torch.Tensor) -> None:
        """SAELens's, without a look at the device: moved towards the least activation."""
        if acts_topk.numel() == 0:
            return
        lr, before = self.cfg.topk_threshold_lr, self.topk_threshold
        positive = torch.where(acts_topk > 0, acts_topk, torch.inf)
        least = positive.min().to(before.dtype)
        moved = (1 - lr) * before + lr * least
        self.topk_threshold = torch.where(least.isfinite(), moved, before)


def _dead_latents(mask: torch.Tensor | None) -> DeadLatents | None:
    """Those in a mask `[d_sae]`, of which None or an empty one has none."""
    if mask is None:
        return None
    latents = mask.nonzero()[:, 0]  # the one look at the device in a step
    return DeadLatents(latents) if len(latents) else None


def _largest_dead(
    acts: torch.Tensor, k_aux: int, is_dead: torch.Tensor | None
) -> torch.Tensor:
    """Mask of the `k_aux` largest of each row of `acts`, `[n, n_dead]`, that are dead."""
    chosen = torch.zeros_like(acts, dtype=torch.bool)
    if is_dead is not None:
        acts = torch.where(is_dead, acts, -torch.inf)
    largest = acts.topk(min(k_aux, acts.shape[1]), sorted=False).indices
    chosen.scatter_(1, largest, True)
    return chosen if is_dead is None else chosen & is_dead
