"""The stages of a recipe, each going on where an earlier call of it was killed."""

import functools
import json
import shutil
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from sae_lens import SAE, TrainingSAE
from sae_lens.constants import SAE_WEIGHTS_FILENAME
from safetensors.torch import load_file, save_file

from sae_lens_meta.activations.part import Part, parts
from sae_lens_meta.autointerp import autointerp
from sae_lens_meta.autointerp.judge import Judge
from sae_lens_meta.comparison.config import CompareConfig
from sae_lens_meta.comparison.members import EQUAL_L2, JOINT, SOLO
from sae_lens_meta.comparison.run import compare, count_part
from sae_lens_meta.destination import write_whole
from sae_lens_meta.measures.calibration import calibrate
from sae_lens_meta.measures.reconstruction import ReconstructionMeter
from sae_lens_meta.publishing.publish import PublishConfig, prepare, publish
from sae_lens_meta.report import write_report
from sae_lens_meta.report.scores import add_scores
from sae_lens_meta.reproduce.executor import Piece
from sae_lens_meta.reproduce.rehearsal import RehearsalJudge
from sae_lens_meta.reproduce.run import Run
from sae_lens_meta.reproduce.training import (
    TrainingFigures,
    finished_checkpoints,
    train_together,
)
from sae_lens_meta.training.carried import META_FOLDER
from sae_lens_meta.training.joint import MetaTrainingSAE

MATRICES = ("W_enc", "W_dec")
Figures = dict[str, Any]


def cache(run: Run) -> Figures:
    """Writes the activations that every training reads to disk."""
    run.each([fill_piece(part) for part in parts(run.executor.n_parts)])
    # what fills no batch of the last shards depends on the order
    cached = [
        run.cached("train", run.recipe.n_tokens, None, seed)
        for seed in run.recipe.seeds
    ]
    return {"n_tokens": cached[0].n_tokens}


def fill_piece(part: Part) -> Piece:
    """Reads a part of the activations."""
    return Piece(f"cache_{part.id}", _fill, part)


def _fill(run: Run, part: Part) -> None:
    run.fill("train", run.recipe.n_tokens, None, part)


def train(run: Run) -> Figures:
    """Trains the joint and the solo SAEs and exports them."""
    return _train_until(run, run.recipe.training.training_tokens)


def continue_training(run: Run) -> Figures:
    """Trains on from the final checkpoints: weights of both SAEs, both optimizers."""
    return _train_until(run, run.recipe.n_tokens)


def _train_until(run: Run, n_tokens: int) -> Figures:
    names = [", ".join(group) for group in run.groups]
    found = run.each([train_piece(run, i, n_tokens) for i in range(len(names))])
    return dict(zip(names, found, strict=True))


def train_piece(run: Run, place: int, n_tokens: int) -> Piece:
    """Trains the SAEs of `run.groups[place]` up to `n_tokens`, unless that has ended."""
    name = "_".join(("train", *run.groups[place]))
    return Piece(name, train_group, (place, n_tokens), run.training_gb)


def train_group(run: Run, argument: tuple[int, int]) -> Figures:
    """What `train_piece` does, for a place and a number of tokens."""
    place, n_tokens = argument
    marker = ended(run, place, n_tokens)
    if not marker.is_file():
        found = asdict(_train_group(run, place, n_tokens))
        write_whole(marker, json.dumps(found))
    return json.loads(marker.read_text())


def ended(run: Run, place: int, n_tokens: int) -> Path:
    """What is there once the training of a group up to `n_tokens` has ended: its figures."""
    return run.checkpoints / f"{place}_{n_tokens}.json"


def _train_group(run: Run, place: int, n_tokens: int) -> TrainingFigures:
    group = run.groups[place]
    cfg = run.runner_config(group, n_tokens)
    seeds = {run.recipe.saes()[name].init_seed for name in group}
    if len(seeds) > 1:
        raise ValueError(
            f"{' and '.join(group)} were to be trained in one pass by an earlier version of this "
            f"package; each seed now has an order of its own. Delete {run.checkpoints} and "
            f"{run.folder / 'run.json'} to begin again."
        )
    (seed,) = seeds
    try:
        return train_together(
            cfg,
            run.training_store(seed),
            run.checkpoints / str(place),
            run.saes,
            run.metadata(seed),
        )
    except torch.OutOfMemoryError as error:
        fewer = f"Give --together {len(group) - 1}, and delete {run.checkpoints}."
        raise ValueError(
            f"{run.device} is too small for {len(group)} SAEs in one pass. "
            + (fewer if len(group) > 1 else "Take one with more memory.")
        ) from error


def equal_l2(run: Run) -> Figures:
    """
    Exports of each solo training the checkpoint whose L2 is nearest to the joint SAE's.

    Where that is the last one, it is the solo SAE, which is compared already: nothing is
    exported then, since one SAE is one piece of evidence.
    """
    run.each([select_piece()])  # which all of these read
    return dict(
        run.each(
            [Piece(f"{EQUAL_L2}_{s}", _equal_l2, s) for s in run.recipe.seeds],
        )
    )


def select_piece() -> Piece:
    """Reads the activations that thresholds, equal L2 and sweeps are taken on."""
    return Piece("select", _fill_selection, None)


def _fill_selection(run: Run, _: None) -> None:
    next(run.selection())


def _equal_l2(run: Run, seed: int) -> tuple[str, Figures]:
    target = run.saes / f"{EQUAL_L2}_{seed}"
    # all as they were exported, before any is calibrated
    joint = checkpoints_of(run, f"{JOINT}_{seed}")
    wanted = _l2(run, joint[max(joint)])
    solo = checkpoints_of(run, f"{SOLO}_{seed}")
    n_tokens, l2 = _nearest(run, solo, wanted)
    shutil.rmtree(target, ignore_errors=True)  # of an earlier call of this stage
    if n_tokens < max(solo):
        export(solo[n_tokens], target, run.device)
    return target.name, {"joint_l2": wanted, "l2": l2, "n_tokens": n_tokens}


def _nearest(
    run: Run, checkpoints: dict[int, Path], wanted: float
) -> tuple[int, float]:
    """Tokens and L2 of the checkpoint nearest to `wanted`, given that L2 falls with training."""
    l2 = functools.cache(lambda n_tokens: _l2(run, checkpoints[n_tokens]))
    tokens = list(checkpoints)
    place = bisect_left(tokens, -wanted, key=lambda n: -l2(n))
    around = tokens[max(place - 1, 0) : place + 1]
    nearest = min(around, key=lambda n: abs(l2(n) - wanted))
    return nearest, l2(nearest)


def checkpoints_of(run: Run, name: str) -> dict[int, Path]:
    """Those of an SAE, by tokens; of a joint one only the last has weights."""
    (group,) = (i for i, names in enumerate(run.groups) if name in names)
    checkpoints = finished_checkpoints(run.checkpoints / str(group))
    return {n: checkpoints[n] / name for n in sorted(checkpoints)}


def export(checkpoint: Path, target: Path, device: str) -> None:
    """Saves the SAE of a checkpoint as it is used: a plain jumprelu, and its meta SAE beside it."""
    sae = TrainingSAE.load_from_disk(checkpoint, device)
    assert isinstance(sae, MetaTrainingSAE)
    target.mkdir(parents=True, exist_ok=True)
    sae.save_inference_model(target)


def _l2(run: Run, checkpoint: Path) -> float:
    with TemporaryDirectory(dir=run.folder) as folder:
        export(checkpoint, Path(folder), run.device)
        meter = ReconstructionMeter(SAE.load_from_disk(folder, run.device))
    for batch in run.selection():
        meter.update(batch)
    return meter.result().normalized_l2


def calibrate_all(run: Run) -> Figures:
    """Rounds the matrices of every SAE as the recipe says, and takes its thresholds."""
    names = [path.name for path in run.all_paths()]
    run.each([select_piece()])
    found = run.each([Piece(f"calibrate_{name}", _calibrate, name) for name in names])
    return dict(zip(names, found, strict=True))


def _calibrate(run: Run, name: str) -> Figures:
    path = run.saes / name
    store_matrices(path, run.recipe.matrices)
    sae = SAE.load_from_disk(path, run.device)
    figures = asdict(calibrate(sae, run.selection(), text=run.selection_text()))
    with TemporaryDirectory(dir=run.folder) as folder:
        sae.save_model(folder)
        store_matrices(Path(folder), run.recipe.matrices)
        # a process that is killed leaves the file before, or this one
        for file in Path(folder).iterdir():
            file.replace(path / file.name)
    if (path / META_FOLDER).is_dir():
        store_matrices(path / META_FOLDER, run.recipe.matrices)
    return figures


def store_matrices(path: Path, dtype: str) -> None:
    """Stores the encoder and decoder of a saved SAE in `dtype`; all else stays float32."""
    weights = path / SAE_WEIGHTS_FILENAME
    tensors = load_file(weights)
    for name in MATRICES:
        tensors[name] = tensors[name].to(getattr(torch, dtype))
    save_file(tensors, weights)


def compare_all(run: Run) -> Figures:
    """Holds the joint SAEs against the solo ones on text that none has seen."""
    n_parts = run.executor.n_parts
    if n_parts > 1:  # else the comparison counts for itself
        names = [(f"count_{part.id}", part) for part in parts(n_parts)]
        run.each([Piece(name, _count, p, run.comparing_gb) for name, p in names])
    (figures,) = run.each([Piece("compare", _compare, None, run.comparing_gb)])
    return figures


def _count(run: Run, part: Part) -> None:
    count_part(_compare_config(run), run.source_config(), part, run.model)


def _compare(run: Run, _: None) -> Figures:
    cfg = _compare_config(run)
    found = compare(cfg, run.source_config(), run.model, _without_control(run))
    write_report(found, cfg.output / "report.html")
    return {"verdict": found.verdict, "warnings": found.warnings}


def _compare_config(run: Run) -> CompareConfig:
    groups = {
        SOLO: run.paths(SOLO),
        EQUAL_L2: run.controls(),
        JOINT: run.paths(JOINT),
    }
    # the folder is the run's own
    settings = replace(
        run.recipe.comparing, output=run.folder / "comparison", overwrite=True
    )
    return CompareConfig(
        **vars(settings), groups={name: p for name, p in groups.items() if p}
    )


def _without_control(run: Run) -> list[str]:
    """A sentence on each solo SAE that is at equal L2 itself."""
    controls = run.controls()
    return [
        f"{solo.name} is itself, of its training's checkpoints, the nearest to the L2 of "
        f"{joint.name}: there is no {control.name} beside it."
        for solo, joint, control in zip(
            run.paths(SOLO), run.paths(JOINT), run.paths(EQUAL_L2), strict=True
        )
        if control not in controls
    ]


def interpret(run: Run) -> Figures:
    """Lets a judge explain latents of the first joint SAE and of its solo partner."""
    (figures,) = run.each([Piece("autointerp", _interpret, None)])
    return figures


def _interpret(run: Run, _: None) -> Figures:
    paths = {JOINT: run.paths(JOINT)[0], SOLO: run.paths(SOLO)[0]}
    cfg = replace(run.recipe.interpreting, output=run.folder / "autointerp")
    judge = _judge(run)
    found = autointerp(paths, judge, cfg, run.source_config(), run.model)
    add_scores(found, run.folder / "comparison")
    return {"judge": found.judge, "n_latents": len(found.saes[0].latents)}


def _judge(run: Run) -> Judge:
    if run.is_rehearsal:
        return RehearsalJudge()
    assert run.judge_url is not None and run.judge_model is not None
    from sae_lens_meta.autointerp.openai_judge import OpenAIJudge  # an extra

    return OpenAIJudge(run.judge_url, run.judge_model)


def publish_first(run: Run) -> Figures:
    """Publishes the joint SAE of the first seed, or prepares that where no repo is given."""
    recipe, card = run.recipe, run.recipe.publish
    cfg = PublishConfig(
        repo=run.repo or f"sae-lens-meta/{recipe.release}",
        release=recipe.release,
        comparison=run.folder / "comparison",
        output=run.folder / "publish",
        base_model=card.base_model,
        licence=card.licence,
    )
    if run.is_rehearsal:
        cfg.repo = f"{cfg.repo}-rehearsal"
        cfg.release = None
        cfg.base_model = recipe.model
        cfg.training = "a rehearsal: these SAEs are of random weights and worth nothing"
    # the Hub is not asked about a repository that nobody has named
    (publish if run.repo else prepare)(run.paths(JOINT)[0], cfg, Console())
    return {"repo": cfg.repo, "uploaded": run.repo is not None}


STAGES: dict[str, Callable[[Run], Figures]] = {
    "cache": cache,
    "train": train,
    "continue": continue_training,
    "equal_l2": equal_l2,
    "calibrate": calibrate_all,
    "compare": compare_all,
    "autointerp": interpret,
    "publish": publish_first,
}


def stages_of(run: Run) -> list[str]:
    """The stages that the recipe has, in order."""
    left_out = set()
    if not run.recipe.cache_activations:
        left_out.add("cache")
    if run.recipe.continue_tokens is None:
        left_out.add("continue")
    return [name for name in STAGES if name not in left_out]
