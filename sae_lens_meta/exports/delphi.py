"""
The activations of some latents as a cache that delphi loads.

Its format is that of EleutherAI/delphi, `delphi/latents/cache.py` and `loader.py`: a folder named after
the hook with `FIRST_LAST.safetensors`, which holds `locations` (row of `tokens`, place in it, latent less
FIRST), `activations` in half precision and `tokens`, and a `config.json`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE
from safetensors.torch import save_file

from sae_lens_meta.activations.stream import ActivationBatch
from sae_lens_meta.hooks import transformers_name


class DelphiCache:
    """
    Collects where some latents fire over a pass, and writes it for delphi.

    Args:
        sae: whose latents.
        latents: which.
    """

    def __init__(self, sae: SAE[Any], latents: Sequence[int]):
        self.sae = sae
        self.latents = torch.tensor(sorted(latents))
        self._tokens: list[torch.Tensor] = []
        self._locations: list[torch.Tensor] = []
        self._activations: list[torch.Tensor] = []
        self._n_rows = 0

    def update(self, batch: ActivationBatch) -> None:
        """Adds a batch of tokens and activations."""
        acts = batch.codes(self.sae)[..., self.latents].cpu()
        row, place, latent = acts.nonzero(as_tuple=True)
        self._locations.append(
            torch.stack([row + self._n_rows, place, self.latents[latent]], dim=1)
        )
        self._activations.append(acts[row, place, latent].half())
        self._tokens.append(batch.tokens.cpu())
        self._n_rows += len(batch.tokens)

    def save(self, folder: Path, model: str) -> Path:
        """
        Writes the cache.

        Args:
            folder: that delphi is given as its `raw_dir`.
            model: whose tokenizer delphi loads.

        Returns:
            The folder of the hook.
        """
        tokens = torch.cat(self._tokens)
        metadata = self.sae.cfg.metadata
        hook = str(metadata.get("hf_hook_name") or metadata.hook_name)
        # delphi finds modules by their names in transformers
        path = folder / (transformers_name(hook, model) or hook)
        path.mkdir(parents=True, exist_ok=True)
        save_file(
            {
                "locations": torch.cat(self._locations).int(),
                "activations": torch.cat(self._activations),
                "tokens": tokens,
            },
            path / f"0_{self.sae.cfg.d_sae - 1}.safetensors",
        )
        config = {
            "model_name": model,
            "ctx_len": tokens.shape[1],
            "n_tokens": tokens.numel(),
        }
        (path / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        return path
