"""What to export."""

from dataclasses import dataclass, field
from pathlib import Path

from sae_lens_meta.saved import SavedSAE


@dataclass
class ExportConfig:
    """
    What to export.

    Args:
        output (Path): Folder that receives the files.
        overwrite (bool): Write into a folder that holds files already.
        latents (list[int]): Which; all by default.
    """

    output: Path = Path("export")
    overwrite: bool = False
    latents: list[int] = field(default_factory=list)

    def latents_of(self, saved: SavedSAE) -> list[int]:
        """
        The latents to export, ascending.

        Raises:
            ValueError: if the SAE has no such latent.
        """
        wrong = [i for i in self.latents if not 0 <= i < saved.d_sae]
        if wrong:
            raise ValueError(
                f"{saved.path} has the latents 0 to {saved.d_sae - 1}, and not "
                f"{', '.join(map(str, wrong))}."
            )
        return sorted(set(self.latents)) or list(range(saved.d_sae))
