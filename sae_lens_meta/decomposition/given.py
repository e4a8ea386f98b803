"""The SAE that is to be taken apart: in memory, in a folder, or a release."""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE
from sae_lens.constants import SAE_WEIGHTS_FILENAME

from sae_lens_meta.measures.geometry import checked_unit_rows
from sae_lens_meta.saved import SavedSAE
from sae_lens_meta.training.carried import META_FOLDER
from sae_lens_meta.zoo.names import load_release, release_folders


@dataclass(frozen=True)
class GivenSAE:
    """
    A decoder, and what is known of where it came from.

    Attributes:
        name: of its folder or release; of one in memory, its architecture.
        W_dec: `[d_sae, d_in]` float32, on the processor.
        folder: of the user's that it lies in; None for a release and for one in memory.
        joint: the folder of the meta SAE that was trained with it, if there is one.
    """

    name: str
    W_dec: torch.Tensor
    folder: Path | None = None
    joint: Path | None = None

    @property
    def rows(self) -> torch.Tensor:
        """
        Unit rows, `[d_sae, d_in]`.

        Raises:
            ValueError: if a row is zero or not finite and has no direction.
        """
        return checked_unit_rows(self.W_dec)

    @cached_property
    def sha256(self) -> str:
        """Of the decoder in float32, by which a decomposition is known to be this SAE's."""
        return sha256(self.W_dec.contiguous().numpy().data).hexdigest()


def given_sae(sae: SAE[Any] | Path | str, sae_id: str | None = None) -> GivenSAE:
    """
    Finds an SAE and reads its decoder.

    Args:
        sae: an SAE in memory, a folder, or the name of a release of this package or of SAELens.
        sae_id: which of a release; may be left out where there is one.

    Raises:
        ValueError: if there is no such folder or release; if the release has several SAEs and
            `sae_id` is none of them, naming them; or if it is a checkpoint of a training.
        OSError: if a release cannot be downloaded.
    """
    if isinstance(sae, SAE):
        return GivenSAE(sae.cfg.architecture(), _decoder(sae))
    if Path(sae).is_dir():
        return _in_folder(Path(sae))
    if isinstance(sae, Path):
        raise ValueError(f"There is no folder {sae}.")
    if folders := release_folders(sae, sae_id):
        primary, joint = folders
        return GivenSAE(sae, SavedSAE.read(primary).decoder(), joint=joint)
    return GivenSAE(sae, _decoder(load_release(sae, sae_id)))


def _in_folder(folder: Path) -> GivenSAE:
    saved = SavedSAE.read(folder)
    joint = folder / META_FOLDER
    return GivenSAE(
        name=folder.resolve().name,
        W_dec=saved.decoder(),
        folder=folder,
        joint=joint if (joint / SAE_WEIGHTS_FILENAME).is_file() else None,
    )


def _decoder(sae: SAE[Any]) -> torch.Tensor:
    return sae.W_dec.detach().float().cpu()
