"""Automated interpretability: a judge model explains latents and is tested on its explanations."""

from sae_lens_meta.autointerp.config import AutointerpConfig
from sae_lens_meta.autointerp.run import autointerp, check_number

__all__ = ["AutointerpConfig", "autointerp", "check_number"]
