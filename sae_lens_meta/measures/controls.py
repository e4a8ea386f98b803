"""An SAE that has learnt nothing: random directions that fire as often as real latents do."""

import copy
from typing import Any

import torch
from sae_lens import SAE

from sae_lens_meta.activations.stream import encode

NEVER = torch.finfo(torch.float32).max
ROWS, LATENTS = 2048, 512  # in memory at a time


def check_thresholds(sae: SAE[Any]) -> None:
    """
    Checks that a control can be made of `sae`.

    Raises:
        ValueError: if it has no thresholds.
    """
    if not hasattr(sae, "threshold"):
        raise ValueError(
            f"An SAE of architecture {sae.cfg.architecture()!r} has no thresholds, which the "
            "control of random directions needs; give a jumprelu SAE."
        )


@torch.no_grad()
def random_direction_sae(
    sae: SAE[Any], activations: torch.Tensor, seed: int = 0
) -> SAE[Any]:
    """
    A jumprelu SAE of random unit directions, its latents firing as often as those of `sae`.

    What a judge or a probe makes of it is what they make of any direction: a real SAE must score
    higher.

    Args:
        sae: a jumprelu SAE, whose shape and firing rates the control has.
        activations: `[n, d_in]`, on which the rates are taken; a latent that is silent on them
            never fires.
        seed: of the directions.

    Raises:
        ValueError: if `sae` has no thresholds.
    """
    check_thresholds(sae)
    control: Any = copy.deepcopy(sae)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(sae.cfg.d_sae, sae.cfg.d_in, generator=generator).to(sae.device)
    rows /= rows.norm(dim=-1, keepdim=True)
    control.W_dec.data, control.W_enc.data = rows, rows.T.contiguous()
    control.b_enc.data.zero_()
    n_fired = sum(
        (encode(sae, part) > 0).sum(dim=0).cpu() for part in activations.split(ROWS)
    )
    x = control.process_sae_in(activations.to(sae.device))
    for part in torch.arange(sae.cfg.d_sae).split(LATENTS):
        ordered = (x @ rows[part].T).cpu().sort(dim=0, descending=True).values
        # above the first value that must not fire
        place = n_fired[part].clamp(max=len(ordered) - 1)  # type: ignore[index]
        cut = ordered.gather(0, place[None])[0].clamp(min=0)
        threshold = torch.where(n_fired[part] > 0, cut, NEVER)  # type: ignore[index]
        control.threshold.data[part] = threshold.to(control.threshold.data)
    return control
