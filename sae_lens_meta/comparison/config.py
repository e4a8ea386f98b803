"""What to compare, and how."""

from dataclasses import dataclass, field
from pathlib import Path

from sae_lens_meta.comparison.members import EQUAL_L2, SOLO
from sae_lens_meta.measures.evaluate import META_STEPS


@dataclass(kw_only=True)
class Settings:
    """
    How SAEs are compared, whichever they are.

    Args:
        output (Path): Folder that receives comparison.json, its schema and report.html; what
            is half done is kept there too. It holds one comparison.
        overwrite (bool): Replace another comparison in `output`; what was attached to it, such as a
            judge's scores, is kept where it is of the same weights.
        ce_tokens (int): Tokens to run the whole language model on, for each SAE.
        min_fired (int): Tokens that a latent must fire on in every SAE to be compared.
        n_candidates (int): Splitting candidates to list; none need no counts of the pairs of
            latents of two SAEs, which take 4 bytes for each, twice where there is a second
            SAE of the baseline.
        max_memory_gb (float): Pair counts kept at a time; more SAEs take more passes.
        meta_steps (int): Adam steps of each meta SAE that is fitted to a decoder.
    """

    output: Path = Path("comparison")
    overwrite: bool = False
    ce_tokens: int = 16_384
    min_fired: int = 30
    n_candidates: int = 100
    max_memory_gb: float = 8.0
    meta_steps: int = META_STEPS


@dataclass(kw_only=True)
class CompareConfig(Settings):
    """
    Which SAEs are compared, and how.

    Args:
        groups: folders of SAEs, by the name of their group: seeds of one setting, or for other
            groups than the baseline and its control, of several settings. Whatever their order was,
            the baseline comes first and its control next.
        baseline: the group that the others are held against.
        control: the group that is the baseline brought to the L2 and L0 of the others, which
            tells what worse reconstruction alone does; there need not be one.
    """

    groups: dict[str, list[Path]] = field(default_factory=dict)
    baseline: str = SOLO
    control: str | None = EQUAL_L2

    def __post_init__(self) -> None:
        first = [name for name in (self.baseline, self.control) if name in self.groups]
        ordered = dict.fromkeys([*first, *self.groups])
        self.groups = {str(name): self.groups[str(name)] for name in ordered}
