"""One setting with one seed: trained, measured on text that neither training nor final figures read."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sae_lens import SAE

from sae_lens_meta.destination import write_whole
from sae_lens_meta.measures.cooccurrence import CooccurrenceCounter
from sae_lens_meta.measures.meta_structure import meta_explained_variance
from sae_lens_meta.measures.phi_by_rate import PhiByRate, phi_by_rate
from sae_lens_meta.measures.reconstruction import ReconstructionMeter
from sae_lens_meta.reproduce.executor import Piece
from sae_lens_meta.reproduce.run import Run
from sae_lens_meta.reproduce.training import train_together
from sae_lens_meta.sweep.grid import Setting


@dataclass(frozen=True)
class Trial:
    """
    A setting with a seed.

    Attributes:
        setting: of the SAE.
        seed: of its initial weights and of the order of its activations.
        n_tokens: that it is trained on.
        min_fired: tokens that a latent must fire on for its pairs to count.
        meta_steps: Adam steps of the fresh meta SAE that its decoder is held against.
    """

    setting: Setting
    seed: int
    n_tokens: int
    min_fired: int
    meta_steps: int

    @property
    def name(self) -> str:
        """Of its folder and its results."""
        return f"{self.setting}_{self.seed}".replace("/", "_").replace(" ", "_")


@dataclass
class Measured:
    """
    What came of a trial.

    Attributes:
        l2: of normalised activations.
        l0: latents that fire on a token.
        n_silent: latents that never fire.
        n_alive: latents that fire often enough for their pairs to count.
        phi: corrected mean |phi| of their pairs.
        meta_explained: share of the decoder rows' variance that a fresh meta SAE explains.
        total, pairs: of `PhiByRate`, `[64, 64]`.
    """

    l2: float
    l0: float
    n_silent: int
    n_alive: int
    phi: float
    meta_explained: float
    total: list[list[float]]
    pairs: list[list[float]]

    @property
    def by_rate(self) -> PhiByRate:
        """Its |phi| by the firing rates of pairs."""
        return PhiByRate(np.array(self.total), np.array(self.pairs))


def trial_piece(run: Run, trial: Trial) -> Piece:
    """Trains a trial and keeps what came of it."""
    return Piece(f"trial_{trial.name}", _perform, trial, run.training_gb)


def results_path(run: Run, trial: Trial) -> Path:
    """The file that keeps what came of a trial."""
    return run.folder / "results" / f"{trial.name}.json"


def read(run: Run, trial: Trial) -> Measured | None:
    """What came of a trial, if it is done."""
    path = results_path(run, trial)
    return Measured(**json.loads(path.read_text())) if path.is_file() else None


def _perform(run: Run, trial: Trial) -> None:
    path = results_path(run, trial)
    if not path.is_file():
        found = _measure(run, trial, _trained(run, trial))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(found)))


def _trained(run: Run, trial: Trial) -> Path:
    recipe = trial.setting.recipe(run.recipe, trial.seed, trial.n_tokens)
    name = trial.setting.sae_name(trial.seed)
    of_one = Run(recipe, run.folder, run.device)
    folder = run.folder / "trials" / trial.name
    train_together(
        of_one.runner_config([name], trial.n_tokens),
        run.cached("train", run.recipe.n_tokens, None, trial.seed),
        folder / "checkpoints",
        folder,
        of_one.metadata(trial.seed),
    )
    return folder / name


def _measure(run: Run, trial: Trial, path: Path) -> Measured:
    sae: Any = SAE.load_from_disk(path, run.device)
    meter, counter = ReconstructionMeter(sae), CooccurrenceCounter(sae.cfg.d_sae)
    for batch in run.selection():
        counter.update(meter.update(batch))
    alive = meter.fired >= trial.min_fired
    if alive.sum() < 2:
        raise ValueError(
            f"Of {path} fewer than two latents fire on {trial.min_fired} of {meter.n_tokens:,} "
            "tokens: there is no pair to measure."
        )
    by_rate, result = phi_by_rate(counter, alive), meter.result()
    joint = run.recipe.joint
    return Measured(
        l2=result.normalized_l2,
        l0=result.l0,
        n_silent=result.n_silent,
        n_alive=int(alive.sum()),
        phi=by_rate.mean,
        meta_explained=meta_explained_variance(
            sae.W_dec.detach(), joint.meta_width, int(joint.meta_k), trial.meta_steps
        ),
        total=by_rate.total.tolist(),
        pairs=by_rate.pairs.tolist(),
    )
