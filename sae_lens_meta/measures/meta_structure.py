"""How well a fresh meta SAE, fitted after training, reconstructs a decoder."""

import torch
from tqdm.auto import trange

from sae_lens_meta.training.meta_config import MetaSAEConfig
from sae_lens_meta.training.meta_fit import meta_fit
from sae_lens_meta.training.meta_sae import MetaSAE
from sae_lens_meta.training.penalty import unit_rows


def meta_explained_variance(
    W_dec: torch.Tensor,
    meta_d_sae: int,
    meta_k: float,
    n_steps: int = 1500,
    rows_per_step: int = 1024,
    lr: float = 5e-4,
    seed: int = 0,
    what: str = "Fitting a meta SAE",
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
        what: the progress bar says.
    """
    rows = unit_rows(W_dec.detach().float())
    meta_sae = fitted_meta_sae(
        rows, meta_d_sae, meta_k, n_steps, rows_per_step, lr, seed, what
    )
    squared_distances = (rows - meta_sae.reconstruct(rows)).pow(2).sum(dim=-1)
    fit = meta_fit(rows, squared_distances)
    return fit["meta_explained_variance"].item()


def fitted_meta_sae(
    rows: torch.Tensor,
    meta_d_sae: int,
    meta_k: float,
    n_steps: int,
    rows_per_step: int,
    lr: float,
    seed: int,
    what: str,
) -> MetaSAE:
    """
    A fresh meta SAE, fitted to unit rows `[d_sae, d_in]`; see `meta_explained_variance`.

    Args:
        what: the progress bar says.
    """
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
        for _ in trange(n_steps, desc=what, leave=False):
            meta_sae.fit(_drawn(rows, rows_per_step), 1)
    return meta_sae


def _drawn(rows: torch.Tensor, n: int) -> torch.Tensor:
    if len(rows) <= n:
        return rows
    return rows[torch.randperm(len(rows), device=rows.device)[:n]]
