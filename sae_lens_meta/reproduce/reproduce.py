"""One command from a recipe to a release, by stages that can be resumed."""

import json
import resource
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from datasets.exceptions import DatasetsError
from rich.console import Console
from simple_parsing import field

from sae_lens_meta.recipe import Recipe, load_recipe
from sae_lens_meta.reproduce.needs import (
    Machine,
    check_needs,
    estimate,
    free_memory_gb,
    in_groups,
    measured_rate,
    needs_table,
)
from sae_lens_meta.reproduce.rehearsal import rehearsed
from sae_lens_meta.reproduce.run import Run
from sae_lens_meta.reproduce.stages import STAGES, Figures, stages_of
from sae_lens_meta.text import PYDOC, load_text

STATE = "run.json"


@dataclass
class ReproduceConfig:
    """
    How to run a recipe.

    Args:
        output (Path | None): Folder that receives everything; by default runs/ and its name.
        stage (list[str]): Stages to run; by default all that are not done.
        rehearse (bool): Replace the language model by one of random weights and the true
            architecture, and take little of everything.
        dataset (str | None): The text, in the place of the recipe's.
        together (int | None): SAEs to train in one pass, at most; by default as many as fit into
            memory by our estimate.
        device (str): Of the model and the SAEs.
        judge_url (str | None): Of autointerp, for instance http://127.0.0.1:8000/v1.
        judge_model (str | None): Its name there.
        repo (str | None): Repository on the Hub to publish to; by default the last stage
            prepares the files and uploads nothing.
    """

    output: Path | None = None
    stage: list[str] = field(nargs="*", default_factory=list)
    rehearse: bool = field(default=False, action="store_true")
    dataset: str | None = None
    together: int | None = None
    device: str = "cpu"
    judge_url: str | None = None
    judge_model: str | None = None
    repo: str | None = None


def reproduce(name: str, cfg: ReproduceConfig, console: Console) -> dict[str, Figures]:
    """
    Runs the stages of a recipe, from the language model to the release.

    Args:
        name: of a release that has a recipe, or the path of one.
        cfg: how.
        console: to print to.

    Returns:
        What each stage found and took, as it stands in run.json.

    Raises:
        ValueError: if there is no such recipe or stage, the folder holds a run of another
            recipe, a stage comes before one it builds on, or disk or memory are too small.
    """
    recipe = load_recipe(name)
    if cfg.rehearse and cfg.repo:
        raise ValueError("A rehearsal is never published. Leave out --repo.")
    if cfg.rehearse:
        recipe = rehearsed(recipe, cfg.dataset or PYDOC)
    elif cfg.dataset:
        recipe = recipe.model_copy(update={"dataset": cfg.dataset})
    kind = "rehearsals" if cfg.rehearse else "runs"
    folder = cfg.output or Path(kind) / recipe.release
    run = Run(
        recipe,
        folder,
        cfg.device,
        cfg.rehearse,
        judge_url=cfg.judge_url,
        judge_model=cfg.judge_model,
        repo=cfg.repo,
    )
    known = stages_of(run)
    if unknown := [stage for stage in cfg.stage if stage not in known]:
        raise ValueError(
            f"The recipe of {recipe.release!r} has no stage {unknown[0]!r}. It has: "
            f"{', '.join(known)}."
        )
    state = _claimed(folder, recipe, cfg.rehearse)
    todo = _todo(run, cfg, known, state, console)
    if set(todo) - {"publish"}:
        groups = _planned(run, cfg.together, state.plan.get("groups"), console)
        state.plan["groups"] = groups
        state.save()
    run.groups = state.plan.get("groups", [])
    for stage in todo:
        console.rule(stage)
        for outdated in known[known.index(stage) :]:
            state.stages.pop(outdated, None)
        state.save()  # were this killed, what it has changed would not count as done
        start = time.perf_counter()
        if torch.device(cfg.device).type == "cuda":
            torch.cuda.reset_peak_memory_stats(cfg.device)
        figures = STAGES[stage](run)
        state.stages[stage] = figures | _taken(start, cfg.device)
        state.save()
    console.print(f"Done: {', '.join(state.stages)}. Everything is in {folder}.")
    return state.stages


@dataclass
class _State:
    """run.json: what is run, how it is planned, and which stages are done."""

    path: Path
    recipe: dict[str, Any]
    plan: dict[str, Any]
    stages: dict[str, Figures]

    def save(self) -> None:
        plain = {"recipe": self.recipe, "plan": self.plan, "stages": self.stages}
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(plain, indent=2) + "\n")
        part.replace(self.path)


def _claimed(folder: Path, recipe: Recipe, is_rehearsal: bool) -> _State:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / STATE
    plain = recipe.model_dump() | {"is_rehearsal": is_rehearsal}
    if not path.is_file():
        return _State(path, plain, {}, {})
    found = json.loads(path.read_text())
    for key, value in plain.items():
        if found["recipe"].get(key) != value:
            raise ValueError(
                f"{folder} holds a run with {key} {found['recipe'].get(key)!r}; the recipe now "
                f"says {value!r}. Give another --output, or delete it."
            )
    return _State(path, plain, found["plan"], found["stages"])


def _todo(
    run: Run, cfg: ReproduceConfig, known: list[str], state: "_State", console: Console
) -> list[str]:
    """
    The stages to run.

    Raises:
        ValueError: if one is not to be run now.
    """
    done = set(state.stages)
    if run.repo and not state.stages.get("publish", {}).get("uploaded"):
        done.discard("publish")  # it was prepared only
    todo = [s for s in known if s in cfg.stage or not (cfg.stage or s in done)]
    has_judge = run.is_rehearsal or (run.judge_url and run.judge_model)
    if "autointerp" in todo and not has_judge:
        if cfg.stage:
            raise ValueError(
                "The stage autointerp asks a judge: give --judge_url and --judge_model, for "
                "instance of a vLLM server."
            )
        todo.remove("autointerp")
        console.print(
            "autointerp is left out: it takes --judge_url and --judge_model, and then --stage "
            "autointerp publish."
        )
    for stage in todo:
        if stage in ("train", "continue") and stage in state.stages:
            raise ValueError(
                f"The stage {stage} is done, and a training that has ended is not taken up "
                "again. Give another --output."
            )
        for earlier in known[: known.index(stage)]:
            if earlier not in {*state.stages, *todo, "continue", "autointerp"}:
                raise ValueError(
                    f"The stage {stage} builds on {earlier}, which is not done. Run --stage "
                    f"{earlier} first, or leave --stage out."
                )
    return todo


def _planned(
    run: Run, together: int | None, groups: list[list[str]] | None, console: Console
) -> list[list[str]]:
    """
    Which SAEs are trained in one pass; shows what the run takes.

    Raises:
        ValueError: if something is missing, or a training that has begun no longer fits.
    """
    recipe = run.recipe
    free = free_memory_gb(run.device)
    _check_to_be_had(run)
    machine = Machine(
        device=run.device,
        free_gb=free,
        rate=measured_rate(recipe, run.device),
        reading=run.measured_reading(),
        lm_weights=sum(p.numel() for p in run.model.parameters()),
        lm_bytes=next(run.model.parameters()).element_size(),
    )
    fitting = in_groups(recipe, machine, together)
    has_begun = any(run.checkpoints.glob("*/*"))
    if groups is None or not has_begun:
        groups = fitting
    needs = estimate(recipe, groups, machine)
    console.print(needs_table(recipe, needs, groups, machine))
    if len(groups[0]) > len(fitting[0]):
        raise ValueError(
            f"Training has begun with {len(groups[0])} SAEs in one pass, of which {run.device} "
            f"holds {len(fitting[0])} now. Free memory, or delete {run.checkpoints}."
        )
    check_needs(needs, run.folder)
    return groups


def _check_to_be_had(run: Run) -> None:
    """Loads the model, whose size the needs depend on, and a document of the text."""
    try:
        _ = run.model
        load_text(run.recipe.dataset, 1)
    except (OSError, DatasetsError) as error:
        hint = ""
        if run.recipe.rehearsal and not run.is_rehearsal:
            hint = " --rehearse runs the recipe without them."
        raise ValueError(
            f"The model {run.recipe.model!r} or the text {run.recipe.dataset!r} cannot be had: "
            f"{error}.{hint}"
        ) from error


def _taken(start: float, device: str) -> Figures:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    taken: Figures = {
        "seconds": round(time.perf_counter() - start, 1),
        "peak_memory_gb_so_far": round(peak / 1e9, 2),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if torch.device(device).type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 1e9
        taken["peak_gpu_memory_gb"] = round(peak, 2)
    return taken
