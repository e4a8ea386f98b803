"""The trainings of a study in one cell, side by side on the same batches, and measured."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.training.sae_trainer import SAETrainer
from tqdm.auto import tqdm

from sae_lens_meta.known_truth.data import KnownTruth, Samples
from sae_lens_meta.known_truth.figures import TruthFigures, truth_figures
from sae_lens_meta.known_truth.objective import Objective

# Shares of the steps at which a baseline is measured, so that it can be held against an SAE that
# reconstructs as badly.
ON_THE_WAY = (0.03, 0.06, 0.12, 0.24, 0.48)


@dataclass(frozen=True)
class Cell:
    """
    What all objectives of a study are trained on alike.

    Attributes:
        kind: of data.
        seed: of the data, their order and the initial weights.
        d_sae: latents.
        k: latents that fire on a sample, where an architecture sets that.
        steps: of a training.
        batch_size: samples of a step.
        lr: learning rate, where an objective has none of its own.
        test_samples: to measure on.
    """

    kind: str
    seed: int
    d_sae: int
    k: float
    steps: int
    batch_size: int
    lr: float
    test_samples: int


@dataclass(frozen=True)
class Trained:
    """
    What a training came to.

    Attributes:
        cell, objective: what was trained.
        path: steps taken and the figures then, the last being the result.
    """

    cell: Cell
    objective: Objective
    path: list[tuple[int, TruthFigures]]

    @property
    def result(self) -> TruthFigures:
        """Figures at its end."""
        return self.path[-1][1]

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a line of results.jsonl."""
        return asdict(self)

    @classmethod
    def from_dict(cls, line: dict[str, Any]) -> "Trained":
        """As `to_dict` wrote it."""
        path = [(steps, TruthFigures(**figures)) for steps, figures in line["path"]]
        return cls(Cell(**line["cell"]), Objective(**line["objective"]), path)


@dataclass(frozen=True)
class Failed:
    """
    A training that could not go on, beside others that could.

    Attributes:
        cell, name: what was trained.
        why: the error.
    """

    cell: Cell
    name: str
    why: str


def train(
    cell: Cell, objectives: list[Objective], baseline: str, device: str
) -> Iterator[Trained | Failed]:
    """
    Trains all `objectives` in `cell` on the same batches, each with a trainer of SAELens.

    Args:
        baseline: name of the one that is measured before its end too.

    Yields:
        Each as it ends.
    """
    truth = KnownTruth(cell.kind, cell.seed, device)
    test = truth.test_samples(cell.test_samples)
    running = [_Training(cell, o, o.name == baseline, truth) for o in objectives]
    batches = truth.batches(cell.batch_size)
    steps = tqdm(
        desc=f"{cell.kind}, seed {cell.seed}",
        total=max(t.steps for t in running),
        leave=False,
    )
    while running:
        batch = next(batches)
        steps.update()
        for training in list(running):
            try:
                is_last = training.step(batch, test)
            except ValueError as error:
                # its weights have diverged, those of others have not
                running.remove(training)
                yield Failed(cell, training.objective.name, str(error))
                continue
            if is_last:
                running.remove(training)
                yield Trained(cell, training.objective, training.path)
    steps.close()


class _Training:
    """One objective in a cell, with how far it is."""

    def __init__(
        self, cell: Cell, objective: Objective, on_the_way: bool, truth: KnownTruth
    ):
        self.objective, self.truth = objective, truth
        self.path: list[tuple[int, TruthFigures]] = []
        self.steps = objective.steps_of(cell.steps)
        self.marks = {round(s * self.steps) for s in ON_THE_WAY if on_the_way}
        torch.manual_seed(cell.seed)  # SAELens's classes draw their weights from it
        sae = objective.new_sae(truth.d_in, cell.d_sae, cell.k, cell.seed)
        sae.to(truth.directions.device)
        cfg = objective.trainer_config(self.steps, cell.batch_size, cell.lr)
        self.trainer: SAETrainer[Any, Any] = SAETrainer(cfg, sae, iter(()))

    def step(self, batch: torch.Tensor, test: Samples) -> bool:
        """Takes a step, measures where it is time to, and says whether it was the last."""
        trainer = self.trainer
        trainer.step(batch)
        trainer.n_training_steps += 1
        taken = trainer.n_training_steps
        if is_last := taken == self.steps:
            # SAELens's runner does so at the end of a training
            trainer.set_final_sae_metadata()
        if is_last or taken in self.marks:
            sae = exported(trainer.sae)
            figures = truth_figures(sae, self.truth, test, with_premise=is_last)
            self.path.append((taken, figures))
        return is_last


def exported(sae: TrainingSAE[Any]) -> SAE[Any]:
    """The SAE as users of it get it, with its threshold in the place of BatchTopK."""
    with TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        return SAE.load_from_disk(folder, device=str(sae.device))
