"""Recipes: what a release is trained with, one YAML file for each."""

from collections.abc import Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class Recipe(BaseModel):
    """
    A recipe.

    Attributes:
        release: name of the release.
        train: options of `sae-lens-meta train`, by name.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    release: str
    train: dict[str, bool | int | float | str]


def recipes_folder() -> Path:
    """Where the package's own recipes are."""
    return Path(str(files("sae_lens_meta") / "recipes"))


def load_recipe(name: str) -> Recipe:
    """
    Reads a recipe.

    Args:
        name: of a release that has one in the package, or the path of a file.

    Raises:
        ValueError: if there is none of that name, or the file is not a recipe.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else recipes_folder() / name
    if path.suffix not in (".yaml", ".yml"):
        path = path.with_name(f"{name}.yaml")
    if not path.is_file():
        names = sorted(known.stem for known in recipes_folder().glob("*.yaml"))
        near = get_close_matches(name, names, n=3, cutoff=0.4) or names
        raise ValueError(f"There is no recipe {name!r}. There are: {', '.join(near)}.")
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise ValueError(f"{path} is not a recipe: {error}") from error


def with_recipe(args: Sequence[str]) -> list[str]:
    """
    Options of `sae-lens-meta train` with `--recipe NAME` replaced by what the recipe says.

    Options that are given beside it win.

    Raises:
        ValueError: as `load_recipe`, or if no name follows.
    """
    rest = list(args)
    place = rest.index("--recipe")
    if place + 1 == len(rest):
        raise ValueError("--recipe takes the name of a recipe.")
    recipe = load_recipe(rest[place + 1])
    del rest[place : place + 2]
    given = {arg.split("=")[0] for arg in rest}
    options = []
    for name, value in recipe.train.items():
        if f"--{name}" not in given:
            options += [f"--{name}", str(value)]
    return [*options, *rest]
