"""The implied-overlap penalty: a child's row is charged for holding its parent's direction."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from sae_lens_meta.sparse import without_advice
from sae_lens_meta.training.backend import (
    Sums,
    backend_of,
    sampled_products,
    starts_of,
)
from sae_lens_meta.training.host_counts import HostCounts

MIN_SHARE = 0.4  # of the child's firings, on which the parent fires too
MIN_RATIO = 1.5  # of the parent's firings to the child's
MIN_FIRINGS = 8
FREE_COSINE = 0.1  # what a row may have of its parent's direction at no cost
RENEWED_EVERY, HALVED_EVERY = 100, 250  # steps
MAX_PARENTS = 16  # a latent is watched with
COUNTED = 512  # samples of a step


class ImpliedOverlap(HostCounts):
    """
    Which latents fire only where a more frequent one does, by counts that forget.

    Latent j is taken for a parent of i where `C_ij / f_i > 0.4` and `f_j > 1.5 f_i`: f are firings,
    and C of both at once, halved every 250 steps. Counting all pairs would take `d_sae^2` numbers.
    Here each latent is watched with at most 16 others, `[d_sae, 16]` numbers: every 100 steps those
    that proved to be no parents make room for pairs that were often together in the batch at hand,
    and parents are settled anew. A pair's share is taken from when it came to be watched.

    All of it is buffers, so that a checkpoint holds it.

    Attributes:
        watched: latents that each is watched with, `[d_sae, n_parents]`, or -1.
        firings: of each latent, `[d_sae]`.
        firings_watched: of each latent since a pair came to be watched, `[d_sae, n_parents]`.
        together: of those, on which the other one fired too.
        is_parent: which of them are parents now.
        steps: counted.
    """

    watched: torch.Tensor
    firings: torch.Tensor
    firings_watched: torch.Tensor
    together: torch.Tensor
    is_parent: torch.Tensor
    steps: torch.Tensor
    host_counts = ("steps",)

    def __init__(
        self,
        d_sae: int,
        n_parents: int = MAX_PARENTS,
        device: torch.device | str = "cpu",
    ):
        super().__init__()
        n_parents = min(n_parents, d_sae)
        shape = (d_sae, n_parents)
        self.register_buffer("watched", torch.full(shape, -1, device=device))
        self.register_buffer("firings", torch.zeros(d_sae, device=device))
        self.register_buffer("firings_watched", torch.zeros(shape, device=device))
        self.register_buffer("together", torch.zeros(shape, device=device))
        is_parent = torch.zeros(shape, dtype=torch.bool, device=device)
        self.register_buffer("is_parent", is_parent)
        self.register_buffer("steps", torch.tensor(0))

    def penalties(self, W_dec: torch.Tensor) -> torch.Tensor:
        """
        `sum_j G_ij max(0, u_i . sg(u_j) - 0.1)^2` of each latent i over its parents j, `[d_sae]`.

        u_i is the decoder row at norm 1; the gradient reaches the child alone. Without the
        condition G on the firing it would push apart rows of features that truly overlap.
        """
        children, slots = self.is_parent.nonzero(as_tuple=True)
        if len(children) == 0:
            return W_dec.new_zeros(len(W_dec))
        pairs = (children * len(W_dec) + self.watched[children, slots]).sort().values
        return _Charged.apply(W_dec, pairs)  # type: ignore[no-any-return]

    @torch.no_grad()
    def count(self, codes: torch.Tensor) -> None:
        """Takes in what fires in a step: `codes` `[batch, d_sae]`, dense or sparse COO."""
        samples, latents = _firing(codes)
        counted = samples < COUNTED
        self._count(samples[counted], latents[counted])
        self.steps += 1
        steps = int(self.steps)
        if steps % RENEWED_EVERY == 0:
            self._renew(samples, latents, len(codes))
        if steps % HALVED_EVERY == 0:
            for counts in (self.firings, self.firings_watched, self.together):
                counts *= 0.5

    def _count(self, samples: torch.Tensor, latents: torch.Tensor) -> None:
        d_sae = len(self.firings)
        self.firings += latents.bincount(minlength=d_sae)
        others = self.watched[latents]
        asked = (samples[:, None] * d_sae + others).clamp(min=0)
        firing = samples * d_sae + latents  # ascending
        places = torch.searchsorted(firing, asked).clamp(max=max(len(firing) - 1, 0))
        is_watched = others >= 0
        both = (firing[places] == asked) & is_watched if len(firing) else is_watched
        self.firings_watched.index_add_(0, latents, is_watched.float())
        self.together.index_add_(0, latents, both.float())

    def _renew(self, samples: torch.Tensor, latents: torch.Tensor, n: int) -> None:
        """Settles who is a parent, and whom to watch from here on."""
        share = self.together / self.firings_watched.clamp(min=1)
        is_known = self.firings_watched >= MIN_FIRINGS
        is_more_frequent = (
            self.firings[self.watched.clamp(min=0)] > MIN_RATIO * self.firings[:, None]
        )
        is_watched = self.watched >= 0
        self.is_parent = is_watched & is_known & is_more_frequent & (share > MIN_SHARE)
        # a share just under the mark may be one above it
        is_none = is_known & ((share < MIN_SHARE / 2) | ~is_more_frequent)
        self.watched[is_none | ~is_watched] = -1
        self._watch(*self._often_together(samples, latents, n))

    def _often_together(
        self, samples: torch.Tensor, latents: torch.Tensor, n: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Children and parents that a batch suggests, those most often together first."""
        d_sae = len(self.firings)
        fires = torch.sparse_coo_tensor(
            torch.stack([samples, latents]),
            torch.ones(len(samples), device=samples.device),
            (n, d_sae),
            check_invariants=False,
        )
        with without_advice():
            pairs = torch.sparse.mm(fires.t(), fires).coalesce()
        (children, parents), together = pairs.indices(), pairs.values()
        in_batch = latents.bincount(minlength=d_sae)[children]
        is_new = (self.watched[children] != parents[:, None]).all(dim=1)
        suggested = (
            is_new
            & (together > MIN_SHARE * in_batch)
            & (in_batch >= 2)
            & (self.firings[parents] > MIN_RATIO * self.firings[children])
        )
        children, parents = children[suggested], parents[suggested]
        order = together[suggested].argsort(descending=True, stable=True)
        return children[order], parents[order]

    def _watch(self, children: torch.Tensor, parents: torch.Tensor) -> None:
        """Gives each child's free slots to its first parents."""
        by_child = children.argsort(stable=True)
        children, parents = children[by_child], parents[by_child]
        starts = torch.searchsorted(children, children)
        rank = torch.arange(len(children), device=children.device) - starts
        is_free = self.watched < 0
        has_room = rank < is_free.sum(dim=1)[children]
        children, parents, rank = children[has_room], parents[has_room], rank[has_room]
        # the free slots of a row before the others, in their order
        slots = (~is_free).long().argsort(dim=1, stable=True)[children, rank]
        self.watched[children, slots] = parents
        self.firings_watched[is_free] = 0
        self.together[is_free] = 0
        self.is_parent &= ~is_free


class _Charged(torch.autograd.Function):
    """
    `c_i = sum_j max(0, o_ij - 0.1)^2` of the pairs (i, j), `o_ij = u_i . u_j`, in W_i alone.

    Its gradient is `sum_j 2 max(0, o_ij - 0.1) (u_j - o_ij u_i) / ||W_i||`. It is written out because
    autograd's way makes two rows of `[d_in]` for every pair, and unit rows of the whole decoder.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, W_dec: torch.Tensor, pairs: torch.Tensor
    ) -> torch.Tensor:
        children, parents = pairs // len(W_dec), pairs % len(W_dec)
        starts, norms = starts_of(children, len(W_dec)), W_dec.norm(dim=1)
        lengths = norms[children] * norms[parents]
        overlaps = sampled_products(starts, parents, W_dec, W_dec) / lengths
        above = (overlaps - FREE_COSINE).relu()
        ctx.save_for_backward(
            W_dec, children, parents, starts, norms, lengths, overlaps, above
        )
        return norms.new_zeros(len(norms)).index_add(0, children, above.square())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        W_dec, children, parents, starts, norms, lengths, overlaps, above = (
            ctx.saved_tensors
        )
        slopes = 2 * grad[children] * above
        along = torch.zeros_like(norms).index_add(0, children, slopes * overlaps)
        toward = Sums(slopes / lengths, parents, starts)
        summed = backend_of(W_dec).weighted_sums(toward, W_dec)
        return summed.addcmul_(W_dec, (along / norms.square())[:, None], value=-1), None


def _firing(codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples and latents of the codes that are not 0, by sample and then by latent."""
    if codes.is_sparse:
        codes = codes.detach().coalesce()
        samples, latents = codes.indices()[:, codes.values() != 0]
        return samples, latents
    samples, latents = codes.nonzero(as_tuple=True)
    return samples, latents
