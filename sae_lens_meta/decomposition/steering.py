"""
Interventions along a meta latent's direction, while an SAE runs in a model.

They act on what the SAE reconstructs, in the space that its decoder writes in and before a normalisation
is undone. So they are the same in `HookedSAETransformer`, in `SAETransformerBridge` and without a
model, and with SAELens's error term, which is computed without them. They are hooks of torch on the SAE's
hook points: TransformerLens, which drops its own after each run, leaves them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from sae_lens import SAE

from sae_lens_meta.decomposition.decomposition import Decomposition
from sae_lens_meta.training.penalty import unit_rows

SAME_ROW = 0.99  # cosine that the rounding of a dtype leaves


@contextmanager
def without_part(
    sae: SAE[Any],
    decomposition: Decomposition,
    meta_latent: int,
    latents: Sequence[int] | None = None,
) -> Iterator[None]:
    """
    Inside, `latents` write to the reconstruction without their part `meta_latent`.

    Latent i of activation a_i then adds `a_i ||W_i|| (w_i - coefficients_ij v_j)`: what it is made
    of besides, and what no meta latent explains, stays. With `latents=None` all latents lose the
    part, which ablates the meta latent; the published knowledge editing is that
    (arXiv:2502.04878).

    Raises:
        IndexError: if there is no such meta latent or latent.
        ValueError: if the decomposition is of another SAE, none of `latents` has that part, or the
            SAE's architecture does not pass its activations through a hook.
    """
    _check_is_of(sae, decomposition)
    found = decomposition.latents_of(meta_latent)
    weights = torch.zeros(decomposition.d_sae)
    weights[found.latents] = found.weights
    if latents is not None:
        chosen = torch.zeros(decomposition.d_sae, dtype=torch.bool)
        for latent in latents:
            decomposition.parts_of(latent)  # that there is such a latent
            chosen[latent] = True
        weights *= chosen
    using = weights.nonzero()[:, 0]
    if len(using) == 0:
        of = (
            "No latent is"
            if latents is None
            else f"None of the latents {list(latents)} is"
        )
        raise ValueError(f"{of} made of meta latent {meta_latent}.")
    factors = -weights[using] * _row_norms(sae)[using]
    direction = decomposition.directions[meta_latent]
    last: list[torch.Tensor] = []

    def remember(_module: Any, _inputs: Any, acts: torch.Tensor) -> None:
        last[:] = [acts]

    def change(_module: Any, _inputs: Any, recons: torch.Tensor) -> torch.Tensor:
        if not last:
            raise ValueError(
                f"An SAE of architecture {sae.cfg.architecture()!r} does not pass its "
                "activations through hook_sae_acts_post, which this needs."
            )
        acts = last.pop()
        acts = acts.to_dense() if acts.layout != torch.strided else acts
        amounts = acts[..., using.to(acts.device)] @ factors.to(acts)
        return recons + amounts[..., None] * direction.to(recons)

    with (
        _hooked(sae.hook_sae_acts_post, remember),
        _hooked(sae.hook_sae_recons, change),
    ):
        yield


@contextmanager
def steered(
    sae: SAE[Any], decomposition: Decomposition, meta_latent: int, strength: float
) -> Iterator[None]:
    """
    Inside, `strength` times the unit direction of `meta_latent` is added to every reconstruction.

    The strength is in units of the space that the decoder writes in. For an SAE with `layer_norm` a
    vector there has norm sqrt(d_in), whatever its norm in the model.

    Raises:
        IndexError: if there is no such meta latent.
        ValueError: if the decomposition is of another SAE.
    """
    _check_is_of(sae, decomposition)
    decomposition.latents_of(meta_latent)  # that there is such a meta latent
    shift = strength * decomposition.directions[meta_latent]

    def change(_module: Any, _inputs: Any, recons: torch.Tensor) -> torch.Tensor:
        return recons + shift.to(recons)

    with _hooked(sae.hook_sae_recons, change):
        yield


@contextmanager
def _hooked(point: torch.nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = point.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _row_norms(sae: SAE[Any]) -> torch.Tensor:
    """What an activation of 1 adds to the reconstruction, as a norm, `[d_sae]`."""
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        return torch.ones(sae.cfg.d_sae)  # the decoder is used at norm 1
    return sae.W_dec.detach().float().norm(dim=1).cpu()


def _check_is_of(sae: SAE[Any], decomposition: Decomposition) -> None:
    W_dec, rows = sae.W_dec.detach().float().cpu(), decomposition.rows
    if W_dec.shape != rows.shape:
        raise ValueError(
            f"The decomposition is of another SAE: its rows are {tuple(rows.shape)}, and the "
            f"SAE's decoder is {tuple(W_dec.shape)}."
        )
    cosines = (unit_rows(W_dec) * rows).sum(dim=1)
    if not bool((cosines > SAME_ROW).all()):
        raise ValueError(
            "The decomposition is of another SAE: decoder row "
            f"{int(cosines.argmin())} points elsewhere."
        )
