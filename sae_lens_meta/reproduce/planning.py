"""Which SAEs are trained in one pass, and whether disk, memory and time suffice."""

from typing import Any

from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HFValidationError
from rich.console import Console

from sae_lens_meta.activations.text import load_text
from sae_lens_meta.reproduce.executor import Piece
from sae_lens_meta.reproduce.needs import (
    Machine,
    check_needs,
    estimate,
    free_memory_gb,
    in_groups,
    measured_bandwidth,
    measured_rate,
    needs_table,
)
from sae_lens_meta.reproduce.run import Run


def planned(
    run: Run,
    together: int | None,
    groups: list[list[str]] | None,
    todo: set[str],
    console: Console,
) -> list[list[str]]:
    """
    Which SAEs are trained in one pass; shows what the run takes, and has it know.

    Args:
        run: with its recipe.
        together: SAEs in one pass at most, by choice.
        groups: as an earlier call has planned.
        todo: stages to run.
        console: to print to.

    Raises:
        ValueError: if something is missing, or a training that has begun no longer fits.
    """
    recipe = run.recipe
    ((machine, free_on_host),) = run.each([Piece("plan", _measured, None)])
    if groups is None or not any(run.checkpoints.glob("*")):
        groups = in_groups(recipe, machine, together)
    elif together is not None and together < len(groups[0]):
        raise ValueError(
            f"Training has begun with {len(groups[0])} SAEs in one pass. Leave out --together, "
            f"or delete {run.checkpoints} to begin again."
        )
    elif todo & {"train", "continue"} and len(in_groups(recipe, machine)[0]) < len(
        groups[0]
    ):
        raise ValueError(
            f"Training has begun with {len(groups[0])} SAEs in one pass, for which "
            f"{machine.free_gb:.1f} GB of memory are too little. Free memory, or delete "
            f"{run.checkpoints} to begin again."
        )
    needs = estimate(recipe, groups, machine)
    console.print(needs_table(recipe, needs, groups, machine))
    check_needs(needs, run.folder, free_on_host if "compare" in todo else None)
    run.comparing_gb = needs.comparing_gb
    # what a training on a GPU holds is on the GPU
    run.training_gb = 0.0 if machine.is_gpu else needs.training_gb
    return groups


def _measured(run: Run, _: Any) -> tuple[Machine, float]:
    """The machine that this process is on, and GB of its memory that are free."""
    # before the language model is loaded
    free, free_on_host = free_memory_gb(run.device), free_memory_gb("cpu")
    _check_to_be_had(run)
    machine = Machine(
        device=run.device,
        free_gb=free,
        rate=measured_rate(run.recipe, run.device),
        reading=run.measured_reading(),
        lm_weights=sum(p.numel() for p in run.model.parameters()),
        lm_bytes=next(run.model.parameters()).element_size(),
        bandwidth=measured_bandwidth(run.device),
    )
    return machine, free_on_host


def _check_to_be_had(run: Run) -> None:
    """Loads the model, whose size the needs depend on, and a document of the text."""
    try:
        _ = run.model
        load_text(run.recipe.dataset, 1)
    # of a path that is not there, huggingface-hub before version 1 says that it is no name
    except (OSError, DatasetsError, HFValidationError) as error:
        hint = "Give another text with --dataset."
        if run.recipe.rehearsal and not run.is_rehearsal:
            hint += " --rehearse runs the recipe without its model."
        raise ValueError(
            f"The model {run.recipe.model!r} or the text {run.recipe.dataset!r} cannot be had: "
            f"{str(error).rstrip('.')}. {hint}"
        ) from error
