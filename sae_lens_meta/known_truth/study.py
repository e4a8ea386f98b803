"""A study: every objective in every cell, one line of results for each, gone on with where stopped."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from math import ceil, inf
from multiprocessing import get_context
from pathlib import Path

import numba
import psutil
import torch
from tqdm.auto import tqdm

from sae_lens_meta.destination import held
from sae_lens_meta.known_truth.data import (
    KINDS,
    SAMPLES_FOR_SCALE,
    KnownTruth,
    samples_at_once,
)
from sae_lens_meta.known_truth.figures import Premise, premise
from sae_lens_meta.known_truth.objective import Objective, parse_objective
from sae_lens_meta.known_truth.training import Cell, Failed, Trained, train
from sae_lens_meta.saved import check_device

RESULTS = "results.jsonl"
SOLO = "solo"
DEFAULT_SAES = (
    "solo={architecture: meta, decomposability_coefficient: 0, normalize_activations: none}",
    "joint={architecture: meta, meta_k: 4, normalize_activations: none}",
)
Work = tuple[Cell, list[Objective], str, str]
# At the peak of each: counts, phi and |phi| of all pairs of latents, or of features, while the other's
# counts are held; features of samples while they are drawn.
BYTES_A_PAIR, BYTES_A_FEATURE = 36, 28


@dataclass
class StudyConfig:
    """
    SAEs trained where the true features are known, and held against a baseline of each seed.

    For instance: sae-lens-meta groundtruth --data hierarchy_2 --seeds 0 1 2

    Args:
        sae (tuple): SAEs to train, each NAME={architecture: ..., SETTING: VALUE, ...}: any
            architecture of SAELens or of this package, settings of its config, lr and the other
            settings of the trainer, and `times: 2` for twice the steps.
        baseline (str): Name of the SAE that the others are held against.
        data (tuple): Kinds of data: independent, correlated, hierarchy_1 to hierarchy_3 (trees of
            that depth), exclusive, exclusive_2 and exclusive_3 (whose children exclude each other),
            scaled (children as strong as their parent), synthsaebench_16k.
        dictionary (tuple): Latents, as a multiple of the number of true features.
        k (tuple): Latents that fire on a sample.
        seeds (tuple): Each gives other data, another order and other initial weights.
        steps (int): Training steps.
        batch_size (int): Samples of a step.
        lr (float): Learning rate, where an SAE has none of its own.
        test_samples (int): Samples to measure on, which no training sees.
        processes (int): Trainings at a time, each on one core.
        device (str): Device of the data and the SAEs.
        output (Path): Folder of the results; the same call goes on where it was stopped, and
            SAEs, kinds and seeds can be added to what it holds.
    """

    sae: tuple[str, ...] = DEFAULT_SAES
    baseline: str = SOLO
    data: tuple[str, ...] = ("independent", "correlated", "hierarchy_2", "exclusive")
    dictionary: tuple[float, ...] = (1.0,)
    k: tuple[float, ...] = (4,)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    steps: int = 4000
    batch_size: int = 512
    lr: float = 3e-3
    test_samples: int = 25_000
    processes: int = 1
    device: str = "cpu"
    output: Path = Path("groundtruth_out")


@dataclass
class Study:
    """
    Attributes:
        cfg: of it.
        objectives: in the order given, by name.
        cells: what they are trained in.
        trained: results, by cell and name.
        premises: of the true features, by kind, `d_sae` and seed.
        failed: trainings that could not go on, which the next call tries again.
    """

    cfg: StudyConfig
    objectives: dict[str, Objective]
    cells: list[Cell]
    trained: dict[tuple[Cell, str], Trained] = field(default_factory=dict)
    premises: dict[tuple[str, int, int], Premise] = field(default_factory=dict)
    failed: list[Failed] = field(default_factory=list)


def planned(cfg: StudyConfig) -> Study:
    """
    The study, checked before any work.

    Raises:
        ValueError: if an SAE, a kind of data, a number or the device cannot be used, naming it.
    """
    objectives: dict[str, Objective] = {}
    for text in cfg.sae:
        objective = parse_objective(text)
        if objective.name in objectives:
            raise ValueError(f"Two SAEs are called {objective.name!r}.")
        objectives[objective.name] = objective
    for name in ("sae", "data", "dictionary", "k", "seeds"):
        values = getattr(cfg, name)
        if not values or len(set(values)) < len(values):
            raise ValueError(
                f"--{name} takes one or more values, each once, got {list(values)}."
            )
    if cfg.baseline not in objectives:
        raise ValueError(
            f"There is no SAE {cfg.baseline!r} to hold the others against. Give it by --sae, "
            f"or give --baseline as one of {', '.join(objectives)}."
        )
    for name in ("steps", "batch_size", "test_samples", "processes"):
        if getattr(cfg, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(cfg, name)}.")
    check_device(cfg.device)
    cells = list(_cells(cfg))
    for cell in cells:
        _check_memory(cell, min(cfg.processes, len(cells)), cfg.device)
        d_in = KINDS[cell.kind]["hidden_dim"]
        for objective in objectives.values():
            objective.check(d_in, cell.d_sae, cell.k, cell.steps)
    return Study(cfg, objectives, cells)


def _cells(cfg: StudyConfig) -> Iterator[Cell]:
    for kind, ratio, k, seed in product(cfg.data, cfg.dictionary, cfg.k, cfg.seeds):
        if kind not in KINDS:
            raise ValueError(
                f"There is no kind of data {kind!r}. Give one of {', '.join(KINDS)}."
            )
        if not 0 < k < inf:
            raise ValueError(f"--k must be above 0, got {k:g}.")
        n_latents = ratio * KINDS[kind]["num_features"]
        if not 1.5 < n_latents < inf:
            raise ValueError(
                f"--dictionary {ratio:g} leaves {n_latents:g} latents: give another multiple."
            )
        d_sae = round(n_latents)
        sizes = (cfg.steps, cfg.batch_size, cfg.lr, cfg.test_samples)
        yield Cell(kind, seed, d_sae, k, *sizes)


def _check_memory(cell: Cell, n_processes: int, device: str) -> None:
    n_features = KINDS[cell.kind]["num_features"]
    counts = BYTES_A_PAIR * max(cell.d_sae, n_features) ** 2
    at_once = samples_at_once(n_features, cell.batch_size)
    drawn = max(cell.test_samples, at_once, SAMPLES_FOR_SCALE)
    samples = BYTES_A_FEATURE * n_features * drawn if device == "cpu" else 0
    needed, free = n_processes * (counts + samples), psutil.virtual_memory().available
    if needed > free:
        raise ValueError(
            f"Counting which of {cell.d_sae:,} latents and of {n_features:,} features fire together "
            f"takes {counts / 1e9:.1f} GB, samples take {samples / 1e9:.1f} GB, in {n_processes} processes "
            f"{needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free. Give a smaller --dictionary, "
            "fewer --test_samples, a smaller --batch_size or fewer --processes."
        )


def run_study(cfg: StudyConfig) -> Study:
    """
    Trains what the folder does not hold yet, and returns the whole study.

    Raises:
        ValueError: if something cannot be used, another run is writing to the folder, or no training
            came to its end.
        OSError: if nothing can be written to the folder.
    """
    study = planned(cfg)
    with held(cfg.output):
        _read(study)
        wanted = _missing(study)
        n_saes = sum(len(objectives) for _, objectives, *_ in wanted)
        for trained in tqdm(_results(wanted, cfg.processes), "SAEs", n_saes):
            if isinstance(trained, Failed):
                study.failed.append(trained)
                continue
            with (cfg.output / RESULTS).open("a") as file:
                file.write(json.dumps(trained.to_dict()) + "\n")
            study.trained[trained.cell, trained.objective.name] = trained
    if study.failed and not study.trained:
        raise ValueError(f"No training came to its end. {study.failed[0].why}")
    kinds = {(cell.kind, cell.d_sae, cell.seed) for cell in study.cells}
    for kind, d_sae, seed in tqdm(sorted(kinds), "True features"):
        truth = KnownTruth(kind, seed, cfg.device)
        test = truth.test_samples(cfg.test_samples)
        study.premises[kind, d_sae, seed] = premise(truth, test, d_sae)
    return study


def _read(study: Study) -> None:
    """Takes from the folder what this study asks for, settings and all."""
    path = study.cfg.output / RESULTS
    lines = path.read_text().splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            trained = Trained.from_dict(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"Line {number} of {path} is no result ({error}): a run was cut off there, or it was "
                "changed. Remove that line; its training is done again."
            ) from error
        name = trained.objective.name
        # an SAE that was no baseline then was not measured on the way, which a baseline is
        is_whole = name != study.cfg.baseline or len(trained.path) > 1
        if study.objectives.get(name) == trained.objective and is_whole:
            study.trained[trained.cell, name] = trained


def _missing(study: Study) -> list[Work]:
    """
    Cells with what is still to be trained in them.

    Where there are more processes than cells, several share a cell: each trains some of its
    objectives, on the same batches.
    """
    cfg, wanted = study.cfg, []
    for cell in study.cells:
        missing = [
            objective
            for name, objective in study.objectives.items()
            if (cell, name) not in study.trained
        ]
        if missing:
            wanted.append((cell, missing))
    n_parts = ceil(cfg.processes / max(len(wanted), 1))
    return [
        (cell, missing[part::n_parts], cfg.baseline, cfg.device)
        for cell, missing in wanted
        for part in range(min(n_parts, len(missing)))
    ]


def _results(wanted: list[Work], processes: int) -> Iterator[Trained | Failed]:
    if processes == 1:
        with _one_core():
            for work in wanted:
                yield from train(*work)
        return
    # threads of several processes wait for each other: one each, for numba too
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    with get_context("spawn").Pool(processes) as pool:
        for trained in pool.imap_unordered(_train, wanted):
            yield from trained


def _train(work: Work) -> list[Trained | Failed]:
    with _one_core():
        return list(train(*work))


@contextmanager
def _one_core() -> Iterator[None]:
    """So small are the products that threads take longer to find each other than to do the work."""
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])
