"""Dead rows drawn anew, where the reconstruction misses most."""

from functools import cache
from typing import Any

import torch
from sae_lens import TrainingSAE
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.weak import WeakTensorKeyDictionary

ENCODER_SCALE = 0.5  # of the living rows' median norm
# where in a parameter the moments are to be forgotten
_PENDING: Any = WeakTensorKeyDictionary()


@torch.no_grad()
def resample(
    sae: TrainingSAE[Any],
    dead: torch.Tensor,
    residuals: torch.Tensor,
    seed: int,
) -> None:
    """
    Gives each dead latent the direction of a residual, drawn in proportion to `||e||^4`.

    Its decoder row gets the median norm of the living ones; its encoder the same direction at half
    the median norm of theirs; its bias is 0. The squared loss as weight and the small encoder
    are those of "Towards Monosemanticity" (2023), whose factor is 0.2. What Adam remembers of these
    latents is forgotten at the optimizer's next step.

    Args:
        sae: with `W_enc` `[d_in, d_sae]`, `W_dec` `[d_sae, d_in]` and `b_enc` `[d_sae]`.
        dead: mask `[d_sae]`.
        residuals: of a batch, in the space of the decoder rows, `[n, d_in]`.
        seed: of the draw.
    """
    latents = dead.nonzero()[:, 0]
    weights = residuals.pow(2).sum(dim=1).square().double().cpu()
    if len(latents) == 0 or bool(dead.all()) or not bool(weights.sum() > 0):
        return
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(weights, len(latents), True, generator=generator)
    chosen = residuals[drawn.to(residuals.device)]
    directions = chosen / chosen.norm(dim=1, keepdim=True)
    sae.W_dec[latents] = directions * sae.W_dec[~dead].norm(dim=1).median()
    encoder_norm = ENCODER_SCALE * sae.W_enc[:, ~dead].norm(dim=0).median()
    sae.W_enc[:, latents] = (directions * encoder_norm).t()
    sae.b_enc[latents] = 0  # type: ignore[operator]
    _forget(sae, latents)


def _forget(sae: TrainingSAE[Any], latents: torch.Tensor) -> None:
    """
    Has the moments of `latents` cleared before the next step of the optimizer of `sae`.

    SAELens's trainer hands its optimizer to nobody, so every optimizer's steps are looked at.
    """
    _PENDING[sae.W_dec] = (latents,)
    _PENDING[sae.W_enc] = (slice(None), latents)
    _PENDING[sae.b_enc] = (latents,)
    _look_at_steps()


@cache
def _look_at_steps() -> None:
    register_optimizer_step_pre_hook(_clear_pending)


def _clear_pending(optimizer: Optimizer, *_: Any) -> None:
    if not _PENDING:
        return
    for parameter, state in optimizer.state.items():
        if (place := _PENDING.pop(parameter, None)) is not None:
            for name in ("exp_avg", "exp_avg_sq"):
                state[name][place] = 0
