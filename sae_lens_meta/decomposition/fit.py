"""Fitting a meta SAE to the decoder of a finished SAE."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from sae_lens import SAE

from sae_lens_meta.measures.meta_structure import fitted_meta_sae
from sae_lens_meta.saved import check_device
from sae_lens_meta.training.meta_sae import MetaSAE

# Leask et al. (arXiv:2502.04878): 2,304 meta latents for 49,152 rows, 4 of them a row on average
PUBLISHED_WIDTH = 2_304 / 49_152
PUBLISHED_K = 4


@dataclass(frozen=True)
class FitSettings:
    """
    How a meta SAE is fitted to decoder rows.

    Args:
        meta_d_sae (int | None): Meta latents. By default 3 for 64 rows, the published
            proportion (2,304 for 49,152).
        meta_k (float | None): Meta latents that a row is made of, on average. By default 4, as published.
        steps (int): Adam steps of each fit: where none was trained with the SAE, its own; and those of
            the second seed and of the nulls.
        rows_per_step (int): Rows drawn for each step; all of them where there are no more.
        lr (float): Learning rate of that Adam.
        seed (int): Seed of the initial weights and of the draws; the next two are of the second fit and of the nulls.
        device (str): To fit on.
    """

    meta_d_sae: int | None = None
    meta_k: float | None = None
    steps: int = 3000
    rows_per_step: int = 1024
    lr: float = 3e-3
    seed: int = 0
    device: str = "cpu"

    def for_rows(self, d_sae: int) -> "FitSettings":
        """
        These, with nothing left open, for `d_sae` rows.

        Raises:
            ValueError: if a setting is out of its range, or there are fewer rows than meta latents.
        """
        width, k = self.meta_d_sae, self.meta_k
        complete = replace(
            self,
            meta_d_sae=max(1, round(PUBLISHED_WIDTH * d_sae))
            if width is None
            else width,
            meta_k=PUBLISHED_K if k is None else k,
        )
        complete._check(d_sae)
        return complete

    def as_dict(self) -> dict[str, Any]:
        """Without the device, on which nothing depends but rounding."""
        settings = asdict(self)
        del settings["device"]
        return settings

    def _check(self, d_sae: int) -> None:
        check_device(self.device)
        for name in ("meta_d_sae", "steps", "rows_per_step", "lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")
        assert self.meta_d_sae is not None and self.meta_k is not None
        if d_sae < self.meta_d_sae:
            raise ValueError(
                f"The SAE has {d_sae} decoder rows, fewer than the {self.meta_d_sae} meta latents "
                "asked for: each row could be a meta latent of its own. Give a smaller "
                "--meta_d_sae."
            )
        if not 0 < self.meta_k <= self.meta_d_sae:
            raise ValueError(
                f"meta_k must be above 0 and at most the {self.meta_d_sae} meta latents, got "
                f"{self.meta_k}."
            )


def fit(rows: torch.Tensor, settings: FitSettings, what: str) -> SAE[Any]:
    """
    A stock SAE of SAELens over unit rows `[d_sae, d_in]`, fitted to them.

    Args:
        rows: unit rows.
        settings: complete (`FitSettings.for_rows`).
        what: is fitted, for the progress bar.
    """
    assert settings.meta_d_sae is not None and settings.meta_k is not None
    rows = rows.to(settings.device)
    meta_sae = fitted_meta_sae(
        rows,
        settings.meta_d_sae,
        settings.meta_k,
        settings.steps,
        settings.rows_per_step,
        settings.lr,
        settings.seed,
        what,
    )
    meta_sae.set_threshold(rows)
    return stock(meta_sae)


def stock(meta_sae: MetaSAE) -> SAE[Any]:
    """What `save_inference_model` writes of a meta SAE, without the way over a disk."""
    weights = meta_sae.state_dict()
    meta_sae.process_state_dict_for_saving_inference(weights)
    sae = SAE.from_dict(meta_sae.cfg.get_inference_sae_cfg_dict())
    sae.load_state_dict(weights)
    return sae.to("cpu")
