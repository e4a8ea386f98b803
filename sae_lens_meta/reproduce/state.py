"""run.json: what is run, how it is planned, and which stages are done."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from sae_lens_meta.activations.text import text_identity
from sae_lens_meta.destination import check_same, check_writable, write_whole
from sae_lens_meta.reproduce.recipe import Recipe
from sae_lens_meta.reproduce.run import Run
from sae_lens_meta.reproduce.stages import Figures

STATE = "run.json"


@dataclass
class State:
    """run.json: what is run, how it is planned, and which stages are done."""

    path: Path
    recipe: dict[str, Any]
    plan: dict[str, Any]
    stages: dict[str, Figures]

    def save(self) -> None:
        plain = {"recipe": self.recipe, "plan": self.plan, "stages": self.stages}
        write_whole(self.path, json.dumps(plain, indent=2) + "\n")


@contextmanager
def begun(run: Run) -> Iterator[State]:
    """
    The state of a run that several processes may begin at once, each in its turn.

    Raises:
        ValueError: if the folder holds a run of another recipe.
        OSError: if nothing can be written to it.
    """
    check_writable(run.folder)
    run.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(run.folder / ".plan.lock"):
        yield claimed(run.folder, run.recipe, run.is_rehearsal)


def claimed(folder: Path, recipe: Recipe, is_rehearsal: bool) -> State:
    """
    The state of the run in `folder`, or that of one which begins.

    Raises:
        ValueError: if it is of another recipe.
    """
    path = folder / STATE
    plain = recipe.model_dump(exclude={"format"}) | {"is_rehearsal": is_rehearsal}
    if not path.is_file():
        return State(path, plain, {}, {})
    found = json.loads(path.read_text())
    check_same(folder, found["recipe"], plain)
    return State(path, plain, found["plan"], found["stages"])


def claim_text(run: Run, state: State) -> None:
    """
    Raises:
        ValueError: if the text holds other documents than when the run began.
    """
    now = text_identity(run.recipe.dataset).sha256
    if state.plan.setdefault("text_sha256", now) != now:
        raise ValueError(
            f"{run.recipe.dataset!r} holds other documents than when the run in {run.folder} "
            "began, so that what was held out may have been trained on. Bring the text back, or "
            "give another --output."
        )
