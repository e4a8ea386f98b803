"""
A sparse autoencoder's product over its active latents alone, and its gradient.

BatchTopK leaves a few of the `n * d_sae` codes. With A the active pairs (sample i, latent j),

    a_ij  = x_i . W_enc[:, j] + b_enc_j            for (i, j) in A, x_i = input_i - b_dec
    out_i = sum_{j: (i, j) in A} a_ij W_dec[j] + b_dec

and G the gradient with respect to `out`, everything else follows over A alone:

    g_ij            = G_i . W_dec[j]               gradient of a_ij
    grad W_dec[j]   = sum_i a_ij G_i
    grad W_enc[:,j] = sum_i g_ij x_i
    grad b_enc_j    = sum_i g_ij
    grad b_dec      = sum_i G_i - W_enc (grad b_enc)

Three of these are weighted sums of rows, which each backend has in its way, `g` is a sampled
product (`sampled_products`). What costs a dense product is finding
out which pairs are active, the encoder's forward, and that is done before, without gradient.

The decoder norm that SAELens multiplies pre-activations with, and divides codes by before
decoding, cancels in `out` and in every gradient: it matters for the selection only.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from sae_lens_meta.training.backend import (
    Selected,
    Sums,
    backend_of,
    kernels_for,
    sampled_products,
    starts_of,
)


def has_sparse_products(dtype: torch.dtype) -> bool:
    """Whether torch has them: for float32 and float64."""
    return dtype in (torch.float32, torch.float64)


class ActiveCodes:
    """
    The non-zero codes `[n_samples, d_sae]` of BatchTopK, sample by sample.

    On a GPU, where their number is fixed, some may be 0.

    Args:
        selected: activations, pre-activations times `norms` of their latents, and their places.
        shape: `(n_samples, d_sae)`.
        norms: `[d_sae]`.

    Attributes:
        samples, latents: where the codes are, `[n_active]` each.
        acts: the activations, `[n_active]`.
        values: pre-activations, `[n_active]`, the factors of the decoder rows.
    """

    def __init__(self, selected: Selected, shape: tuple[int, int], norms: torch.Tensor):
        flat, order = selected.flat.sort()
        self.shape = shape
        self.samples = flat // shape[1]
        self.latents = flat % shape[1]
        self.acts = selected.acts[order]
        self.values = self.acts / norms[self.latents]

    @cached_property
    def sample_starts(self) -> torch.Tensor:
        """Where the codes of each sample begin, `[n_samples + 1]`."""
        return starts_of(self.samples, self.shape[0])

    @cached_property
    def latent_starts(self) -> torch.Tensor:
        """Where the codes of each latent begin in the order `by_latent`, `[d_sae + 1]`."""
        return starts_of(self.latents[self.by_latent], self.shape[1])

    @cached_property
    def by_latent(self) -> torch.Tensor:
        """The order `[n_active]` of the codes by latent."""
        return self.latents.argsort(stable=True)

    def as_coo(self) -> torch.Tensor:
        """The activations as a sparse COO tensor `[n_samples, d_sae]`."""
        return torch.sparse_coo_tensor(
            torch.stack([self.samples, self.latents]),
            self.acts,
            self.shape,
            is_coalesced=True,
            check_invariants=False,
        )

    def decode(self, W_dec: torch.Tensor) -> torch.Tensor:
        """`[n_samples, d_in]`: for each sample its values times their decoder rows, summed."""
        sums = Sums(self.values, self.latents, self.sample_starts)
        return backend_of(W_dec).weighted_sums(sums, W_dec)

    def differences(
        self, W_dec: torch.Tensor, target: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Of each sample `decode` less `target`, `[n_samples, d_in]`; its squared norm, `[n_samples]`; and
        its products with the rows that were decoded, `[n_active]`.
        """
        if kernels := kernels_for(W_dec):
            sums = Sums(self.values, self.latents, self.sample_starts)
            return kernels.differences(sums, W_dec, target)
        difference = self.decode(W_dec).sub_(target)
        products = sampled_products(self.sample_starts, self.latents, difference, W_dec)
        return difference, _squares(difference), products


@dataclass
class DeadCodes:
    """
    Codes of the dead latents that serve the auxiliary loss.

    So many of them are used on each sample that their products are dense.

    Attributes:
        latents: which are dead, `[n_dead]`.
        values: `[n_samples, n_dead]`.
        chosen: mask of the values that are used, `[n_samples, n_dead]`.
    """

    latents: torch.Tensor
    values: torch.Tensor
    chosen: torch.Tensor

    @property
    def used(self) -> torch.Tensor:
        """The values that are used, and 0 elsewhere, `[n_samples, n_dead]`."""
        return self.values * self.chosen


class SquaredErrors(torch.autograd.Function):
    """
    How far known codes decode from their target, with the gradients of encoder and decoder.

    `apply(W_enc, b_enc, W_dec, b_dec, x, target, b_dec_in_x, codes, dead)` takes the weights; what
    was encoded and what is to be decoded, `[n_samples, d_in]`, and whether the one is the other without
    `b_dec`; the active codes; and those of the dead latents or None. It returns `||out_i - target_i||^2`
    averaged over i; the same of what the dead latents by themselves miss of `target - out`, or None; and
    `out - target`, without gradient.

    A meta SAE's matrices of that shape are as large as a decoder: one is written, and one more
    where latents are dead. What the gradient is scaled by goes into the codes.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        W_enc: torch.Tensor,
        b_enc: torch.Tensor,
        W_dec: torch.Tensor,
        b_dec: torch.Tensor,
        x: torch.Tensor,
        target: torch.Tensor,
        b_dec_in_x: bool,
        codes: ActiveCodes,
        dead: DeadCodes | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        without_bias = x if b_dec_in_x else target - b_dec
        difference, squares, products = codes.differences(W_dec, without_bias)
        missed = error_of_dead = None
        if dead is not None:
            # the residual is -difference
            missed = torch.addmm(difference, dead.used, W_dec[dead.latents])
            error_of_dead = _squares(missed).mean()
        ctx.save_for_backward(W_enc, b_enc, W_dec, x, difference, products, missed)
        ctx.mark_non_differentiable(difference)
        ctx.b_dec_in_x, ctx.codes, ctx.dead = b_dec_in_x, codes, dead
        return squares.mean(), error_of_dead, difference

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, grad: torch.Tensor, grad_of_dead: torch.Tensor | None, _: Any
    ) -> Any:
        W_enc, b_enc, W_dec, x, difference, products, missed = ctx.saved_tensors
        codes: ActiveCodes = ctx.codes
        scale, backend = 2 * grad / len(difference), backend_of(grad)
        order, starts = codes.by_latent, codes.latent_starts
        samples = codes.samples[order]
        # where pre-activations that are not positive are among the codes, they are constant
        grad_values = products * (codes.acts > 0) * scale
        of_grad = Sums((codes.values * scale)[order], samples, starts)
        of_x = Sums(grad_values[order], samples, starts)
        grad_W_dec = backend.weighted_sums(of_grad, difference)
        grad_W_enc = backend.sums_in_columns(of_x, x)
        grad_b_enc = torch.zeros_like(b_enc).index_add_(0, codes.latents, grad_values)
        if ctx.dead is not None and grad_of_dead is not None:
            dead: DeadCodes = ctx.dead
            scale_of_dead = 2 * grad_of_dead / len(missed)
            grad_codes = (missed @ W_dec[dead.latents].t()) * dead.chosen
            grad_codes *= scale_of_dead
            grad_W_dec[dead.latents] += (dead.used * scale_of_dead).t() @ missed
            grad_W_enc[:, dead.latents] += x.t() @ grad_codes
            grad_b_enc[dead.latents] += grad_codes.sum(dim=0)
        grad_b_dec = difference.sum(dim=0) * scale
        if ctx.b_dec_in_x:
            grad_b_dec -= W_enc @ grad_b_enc
        return grad_W_enc, grad_b_enc, grad_W_dec, grad_b_dec, *[None] * 5


def _squares(matrix: torch.Tensor) -> torch.Tensor:
    """Squared norms of the rows, without another matrix of that shape."""
    return matrix.norm(dim=-1).square()


def fired_latents(acts: torch.Tensor) -> torch.Tensor:
    """Mask `[d_sae]` of latents with an activation above 0 in `[n, d_sae]`, dense or as `as_coo`."""
    if not acts.is_sparse:
        return acts.sum(dim=0) > 0
    active = acts.values() > 0
    counts = active.new_zeros(acts.shape[1], dtype=torch.int32)
    return counts.index_add_(0, acts.indices()[1], active.to(counts)) > 0
