"""Recipes: everything that a release is made with, one YAML file for each."""

from difflib import get_close_matches
from importlib.resources import files
from math import ceil
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from sae_lens import MultiSAETrainingRunnerConfig

from sae_lens_meta import yaml_numbers
from sae_lens_meta.autointerp.config import AutointerpConfig
from sae_lens_meta.comparison.config import Settings
from sae_lens_meta.comparison.members import JOINT, SOLO
from sae_lens_meta.formats import check_format
from sae_lens_meta.reproduce.trained_on import together
from sae_lens_meta.training.joint import MetaTrainingSAEConfig

FORMAT = 1
# of MultiSAETrainingRunnerConfig: what changes how tokens are read would have to be known to
# everything that measures, and what is written where is the recipe's own
RUNNER_FIELDS = {
    "training_tokens",
    "train_batch_size_tokens",
    "context_size",
    "store_batch_size_prompts",
    "n_batches_in_buffer",
    "lr",
    "lr_scheduler_name",
    "lr_warm_up_steps",
    "lr_decay_steps",
    "lr_end",
    "adam_beta1",
    "adam_beta2",
    "dead_feature_window",
    "feature_sampling_window",
    "n_checkpoints",
    "autocast",
    "autocast_lm",
    "model_from_pretrained_kwargs",
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class HeldOut(_Strict):
    """
    Documents kept from training: the first ones of the text, then the next.

    Attributes:
        compare: documents that the final figures are taken on.
        select: documents that thresholds and the solo at equal L2 are taken on.
    """

    compare: int = Field(gt=0)
    select: int = Field(gt=0)


class OnTheCard(_Strict):
    """
    What the SAEs' own metadata does not say.

    Attributes:
        base_model: the language model's name on the Hub.
        licence: of the weights, as the Hub names licences.
    """

    base_model: str
    licence: str


class Rehearsal(_Strict):
    """
    What stands in for what cannot be had, and how little of it is taken.

    Attributes:
        architecture: fields of TransformerLens's `HookedTransformerConfig` of the true model.
        n_layers: layers that are built, where not all of them are.
        hook: to train on, where the recipe's is in a layer that is not built.
        dtype: of the language model's weights.
        batch: tokens of a training step.
        cycles: of primary and meta steps.
        tokens: to calibrate and to compare on.
        compare: fields of `Settings`, in the place of the recipe's.
    """

    architecture: dict[str, Any]
    n_layers: int | None = None
    hook: str | None = None
    dtype: str = "float32"
    batch: int
    cycles: int = 3
    tokens: int = 8192
    compare: dict[str, Any] = {}


class Recipe(_Strict):
    """
    A recipe.

    Attributes:
        format: of the file; 1.
        release: name of the release.
        model: that SAELens loads, or `smollm2`.
        model_class: HookedTransformer or AutoModelForCausalLM.
        hook: whose activations are trained on.
        dataset: as `load_text` takes it.
        text_seed: of the order of the documents of a file.
        held_out: documents kept from training.
        seeds: of the initial weights and of the order of activations; a joint and a solo SAE for
            each.
        sae: fields of `MetaTrainingSAEConfig`, of the joint SAEs.
        runner: fields of SAELens's `MultiSAETrainingRunnerConfig`, those in RUNNER_FIELDS.
        cache_activations: write them to disk before training, to be read by every training.
        continue_tokens: tokens that a second training goes on for, if there is one.
        matrices: what the exported encoder and decoder are stored in.
        calibrate_tokens: to take thresholds on.
        compare_tokens: to compare on.
        compare: fields of `comparison.config.Settings`, such as `ce_tokens`.
        autointerp: fields of `AutointerpConfig`, such as the latents to ask a judge about.
        publish: what stands on the card.
        rehearsal: how to rehearse it without its model.
    """

    format: int = FORMAT
    release: str
    model: str
    model_class: str = "HookedTransformer"
    hook: str
    dataset: str
    text_seed: int = 42
    held_out: HeldOut
    seeds: list[int] = Field(min_length=1)
    sae: dict[str, Any]
    runner: dict[str, Any]
    cache_activations: bool = False
    continue_tokens: int | None = Field(default=None, gt=0)
    matrices: Literal["float32", "bfloat16"] = "float32"
    calibrate_tokens: int = Field(gt=0)
    compare_tokens: int = Field(gt=0)
    compare: dict[str, Any] = {}
    autointerp: dict[str, Any]
    publish: OnTheCard
    rehearsal: Rehearsal | None = None

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        check_format("it", self.format, FORMAT)
        if unknown := sorted(set(self.runner) - RUNNER_FIELDS):
            raise ValueError(
                f"a recipe's runner has no {unknown[0]!r}; it takes "
                f"{', '.join(sorted(RUNNER_FIELDS))}"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"a seed stands twice in {self.seeds}")
        cfg, _ = self.training, (self.comparing, self.interpreting)
        batch = cfg.train_batch_size_tokens
        self.joint.check_annealing(cfg.training_tokens // batch)
        if self.joint.normalize_activations == "expected_average_only_in":
            raise ValueError(
                "normalize_activations 'expected_average_only_in' folds its factor into the final "
                "weights, which could not be continued; take layer_norm or none"
            )
        buffer = cfg.n_batches_in_buffer * cfg.context_size
        if not self.cache_activations and buffer < batch:
            raise ValueError(
                f"SAELens's buffer of n_batches_in_buffer * context_size = {buffer} tokens is "
                f"smaller than a batch of {batch}; raise n_batches_in_buffer"
            )
        if self.calibrate_tokens < batch:
            raise ValueError(
                f"calibrate_tokens {self.calibrate_tokens} is less than a batch of {batch}"
            )
        if self.continue_tokens and cfg.lr_decay_steps:
            raise ValueError(
                "a rate that has decayed (lr_decay_steps) would stay at 0 while continue_tokens "
                "are trained on"
            )
        return self

    def saes(self) -> dict[str, MetaTrainingSAEConfig]:
        """The SAEs to train, by name: for each seed a joint one, then a solo one."""
        settings: dict[str, dict[str, Any]] = {
            JOINT: self.sae,
            SOLO: self.sae | {"decomposability_coefficient": 0.0},
        }
        return {
            f"{kind}_{seed}": MetaTrainingSAEConfig(**settings[kind], init_seed=seed)
            for seed in self.seeds
            for kind in settings
        }

    @property
    def joint(self) -> MetaTrainingSAEConfig:
        """The config of the first joint SAE: all are of its shape."""
        return self.saes()[f"{JOINT}_{self.seeds[0]}"]

    @property
    def training(self) -> MultiSAETrainingRunnerConfig:
        """SAELens's config for training all SAEs in one pass."""
        return self.runner_config(self.saes())

    @property
    def comparing(self) -> Settings:
        """How the SAEs are compared, without their paths."""
        return Settings(**self.compare)

    @property
    def interpreting(self) -> AutointerpConfig:
        """How a judge is asked, without a folder."""
        return AutointerpConfig(**self.autointerp)

    @property
    def n_tokens(self) -> int:
        """Tokens of the whole training in whole batches, a continuation included."""
        n_tokens = self.training.training_tokens + (self.continue_tokens or 0)
        batch = self.training.train_batch_size_tokens
        return ceil(n_tokens / batch) * batch

    def runner_config(
        self, saes: dict[str, MetaTrainingSAEConfig]
    ) -> MultiSAETrainingRunnerConfig:
        """SAELens's config for training `saes` in one pass."""
        return together(
            saes,
            hook_names=self.hook,
            model_name=self.model,
            model_class_name=self.model_class,
            dataset_path=self.dataset,
            **self.runner,
        )


def recipes_folder() -> Path:
    """Where the package's own recipes are."""
    return Path(str(files("sae_lens_meta.reproduce") / "recipes"))


def load_recipe(name: str) -> Recipe:
    """
    Reads a recipe.

    Args:
        name: of a release that has one in the package, or the path of a file.

    Raises:
        ValueError: if there is none of that name, or the file is not a recipe.
    """
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_path else recipes_folder() / f"{name}.yaml"
    if not path.is_file():
        names = sorted(known.stem for known in recipes_folder().glob("*.yaml"))
        near = get_close_matches(name, names, n=3, cutoff=0.4) or names
        raise ValueError(f"There is no recipe {name!r}. There are: {', '.join(near)}.")
    try:
        return Recipe.model_validate(
            yaml_numbers.load(path.read_text(encoding="utf-8"))
        )
    except (yaml.YAMLError, ValidationError, TypeError) as error:
        raise ValueError(f"{path} is not a recipe: {error}") from error
