"""What an SAE was trained for, as its settings record it and a card says it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

METASAES = "https://arxiv.org/abs/2604.03436"
# how settings begin that mean nothing without a meta SAE
OF_META_SAE = ("meta_", "decomposability_bandwidth", "primary_steps_per_cycle")


@dataclass(frozen=True)
class Objective:
    """
    Attributes:
        has_meta_sae: whether a meta SAE was trained beside the SAE.
        said: the end of a card's first sentence, which begins with the model and the hook.
        paper: URL of the article that it is from; None of what is this package's own.
    """

    has_meta_sae: bool
    said: str
    paper: str | None = None

    def settings_of(self, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the recorded settings that training went by."""
        left_out = () if self.has_meta_sae else OF_META_SAE
        return {n: v for n, v in recorded.items() if not n.startswith(left_out)}


DECOMPOSABILITY = Objective(
    True,
    "trained jointly with a small\n"
    "meta SAE that sparsely reconstructs its decoder rows and penalised for every row that the meta SAE\n"
    f"reconstructs easily ([MetaSAEs]({METASAES})), so that its latents are less decomposable. Both\n"
    "SAEs are here, as JumpReLU SAEs that stock SAELens loads",
    METASAES,
)
ALONE = "It is a\nJumpReLU SAE that stock SAELens loads"
OVERLAPS = {
    "orthogonality": Objective(
        False,
        "trained with a penalty on\nthe cosine of every decoder row with the nearest of its chunk "
        f"([OrtSAE](https://arxiv.org/abs/2509.22033)). {ALONE}",
        "https://arxiv.org/abs/2509.22033",
    ),
    "implied_overlap": Objective(
        False,
        "trained with a penalty on\nimplied overlap: the decoder row of a latent is charged for what it "
        "holds of the direction of another\nthat fires wherever it does, and more often, so that the "
        f"parent of two need not be silent beside its\nchild. {ALONE}",
    ),
}
SOLO = Objective(False, f"trained without a penalty\non its decoder. {ALONE}")


def objective_of(settings: Mapping[str, Any]) -> Objective:
    """The objective of the recorded `settings`; the paper's where they do not say."""
    if settings.get("decomposability_coefficient") == 0:
        return SOLO
    return OVERLAPS.get(settings.get("penalty", "decomposability"), DECOMPOSABILITY)
