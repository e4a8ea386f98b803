"""How well a fresh meta SAE, fitted after training, reconstructs a decoder."""

import torch
from tqdm.auto import trange

from sae_lens_meta.training.meta_fit import meta_fit
from sae_lens_meta.training.meta_sae import MetaSAE, MetaSAEConfig
from sae_lens_meta.training.penalty import unit_rows


def meta_explained_variance(
    W_dec: torch.Tensor,
    meta_d_sae: int,
    meta_k: float,
    n_steps: int = 1500,
    rows_per_step: int = 1024,
    lr: float = 5e-4,
    seed: int = 0,
) -> float:
    """
    Share of the variance of unit decoder rows that a fresh meta SAE explains.

    It is a meta SAE as in training, fitted to the finished decoder with the same budget for
    every SAE compared, so that no SAE is judged by the one it was trained against. Lower is
    more atomic. The figure is not that of SAEBench's `meta_structure`, which fits a meta SAE of
    other initial weights and normalisation to the same rows and comes out higher
    (benchmarks/meta_structure.py).

    Args:
        W_dec: decoder, `[d_sae, d_in]`.
        meta_d_sae: number of meta latents.
        meta_k: average number of meta latents per row.
        n_steps: Adam steps.
        rows_per_step: rows drawn for each step; all of them where there are no more.
        lr: learning rate of that Adam.
        seed: seed of the meta SAE's initial weights and of the draws.
    """
    rows = unit_rows(W_dec.detach().float())
    config = MetaSAEConfig(
        d_in=rows.shape[1],
        d_sae=meta_d_sae,
        k=meta_k,
        device=str(rows.device),
        normalize_activations="layer_norm",
        aux_loss_coefficient=1 / 32,
        decoder_init_norm=1.0,
        lr=lr,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        meta_sae = MetaSAE(config)
        _fit(meta_sae, rows, n_steps, rows_per_step)
    squared_distances = (rows - meta_sae.reconstruct(rows)).pow(2).sum(dim=-1)
    fit = meta_fit(rows, squared_distances)
    return fit["meta_explained_variance"].item()


def _fit(
    meta_sae: MetaSAE, rows: torch.Tensor, n_steps: int, rows_per_step: int
) -> None:
    if len(rows) <= rows_per_step:
        return meta_sae.fit(rows, n_steps)
    for _ in trange(n_steps, desc="Fitting a meta SAE", leave=False):
        drawn = torch.randperm(len(rows), device=rows.device)[:rows_per_step]
        meta_sae.fit(rows[drawn], 1)
    return None
