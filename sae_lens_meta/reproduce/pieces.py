"""One piece of a recipe by itself, for machines that share nothing but the run's folder."""

from rich.console import Console

from sae_lens_meta.activations.part import Part
from sae_lens_meta.reproduce.executor import Piece
from sae_lens_meta.reproduce.run import Run
from sae_lens_meta.reproduce.stages import Figures, ended, fill_piece, train_piece


def check_piece(run: Run, stages: list[str], only: str | None, part: str | None) -> str:
    """
    The stage that a piece is of.

    Args:
        run: with its recipe.
        stages: asked for.
        only: the SAE to train.
        part: of the activations, such as `3/8`.

    Raises:
        ValueError: if there is no such piece.
    """
    if only is not None and part is not None:
        raise ValueError("--only trains an SAE, --part reads activations. Give one.")
    if part is not None:
        Part.parse(part)
        if stages != ["cache"]:
            raise ValueError("--part is of the activations: give --stage cache too.")
        if not run.recipe.cache_activations:
            raise ValueError(
                "--part: this recipe keeps no activations (cache_activations: false)."
            )
        return "cache"
    if only not in run.recipe.saes():
        raise ValueError(
            f"The recipe trains no SAE {only!r}. It trains {', '.join(run.recipe.saes())}."
        )
    stage = "".join(stages) or "train"
    if stage not in ("train", "continue"):
        raise ValueError(f"--only goes with --stage train or continue; got {stage}.")
    return stage


def run_piece(
    run: Run, stage: str, only: str | None, part: str | None, console: Console
) -> Figures:
    """
    Reads one part of the activations, or trains one SAE, and writes what no other piece writes.

    Raises:
        ValueError: if another process is at this piece, or as `_training`.
        Interrupted: if a signal stopped a training; the same call goes on.
    """
    if only is not None:
        figures = _training(run, stage, only).perform(run)
        console.print(f"Done: {only}, in {run.saes}.")
        return figures
    assert part is not None  # as `check_piece` has seen to
    fill_piece(Part.parse(part)).perform(run)
    console.print(f"Done: part {part} of the activations, in {run.folder}.")
    return {}


def _training(run: Run, stage: str, name: str) -> Piece:
    """
    Raises:
        ValueError: if the activations are not complete, the run trains several SAEs in one pass, or a
            training is to be continued that has not ended.
    """
    recipe = run.recipe
    if [name] not in run.groups:
        raise ValueError(
            f"The run in {run.folder} trains several SAEs in one pass: "
            f"{'; '.join(' and '.join(group) for group in run.groups)}. Begin it with a piece, or "
            "with --together 1."
        )
    if recipe.cache_activations and not run.has_activations:
        raise ValueError(
            f"The activations in {run.folder} are not complete. Run --stage cache first, or all "
            "of its parts."
        )
    place, first = run.groups.index([name]), recipe.training.training_tokens
    if stage == "train":
        return train_piece(run, place, first)
    if not ended(run, place, first).is_file():
        raise ValueError(
            f"The training of {name} has not ended, so that it cannot be continued. Run --only "
            f"{name} first."
        )
    return train_piece(run, place, recipe.n_tokens)
