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
product (torch's `sampled_addmm`). What costs a dense product is finding
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


class Reconstruct(torch.autograd.Function):
    """
    Decodes known codes, with the gradients of encoder and decoder.

    `apply(W_enc, b_enc, W_dec, b_dec, x, b_dec_in_x, codes, dead)` takes the weights; what
    was encoded, `x` `[n_samples, d_in]`, and whether `b_dec` was subtracted in it; the active
    codes; and those of the dead latents or None. It returns the reconstruction, and that of
    the dead latents by themselves without `b_dec` or None, both `[n_samples, d_in]`.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        W_enc: torch.Tensor,
        b_enc: torch.Tensor,
        W_dec: torch.Tensor,
        b_dec: torch.Tensor,
        x: torch.Tensor,
        b_dec_in_x: bool,
        codes: ActiveCodes,
        dead: DeadCodes | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        ctx.save_for_backward(W_enc, b_enc, W_dec, x)
        ctx.b_dec_in_x, ctx.codes, ctx.dead = b_dec_in_x, codes, dead
        recons = codes.decode(W_dec).add_(b_dec)
        if dead is None:
            return recons, None
        return recons, (dead.values * dead.chosen) @ W_dec[dead.latents]

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, grad: torch.Tensor, grad_dead: torch.Tensor | None
    ) -> Any:
        W_enc, b_enc, W_dec, x = ctx.saved_tensors
        codes: ActiveCodes = ctx.codes
        grad = grad.contiguous()
        backend = backend_of(grad)
        order, starts = codes.by_latent, codes.latent_starts
        samples = codes.samples[order]
        grad_values = sampled_products(codes.sample_starts, codes.latents, grad, W_dec)
        # where pre-activations that are not positive are among the codes, they are constant
        grad_values *= codes.acts > 0
        of_grad = Sums(codes.values[order], samples, starts)
        of_x = Sums(grad_values[order], samples, starts)
        grad_W_dec = backend.weighted_sums(of_grad, grad)
        grad_W_enc = backend.sums_in_columns(of_x, x)
        grad_b_enc = torch.zeros_like(b_enc).index_add_(0, codes.latents, grad_values)
        if ctx.dead is not None and grad_dead is not None:
            dead: DeadCodes = ctx.dead
            grad_codes = (grad_dead @ W_dec[dead.latents].t()) * dead.chosen
            grad_W_dec[dead.latents] += (dead.values * dead.chosen).t() @ grad_dead
            grad_W_enc[:, dead.latents] += x.t() @ grad_codes
            grad_b_enc[dead.latents] += grad_codes.sum(dim=0)
        grad_b_dec = grad.sum(dim=0)
        if ctx.b_dec_in_x:
            grad_b_dec -= W_enc @ grad_b_enc
        return grad_W_enc, grad_b_enc, grad_W_dec, grad_b_dec, *[None] * 4


class SquaredError(torch.autograd.Function):
    """
    `apply(recons, target)`, both `[n, d_in]`: `||recons_i - target_i||^2`, averaged over i.

    The difference is as large as a decoder for the meta SAE, so it is written once. A processor
    sums its squares piece by piece and writes it as the gradient; a GPU writes it before and
    sums it in one go.
    """

    @staticmethod
    def forward(ctx: Any, recons: torch.Tensor, target: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        backend = backend_of(recons)
        if not backend.reads_freely:
            difference = recons - target
            ctx.save_for_backward(difference)
            return difference.norm(dim=-1).pow(2).mean()
        ctx.save_for_backward(recons, target)
        piece = backend.piece
        pieces = zip(recons.split(piece), target.split(piece), strict=True)
        squares = [(ours - theirs).pow(2).sum(dim=-1) for ours, theirs in pieces]
        return torch.cat(squares).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        saved = ctx.saved_tensors
        scale = 2 * grad / len(saved[0])
        if len(saved) == 1:
            return saved[0] * scale, None
        return (saved[0] - saved[1]).mul_(scale), None


def fired_latents(acts: torch.Tensor) -> torch.Tensor:
    """Mask `[d_sae]` of latents with an activation above 0 in `[n, d_sae]`, dense or as `as_coo`."""
    if not acts.is_sparse:
        return acts.sum(dim=0) > 0
    active = acts.values() > 0
    counts = active.new_zeros(acts.shape[1], dtype=torch.int32)
    return counts.index_add_(0, acts.indices()[1], active.to(counts)) > 0
