"""Trains the SAEs of a recipe, as many in one pass as it is told, and exports them."""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any, Protocol

import torch
from sae_lens import MultiSAETrainingRunnerConfig
from sae_lens.constants import (
    ACTIVATIONS_STORE_STATE_FILENAME,
    RUNNER_CFG_FILENAME,
    TRAINER_STATE_FILENAME,
)
from sae_lens.training.multi_sae_trainer import MultiSAETrainer
from tqdm.auto import tqdm
from typing_extensions import override

from sae_lens_meta.interruption import Interrupted, StopSignals
from sae_lens_meta.training.joint import MetaTrainingSAE, MetaTrainingSAEConfig
from sae_lens_meta.training.resume import ACTIVATIONS
from sae_lens_meta.underway import advance

FINAL = "final_"  # SAELens's name of the checkpoint that ends a training
Batches = Iterator[dict[str, torch.Tensor]]


class Store(Protocol):
    """Where activations come from: SAELens's ActivationsStore, or `CachedActivations`."""

    def get_multi_hook_data_loader(self) -> Batches: ...
    def save_to_checkpoint(self, checkpoint_path: Path) -> None: ...
    def load_from_checkpoint(self, checkpoint_path: Path) -> None: ...


@dataclass
class TrainingFigures:
    """
    What a training took.

    Attributes:
        n_steps: taken by this call; an earlier one that was killed may have taken others.
        seconds_per_step: median over those steps, all SAEs together, without reading activations.
        mean_seconds_per_step: of all of them, thus with meta phases and first calls.
        reading_seconds_per_step: mean of reading activations, which come many batches at a time.
        moved: relative change of each joint SAE's meta decoder since its beginning.
    """

    n_steps: int
    seconds_per_step: float
    mean_seconds_per_step: float
    reading_seconds_per_step: float
    moved: dict[str, float]


def train_together(
    cfg: MultiSAETrainingRunnerConfig,
    store: Store,
    checkpoints: Path,
    output: Path,
    metadata: dict[str, Any],
) -> TrainingFigures:
    """
    Trains `cfg.saes` on the same activations and exports each to a folder of its name.

    Goes on from the newest checkpoint, if there is one; one that ended a shorter training is
    a warm start, with the weights of both SAEs and both optimizers. SIGINT and SIGTERM write a
    checkpoint after the step that is being taken.

    Args:
        cfg: of SAELens's runner for several SAEs, without its paths.
        store: activations from the start of the text.
        checkpoints: folder that receives them. The newest can be gone on from; of older
            ones the solo SAEs' weights are kept.
        output: folder that receives the exported SAEs.
        metadata: of the SAEs, besides what SAELens's runner records.

    Raises:
        ValueError: if the activations end before the training does.
        Interrupted: if a signal stopped it; the same call goes on.
    """
    saes = {
        name: MetaTrainingSAE(_sae_config(cfg, name, metadata)) for name in cfg.saes
    }
    starts = {
        name: _meta_decoder(sae)
        for name, sae in saes.items()
        if sae.meta_sae is not None
    }
    timer = _Timer(store.get_multi_hook_data_loader())
    signals = StopSignals()

    def keep(checkpoint_path: Path | None) -> None:
        assert checkpoint_path is not None
        with open(checkpoint_path / RUNNER_CFG_FILENAME, "w") as file:
            json.dump(cfg.to_dict(), file)
        # last: a checkpoint without it was not finished
        store.save_to_checkpoint(checkpoint_path)
        _prune(checkpoints)

    trainer = _Trainer(
        replace(
            cfg.to_sae_trainer_config(),
            checkpoint_path=str(checkpoints),
            save_final_checkpoint=True,
        ),
        dict[str, Any](saes),
        cfg.hook_names_per_sae,
        _until_stopped(iter(timer), signals),
        save_checkpoint_fn=keep,
    )
    if newest := newest_checkpoint(checkpoints):
        trainer.load_checkpoint(newest)
        store.load_from_checkpoint(newest)
        # SAELens would write one after another those that lie behind it
        seen = trainer.n_training_samples
        ahead = [n for n in trainer.checkpoint_thresholds if n > seen]
        trainer.checkpoint_thresholds = ahead
    with signals:
        _fit_or_keep(trainer, signals, checkpoints)
    for name, sae in saes.items():
        (output / name).mkdir(parents=True, exist_ok=True)
        sae.save_inference_model(output / name)
        with open(output / name / RUNNER_CFG_FILENAME, "w") as file:
            json.dump(cfg.to_dict(), file)
    return timer.figures(
        {
            name: float((_meta_decoder(saes[name]) - start).norm() / start.norm())
            for name, start in starts.items()
        }
    )


class _Trainer(MultiSAETrainer):
    """SAELens's trainer, whose bar moves with every step, from where an earlier call stopped."""

    @override
    def _update_pbar(
        self, step_outputs: Any, pbar: tqdm, update_interval: int = 1
    ) -> None:
        del step_outputs, update_interval  # SAELens shows losses every 100 steps
        done = min(self.n_training_samples, pbar.total)
        if pbar.n == 0:  # tokens of an earlier call say nothing of the speed
            pbar.unit = "tok"
            before = max(0, done - self.cfg.train_batch_size_samples)
            pbar.initial = pbar.n = pbar.last_print_n = before
        pbar.update(done - pbar.n)
        advance(done, pbar.total, "tokens trained on")


def _fit_or_keep(
    trainer: MultiSAETrainer, signals: StopSignals, checkpoints: Path
) -> None:
    try:
        trainer.fit()
        signals.check()
    except Interrupted as error:
        n_tokens = trainer.n_training_samples
        if n_tokens not in finished_checkpoints(checkpoints):
            trainer.save_checkpoint(str(n_tokens))
        raise Interrupted(
            f"Stopped by {error} after {n_tokens:,} tokens, which {checkpoints} keeps: the "
            "same call goes on from there."
        ) from error


def _until_stopped(batches: Batches, signals: StopSignals) -> Batches:
    while True:
        # here all SAEs have taken the step before; a batch that is read already would be lost
        signals.check()
        try:
            yield next(batches)
        except StopIteration:
            return


def newest_checkpoint(folder: Path) -> Path | None:
    """The finished checkpoint with the most tokens, or None."""
    found = finished_checkpoints(folder)
    return found[max(found)] if found else None


def finished_checkpoints(folder: Path) -> dict[int, Path]:
    """Checkpoints of a training by tokens, without one that was being written when it died."""
    return {
        int(path.parent.name.removeprefix(FINAL)): path.parent
        for path in folder.glob(f"*/{ACTIVATIONS_STORE_STATE_FILENAME}")
    }


def _prune(folder: Path) -> None:
    """Leaves of all checkpoints but the newest what equal L2 needs: solo SAEs' weights."""
    found = finished_checkpoints(folder)
    for n_tokens, path in found.items():
        if n_tokens == max(found):
            continue
        for sae in filter(Path.is_dir, path.iterdir()):
            if not sae.name.startswith("solo"):
                shutil.rmtree(sae)
            (sae / TRAINER_STATE_FILENAME).unlink(missing_ok=True)


def _sae_config(
    cfg: MultiSAETrainingRunnerConfig, name: str, metadata: dict[str, Any]
) -> MetaTrainingSAEConfig:
    """The SAE's config with the metadata that SAELens's runner would give it."""
    sae_cfg: Any = cfg.saes[name]
    for key in ("dataset_path", *ACTIVATIONS):
        if hasattr(cfg, key):  # a hook is each SAE's own
            setattr(sae_cfg.metadata, key, getattr(cfg, key))
    sae_cfg.metadata.hook_name = cfg.hook_names_per_sae[name]
    for key, value in metadata.items():
        setattr(sae_cfg.metadata, key, value)
    return sae_cfg


def _meta_decoder(sae: MetaTrainingSAE) -> torch.Tensor:
    assert sae.meta_sae is not None
    return sae.meta_sae.W_dec.detach().clone()


class _Timer:
    """Passes batches on, and keeps the time between and during reading them."""

    def __init__(self, batches: Batches):
        self.batches = batches
        self.reading: list[float] = []
        self.steps: list[float] = []

    def __iter__(self) -> Batches:
        start = time.perf_counter()
        for batch in self.batches:
            begun = time.perf_counter()
            self.reading.append(begun - start)
            yield batch
            start = time.perf_counter()
            self.steps.append(start - begun)

    def figures(self, moved: dict[str, float]) -> TrainingFigures:
        steps = self.steps or [0.0]
        return TrainingFigures(
            n_steps=len(self.reading),
            seconds_per_step=median(steps),
            mean_seconds_per_step=mean(steps),
            reading_seconds_per_step=mean(self.reading or [0.0]),
            moved=moved,
        )
