"""One command from a recipe to a release, by stages that can be resumed."""

import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import torch
from rich.console import Console

from sae_lens_meta.activations.text import PYDOC
from sae_lens_meta.destination import held
from sae_lens_meta.reproduce.executor import Executor, InThisProcess
from sae_lens_meta.reproduce.needs import peak_memory_gb
from sae_lens_meta.reproduce.pieces import check_piece, run_piece
from sae_lens_meta.reproduce.planning import planned
from sae_lens_meta.reproduce.recipe import Recipe, load_recipe
from sae_lens_meta.reproduce.rehearsal import in_place_of, rehearsed
from sae_lens_meta.reproduce.run import Run
from sae_lens_meta.reproduce.stages import STAGES, Figures, stages_of
from sae_lens_meta.reproduce.state import State, begun, claim_text, claimed
from sae_lens_meta.saved import check_device


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
        together (int | None): SAEs to train in one pass, at most; by default the two of a seed if
            they fit into memory by our estimate. Settled once training has begun.
        device (str): Of the SAEs and the model; by default a GPU where there is one.
        llm_device (str | None): Of the model alone, for instance cuda:1.
        judge_url (str | None): Of autointerp, for instance http://127.0.0.1:8000/v1.
        judge_model (str | None): Its name there.
        repo (str | None): Repository on the Hub to publish to; by default the last stage
            prepares the files and uploads nothing.
        only (str | None): SAE to train by itself, for instance joint_42, while other processes or
            machines train the others into the same folder.
        part (str | None): With --stage cache, the part of the activations to read, for instance 3/8.
        ray (str | None): Address of a Ray cluster, whose machines all see --output: auto, ray://...,
            or local to begin one on this machine. It takes every piece that can be done apart.
    """

    output: Path | None = None
    stage: list[str] = field(default_factory=list)
    rehearse: bool = False
    dataset: str | None = None
    together: int | None = None
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    llm_device: str | None = None
    judge_url: str | None = None
    judge_model: str | None = None
    repo: str | None = None
    only: str | None = None
    part: str | None = None
    ray: str | None = None


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
            recipe or is being written by another run, the model or the text cannot be had, a stage comes before one it builds
            on, a training that has ended is asked for, there is no judge, or disk or memory
            are too small.
        OSError: if nothing can be written to the folder.
        Interrupted: if a signal stopped a training.
        JudgeError, LimitReached: as `autointerp`.
        PublishError: as `publish`.
    """
    recipe = load_recipe(name)
    run = asked(recipe, cfg)
    if run.is_rehearsal:
        console.print(in_place_of(run.recipe, recipe))
    known = known_stages(run, cfg)
    if cfg.only is not None or cfg.part is not None:
        if cfg.ray is not None:
            raise ValueError("--ray places all pieces. Leave out --only and --part.")
        return _run_piece(run, cfg, console)
    with held(run.folder):
        run.executor = executor_of(cfg)
        return _run_stages(run, cfg, known, console)


def known_stages(run: Run, cfg: ReproduceConfig) -> list[str]:
    """
    The stages that the recipe has, in order.

    Raises:
        ValueError: if another one is asked for.
    """
    known = stages_of(run)
    if unknown := [stage for stage in cfg.stage if stage not in known]:
        raise ValueError(
            f"The recipe of {run.recipe.release!r} has no stage {unknown[0]!r}. It has: "
            f"{', '.join(known)}."
        )
    return known


def _run_piece(run: Run, cfg: ReproduceConfig, console: Console) -> dict[str, Figures]:
    stage = check_piece(run, cfg.stage, cfg.only, cfg.part)
    with begun(run) as state:
        is_new = "groups" not in state.plan
        if is_new:
            state.plan["groups"] = planned(run, 1, None, {stage}, console)
        claim_text(run, state)
        if is_new:  # later on, others write what is done
            state.save()
    run.groups = state.plan["groups"]
    return {stage: run_piece(run, stage, cfg.only, cfg.part, console)}


def _run_stages(
    run: Run, cfg: ReproduceConfig, known: list[str], console: Console
) -> dict[str, Figures]:
    state = claimed(run.folder, run.recipe, cfg.rehearse)
    todo = _todo(run, cfg, known, state, console)
    if set(todo) - {"publish"}:
        groups = state.plan.get("groups")
        together = cfg.together or (1 if run.executor.n_parts > 1 else None)
        state.plan["groups"] = planned(run, together, groups, set(todo), console)
        claim_text(run, state)
        state.save()
    run.groups = state.plan.get("groups", [])
    for stage in todo:
        console.rule(stage)
        for outdated in known[known.index(stage) :]:
            state.stages.pop(outdated, None)
        state.save()  # were this killed, what it has changed would not count as done
        start = time.perf_counter()
        if torch.device(cfg.device).type == "cuda" and torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats(cfg.device)
        figures = STAGES[stage](run)
        state.stages[stage] = figures | _taken(start, cfg.device)
        state.save()
    console.print(f"Done: {', '.join(state.stages)}. Everything is in {run.folder}.")
    return state.stages


def executor_of(cfg: ReproduceConfig) -> Executor:
    """
    What does the pieces.

    Raises:
        MissingExtra: if Ray is asked for and not installed.
        ConnectionError, ValueError: as `OnRay`.
    """
    if cfg.ray is None:
        return InThisProcess()
    from sae_lens_meta.reproduce.on_ray import OnRay  # an extra

    return OnRay(cfg.ray, cfg.device)


def asked(recipe: Recipe, cfg: ReproduceConfig) -> Run:
    """
    The run of a recipe that is asked for.

    Raises:
        ValueError: if options exclude each other, `--together` is none, or this machine lacks a
            device.
    """
    if cfg.rehearse and cfg.repo:
        raise ValueError("A rehearsal is never published. Leave out --repo.")
    if cfg.rehearse:
        recipe = rehearsed(recipe, cfg.dataset or PYDOC)
    elif cfg.dataset:
        recipe = recipe.model_copy(update={"dataset": cfg.dataset})
    if cfg.together is not None and cfg.together < 1:
        raise ValueError(f"--together takes 1 or more SAEs; got {cfg.together}.")
    for device in filter(None, (cfg.device, cfg.llm_device)):
        check_device(device)
    kind = "rehearsals" if cfg.rehearse else "runs"
    return Run(
        recipe,
        cfg.output or Path(kind) / recipe.release,
        cfg.device,
        cfg.rehearse,
        judge_url=cfg.judge_url,
        judge_model=cfg.judge_model,
        repo=cfg.repo,
        llm_device=cfg.llm_device,
    )


def _todo(
    run: Run, cfg: ReproduceConfig, known: list[str], state: State, console: Console
) -> list[str]:
    """
    The stages to run.

    Raises:
        ValueError: if one is not to be run now.
    """
    done = dict(state.stages)
    published = done.get("publish", {})
    went_to = published.get("repo") if published.get("uploaded") else None
    if run.repo and run.repo != went_to:
        done.pop("publish", None)  # it was prepared only, or went elsewhere
    if not (run.is_rehearsal or (run.judge_url and run.judge_model)):
        if "autointerp" in cfg.stage:
            raise ValueError(
                "The stage autointerp asks a judge: give --judge_url and --judge_model, for "
                "instance of a vLLM server."
            )
        if not cfg.stage and "autointerp" not in done:
            console.print(
                "autointerp is left out: it takes --judge_url and --judge_model."
            )
        known = [stage for stage in known if stage != "autointerp"]
    undone = [known.index(stage) for stage in known if stage not in done]
    if cfg.stage:
        todo = [stage for stage in known if stage in cfg.stage]
    else:
        todo = known[min(undone) :] if undone else []
    _check_order(todo, known, state)
    return todo


def _check_order(todo: list[str], known: list[str], state: State) -> None:
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


def _taken(start: float, device: str) -> Figures:
    taken: Figures = {
        "seconds": round(time.perf_counter() - start, 1),
        "peak_memory_gb_so_far": round(peak_memory_gb(), 2),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if torch.device(device).type == "cuda" and torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated(device) / 1e9
        taken["peak_gpu_memory_gb"] = round(peak, 2)
    return taken
