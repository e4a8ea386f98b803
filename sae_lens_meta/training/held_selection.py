"""A meta SAE whose latents are selected once in a cycle, and held while the rows move on."""

import torch
from typing_extensions import override

from sae_lens_meta.training.backend import Sums, backend_of, products_at, starts_of
from sae_lens_meta.training.meta_config import MetaSAEConfig
from sae_lens_meta.training.meta_sae import MetaSAE
from sae_lens_meta.training.normalized_rows import LAYER_NORM_EPS, moments


class HeldMetaSAE(MetaSAE):
    """
    Reconstructs rows by the latents that were selected for them when the cycle began.

    The steps of a meta phase look for theirs near those of its first. What is held is a
    buffer: a run resumes in the middle of a cycle.
    """

    held: torch.Tensor
    share_missed: torch.Tensor | None = None
    looks_near = True
    of_training = (*MetaSAE.of_training, "held")

    def __init__(self, cfg: MetaSAEConfig, n_rows: int):
        """
        Args:
            cfg: of the meta SAE.
            n_rows: decoder rows of the primary, `d_sae`.
        """
        super().__init__(cfg)
        held = torch.full((int(cfg.k * n_rows),), -1, device=self.W_dec.device)
        self.register_buffer("held", held)

    @torch.no_grad()
    def hold(self, W_dec: torch.Tensor) -> None:
        """
        Selects for each row of `W_dec`, `[d_sae, d_in]`, the latents of the cycle ahead.

        `share_missed` then says of how many of them the last meta phase did not look at.
        """
        with torch.autocast(W_dec.device.type, enabled=False):
            rows = self._normalized(W_dec, self._input_bias())
            codes, _ = self.encode_active(rows)
            flat = codes.samples * self.cfg.d_sae + codes.latents
            n_none = len(self.held) - len(flat)  # where fewer are positive
            self.held = torch.cat([flat.new_full((n_none,), -1), flat])
            if self.near is not None:
                places = torch.searchsorted(self.near, flat)
                looked_at = self.near[places.clamp(max=len(self.near) - 1)]
                self.share_missed = 1 - (looked_at == flat).double().mean()

    @override
    @torch.no_grad()
    def reconstruct(self, W_dec: torch.Tensor) -> torch.Tensor:
        """
        Reconstruction of each row by the latents that `hold` selected, with their values now.

        The normalised rows are never made: with u_i the unit row, m_i its mean and s_i its
        deviation, `(u_i - m_i) / s_i . e_j = (W_i . e_j / ||W_i|| - m_i sum(e_j)) / s_i`.
        """
        with torch.autocast(W_dec.device.type, enabled=False):
            return self.graphs.call(self, self._by_held, W_dec, self.held)[0]

    def _by_held(self, W_dec: torch.Tensor, held: torch.Tensor) -> tuple[torch.Tensor]:
        backend, encoder = backend_of(W_dec), self.encoder()
        norms = W_dec.norm(dim=1)
        sums = W_dec.sum(dim=1) / norms
        mean, std = moments(sums, self.cfg.d_in, self._is_layer_norm)
        places = held.clamp(min=0)
        rows, latents = places // self.cfg.d_sae, places % self.cfg.d_sae
        products = products_at(places, W_dec, encoder.rows) / norms[rows]
        products -= mean[rows] * encoder.rows.sum(dim=1)[latents]
        products /= std[rows] + LAYER_NORM_EPS * self._is_layer_norm
        shifts = encoder.biases - encoder.rows @ self._input_bias()
        acts = (products + shifts[latents]).relu() * (held >= 0)
        weights = acts / encoder.norms[latents] * std[rows]
        sums = Sums(weights, latents, starts_of(rows, len(W_dec)))
        recons = backend.weighted_sums(sums, self.W_dec)
        # what comes back with the normalisation: s_i b_dec + m_i
        constant = torch.stack([self.b_dec, torch.ones_like(self.b_dec)])
        return (recons.addmm_(torch.stack([std, mean], dim=1), constant),)
