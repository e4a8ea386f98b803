"""An SAE of a study: an architecture with its settings, under a name."""

from copy import deepcopy
from dataclasses import dataclass, fields
from math import inf
from typing import Any, get_type_hints

import yaml
from sae_lens import TrainingSAE
from sae_lens.config import SAETrainerConfig
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY, get_sae_training_class

from sae_lens_meta import yaml_numbers
from sae_lens_meta.training.schedules import SchedulesConfig

# settings of the trainer, which an objective may want otherwise
OF_TRAINER = (
    "lr",
    "lr_end",
    "lr_warm_up_steps",
    "lr_decay_steps",
    "adam_beta1",
    "adam_beta2",
)
TIMES = "times"
OF_CELL = {
    "d_in": "--data",
    "d_sae": "--dictionary",
    "k": "--k",
    "init_seed": "--seeds",
}
ADAM_BETA2 = 0.99  # the paper's
DEAD_FEATURE_WINDOW = 50


@dataclass(frozen=True)
class Objective:
    """
    What one SAE of a study is trained with.

    Attributes:
        name: in tables.
        architecture: of SAELens, ours included.
        settings: of its config, but for `d_in`, `d_sae`, `k` and the seed.
        trainer: of SAELens's trainer, such as `lr`.
        times: as many steps as the others, times this.
    """

    name: str
    architecture: str
    settings: dict[str, Any]
    trainer: dict[str, Any]
    times: float

    def new_sae(self, d_in: int, d_sae: int, k: float, seed: int) -> TrainingSAE[Any]:
        """
        The SAE before training, its initial weights by `seed`.

        Raises:
            ValueError: if its class refuses a setting.
        """
        sae_class, config_class = get_sae_training_class(self.architecture)
        known = {field.name for field in fields(config_class)}
        if get_type_hints(config_class).get("k") is int:
            if k != int(k):
                raise ValueError(
                    f"SAE {self.name!r}: {self.architecture} takes a whole k, got {k:g}. Give --k "
                    "without a fraction."
                )
            k = int(k)
        shape = {"d_in": d_in, "d_sae": d_sae, "k": k, "init_seed": seed}
        # SAELens's Matryoshka writes into the list that it is given
        own = deepcopy(self.settings)
        settings = {n: v for n, v in shape.items() if n in known} | own
        try:
            cfg = config_class(**settings)
        except (TypeError, ValueError) as error:
            raise ValueError(f"SAE {self.name!r}: {error}") from error
        return sae_class(cfg)

    def steps_of(self, steps: int) -> int:
        """Its steps, where one of `times` 1 has `steps`."""
        return round(steps * self.times)

    def check(self, d_in: int, d_sae: int, k: float, steps: int) -> None:
        """
        Checks that it can be trained.

        Raises:
            ValueError: if its class refuses a setting, it would have no step, or its schedules take
                longer than its steps.
        """
        n_steps = self.steps_of(steps)
        if n_steps < 1:
            raise ValueError(
                f"SAE {self.name!r}: {TIMES} {self.times:g} leaves it {n_steps} of {steps} steps. "
                "Give more."
            )
        of_rate = ("lr_warm_up_steps", "lr_decay_steps")
        if (taken := sum(self.trainer.get(name, 0) for name in of_rate)) > n_steps:
            raise ValueError(
                f"SAE {self.name!r}: {' and '.join(of_rate)} take {taken:g} steps, and it has "
                f"{n_steps}. Give fewer."
            )
        cfg = self.new_sae(d_in, d_sae, k, 0).cfg
        if isinstance(cfg, SchedulesConfig):
            try:
                cfg.check_annealing(n_steps)
            except ValueError as error:
                raise ValueError(f"SAE {self.name!r}: {error}") from error

    def trainer_config(
        self, steps: int, batch_size: int, lr: float
    ) -> SAETrainerConfig:
        """SAELens's trainer for `steps` of this objective."""
        settings: dict[str, Any] = {"lr": lr, "adam_beta2": ADAM_BETA2} | self.trainer
        return SAETrainerConfig(
            total_training_samples=steps * batch_size,
            train_batch_size_samples=batch_size,
            dead_feature_window=DEAD_FEATURE_WINDOW,
            **({"lr_end": settings["lr"]} | settings),
        )


def parse_objective(text: str) -> Objective:
    """
    An objective from `NAME={architecture: ..., SETTING: ..., ...}`.

    Raises:
        ValueError: if it is not that, or names an architecture or a setting that there is not.
    """
    name, equals, braces = text.partition("=")
    try:
        settings = yaml_numbers.load(braces)
    except yaml.YAMLError:
        settings = None
    if not name or not equals or not isinstance(settings, dict):
        raise ValueError(
            f"--sae takes NAME={{architecture: ..., SETTING: VALUE}}; got {text!r}. For instance "
            "--sae 'joint={architecture: meta, decomposability_coefficient: 0.3}'."
        )
    architecture = settings.pop("architecture", "meta")
    if architecture not in SAE_TRAINING_CLASS_REGISTRY:
        raise ValueError(
            f"SAE {name!r}: there is no architecture {architecture!r}. Give one of "
            f"{', '.join(sorted(SAE_TRAINING_CLASS_REGISTRY))}."
        )
    trainer = {n: settings.pop(n) for n in OF_TRAINER if n in settings}
    times = settings.pop(TIMES, 1)
    for setting, value in {**trainer, TIMES: times}.items():
        _check_number(name, setting, value)
    known = {f.name for f in fields(get_sae_training_class(architecture)[1])}
    for setting in settings:
        if setting in OF_CELL:
            raise ValueError(
                f"SAE {name!r}: {setting} is the same for all SAEs of a study: give "
                f"{OF_CELL[setting]}."
            )
        if setting not in known:
            raise ValueError(
                f"SAE {name!r}: {architecture} has no setting {setting!r}. It has "
                f"{', '.join(sorted(known))}; the trainer has {', '.join(OF_TRAINER)}; and "
                f"{TIMES} trains so many times as long."
            )
    return Objective(name, architecture, settings, trainer, times)


def _check_number(name: str, setting: str, value: Any) -> None:
    """Refuses what `setting` of the SAE `name` cannot be."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    may_be_0 = setting not in ("lr", TIMES)
    if not is_number or not (0 < value < inf or (may_be_0 and value == 0)):
        least = "0 or more" if may_be_0 else "above 0"
        raise ValueError(
            f"SAE {name!r}: {setting} must be a number, {least}, got {value!r}."
        )
