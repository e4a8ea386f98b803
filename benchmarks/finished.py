"""A run of `reproduce` that a study looks at again."""

import json
from pathlib import Path

from sae_lens_meta.reproduce.recipe import load_recipe
from sae_lens_meta.reproduce.run import Run


def finished_run(folder: Path) -> Run:
    """The run in `folder`, with its SAEs and the text that it has read."""
    state = json.loads((folder / "run.json").read_text())
    recipe = load_recipe(state["recipe"]["release"])
    recipe = recipe.model_copy(update={"dataset": state["recipe"]["dataset"]})
    return Run(recipe, folder, "cpu", groups=state["plan"]["groups"])
