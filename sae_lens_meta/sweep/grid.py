"""Which settings are trained, and the solo SAE that each is held against."""

from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from pydantic import ValidationError

from sae_lens_meta import yaml_numbers
from sae_lens_meta.comparison.members import JOINT, SOLO
from sae_lens_meta.reproduce.recipe import RUNNER_FIELDS, Recipe
from sae_lens_meta.training.config import DecomposabilityConfig
from sae_lens_meta.training.joint import MetaTrainingSAEConfig

OF_SAE = {field.name for field in fields(MetaTrainingSAEConfig)}
# what a solo SAE does not have: one serves for all of their values
OF_PENALTY = {field.name for field in fields(DecomposabilityConfig)} - {"init_seed"}
# that are the sweep's or the recipe's own
NOT_SWEPT = {"init_seed", "d_in", "device", "metadata"} | {
    "training_tokens",
    "context_size",
    "autocast_lm",
    "model_from_pretrained_kwargs",
    "n_checkpoints",
    "train_batch_size_tokens",
    "store_batch_size_prompts",
    "n_batches_in_buffer",
}


@dataclass(frozen=True)
class Setting:
    """
    What a training changes of the recipe.

    Attributes:
        changes: names and values, in the order of the grid.
        is_solo: whether it is a solo SAE.
    """

    changes: tuple[tuple[str, Any], ...]
    is_solo: bool = False

    @property
    def solo(self) -> "Setting":
        """The solo SAE that this one is held against: alike, but for the penalty."""
        kept = tuple(c for c in self.changes if c[0] not in OF_PENALTY)
        return Setting(kept, is_solo=True)

    def __str__(self) -> str:
        changes = [f"{name}={_plain(value)}" for name, value in self.changes]
        return ",".join(["solo"] * self.is_solo + changes) or "the recipe's"

    def recipe(self, recipe: Recipe, seed: int, n_tokens: int) -> Recipe:
        """
        The recipe with the setting, one seed and so many tokens.

        Raises:
            ValueError: if it allows no such value.
        """
        changes = dict(self.changes)
        sae = {n: v for n, v in changes.items() if n in OF_SAE}
        runner = {n: v for n, v in changes.items() if n not in OF_SAE}
        runner |= {"training_tokens": n_tokens, "n_checkpoints": 0}
        changed = recipe.model_copy(
            update={
                "seeds": [seed],
                "sae": recipe.sae | sae,
                "runner": recipe.runner | runner,
                "continue_tokens": None,
            }
        )
        try:
            # which a copy is not
            changed = Recipe.model_validate(changed.model_dump())
        except ValidationError as error:
            said = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
            raise ValueError(f"The setting {self}: {said}") from error
        except TypeError as error:
            raise ValueError(f"The setting {self}: {error}") from error
        return changed

    def sae_name(self, seed: int) -> str:
        """Name of its SAE in that recipe."""
        return f"{SOLO if self.is_solo else JOINT}_{seed}"


def settings(grid: tuple[str, ...]) -> list[Setting]:
    """
    All combinations of a grid, each solo SAE before the first that is held against it.

    Args:
        grid: of `NAME=VALUE,VALUE,...`.

    Raises:
        ValueError: if one is not that, is given twice, or names what cannot be swept.
    """
    names, values = [], []
    for text in grid:
        name, equals, listed = text.partition("=")
        if not equals or not name or not listed:
            raise ValueError(
                f"--grid takes NAME=VALUE,VALUE,...; got {text!r}. For instance "
                "--grid decomposability_coefficient=0.1,0.3,1."
            )
        known = (OF_SAE | RUNNER_FIELDS) - NOT_SWEPT
        if name not in known:
            raise ValueError(
                f"--grid: {name!r} cannot be swept. One can: {', '.join(sorted(known))}."
            )
        if name in names:
            raise ValueError(f"--grid: {name!r} stands twice. Give all values at once.")
        names.append(name)
        values.append([yaml_numbers.load(value) for value in listed.split(",")])
    found: dict[Setting, None] = {}
    for chosen in product(*values):
        setting = Setting(tuple(zip(names, chosen, strict=True)))
        found.setdefault(setting.solo)
        found.setdefault(setting)
    return list(found)


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
