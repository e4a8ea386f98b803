"""What a checkpoint and the run that resumes it must have in common, and what may differ."""

import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sae_lens import TrainingSAE
from sae_lens.config import LanguageModelSAERunnerConfig
from sae_lens.constants import (
    ACTIVATION_SCALER_CFG_FILENAME,
    ACTIVATIONS_STORE_STATE_FILENAME,
    RUNNER_CFG_FILENAME,
    SAE_CFG_FILENAME,
    SAE_WEIGHTS_FILENAME,
    TRAINER_STATE_FILENAME,
)
from safetensors import SafetensorError, safe_open

from sae_lens_meta.training.config import FOLDED_NORMALIZATIONS

Settings = dict[str, Any]

MODEL = (
    "d_in",
    "d_sae",
    "k",
    "meta_d_sae",
    "meta_k",
    "meta_selection",
    "penalty",
    "dtype",
    "normalize_activations",
    "reshape_activations",
    "apply_b_dec_to_input",
    "rescale_acts_by_decoder_norm",
)
# those that SAELens's runners write into an SAE's metadata, under the names of their own fields
ACTIVATIONS = (
    "model_name",
    "model_class_name",
    "model_from_pretrained_kwargs",
    "hook_name",
    "hook_head_index",
    "context_size",
    "seqpos_slice",
    "prepend_bos",
    "exclude_special_tokens",
    "sequence_separator_token",
    "disable_concat_sequences",
)
# those that stand in the runner's config alone
ACTIVATIONS_OF_RUNNER = (
    "dtype",
    "model_kwargs",
    "use_chat_formatting",
    "autocast_lm",
)
# a checkpoint has a state for each part of its schedule, which another schedule cannot take
SCHEDULE = ("lr_scheduler_name", "lr_warm_up_steps", "lr_decay_steps")
# restored with the optimizer, its schedule and the weights, whatever the run asks for
RESTORED = (
    "lr",
    "lr_end",
    "lr_warm_up_steps",
    "lr_decay_steps",
    "n_restart_cycles",
    "adam_beta1",
    "adam_beta2",
    "init_seed",
    "decoder_init_norm",
)
# where a run writes to, and how it speaks
NOT_LISTED = (
    "checkpoint_path",
    "output_path",
    "resume_from_checkpoint",
    "logger",
    "verbose",
)


def check_resume(cfg: LanguageModelSAERunnerConfig[Any]) -> None:
    """
    Checks that `cfg.resume_from_checkpoint`, if given, can be resumed by `cfg`.

    Warns of settings that differ and may, such as a coefficient or the text, all at once.

    Raises:
        FileNotFoundError: if the folder or a file that SAELens writes is missing.
        ValueError: if a file is truncated, if the SAE is of another architecture, shape or
            kind, if it was trained on other activations or another text, as far as both are
            recorded, or if the training had ended and its normalisation is folded into the
            weights.
    """
    if cfg.resume_from_checkpoint is None:
        return
    folder = Path(cfg.resume_from_checkpoint)
    sae = TrainingSAE.from_dict({**cfg.sae.to_dict(), "device": "meta"})
    for name in ACTIVATIONS:
        setattr(sae.cfg.metadata, name, getattr(cfg, name))
    check_weights(folder, sae)
    _check_states(folder)
    _check_text(folder, cfg.sae.metadata["text_sha256"])
    if not zipfile.is_zipfile(folder / TRAINER_STATE_FILENAME):
        raise ValueError(
            f"{folder / TRAINER_STATE_FILENAME} cannot be read: it is missing, truncated or "
            "damaged. Resume from an earlier checkpoint."
        )
    was, now = _runner_settings(folder), _plain(cfg.to_dict())
    _refuse_other(folder, ACTIVATIONS_OF_RUNNER, was, now)
    _check_schedule(folder, was, now)
    _warn_of_others(folder, was, now)


def check_weights(folder: Path, sae: TrainingSAE[Any]) -> None:
    """
    Checks that the weights and config saved in `folder` fit `sae`.

    Raises:
        FileNotFoundError: if the folder or one of the two files is missing.
        ValueError: if the weights are truncated, of another architecture, shape or kind, or
            were trained on other activations than `sae.cfg.metadata` says, as far as it says;
            or if the training had ended and its normalisation is folded into the weights.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no checkpoint folder at {folder}.")
    for name in (SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME):
        _require_file(folder, name)
    saved = _read(folder / SAE_CFG_FILENAME)
    if saved["architecture"] != sae.cfg.architecture():
        raise ValueError(
            f"The checkpoint {folder} is of architecture {saved['architecture']!r}; "
            f"this run trains {sae.cfg.architecture()!r}."
        )
    was, now = _sae_settings(saved), _sae_settings(_plain(sae.cfg.to_dict()))
    _check_not_folded(folder, was, now)
    _refuse_other(folder, (*MODEL, *ACTIVATIONS), was, now)
    _check_shapes(folder, sae)


def _require_file(folder: Path, name: str) -> None:
    if not (folder / name).is_file():
        raise FileNotFoundError(
            f"{folder} is not a checkpoint that can be resumed: it has no {name}. "
            "Give the folder of one checkpoint, for instance checkpoints/<id>/<n_samples>; "
            "a run killed while it was writing one leaves it incomplete."
        )


def _check_states(folder: Path) -> None:
    """What SAELens restores of the activations: their scale, and the place in the text."""
    readers: dict[str, Callable[[Path], Any]] = {
        ACTIVATION_SCALER_CFG_FILENAME: lambda path: json.loads(path.read_text()),
        ACTIVATIONS_STORE_STATE_FILENAME: lambda path: safe_open(path, framework="pt"),
    }
    for name, read in readers.items():
        _require_file(folder, name)
        try:
            read(folder / name)
        except (SafetensorError, ValueError) as error:
            raise ValueError(
                f"{folder / name} cannot be read ({error}): the file is truncated or damaged. "
                "Resume from an earlier checkpoint."
            ) from error


def _check_text(folder: Path, now: str | None) -> None:
    metadata = _read(folder / SAE_CFG_FILENAME).get("metadata") or {}
    was = metadata.get("text_sha256")
    if None not in (was, now) and was != now:
        raise ValueError(
            f"The checkpoint {folder} is of a text with sha256 {was}, this run's has {now}: the "
            "SAE would record one of them alone, and be measured on documents of the other as if "
            "it had not seen them. Give the text as it was, or begin anew."
        )


def _read(path: Path) -> Settings:
    """The config of an SAE."""
    try:
        saved = json.loads(path.read_text())
        return {**saved, "architecture": saved["architecture"]}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not the config of an SAE ({error}): the file is truncated or "
            "damaged. Resume from an earlier checkpoint."
        ) from error


def _plain(settings: Settings) -> Settings:
    """`settings` as they are when they were saved and read: a tuple is a list then."""
    return json.loads(json.dumps(settings))


def _sae_settings(cfg: Settings) -> Settings:
    """The config of a training SAE, with the parts of its metadata that say what it reads."""
    metadata = cfg.get("metadata") or {}
    details = metadata.get("training_architecture_details") or {}
    own = {name: value for name, value in cfg.items() if name != "metadata"}
    read = {name: metadata[name] for name in ACTIVATIONS if name in metadata}
    # a width that follows from d_sae stands there as a number
    width = {name: details[name] for name in ("meta_d_sae",) if name in details}
    return own | width | read


def _runner_settings(folder: Path) -> Settings:
    """Config of the runner that wrote the checkpoint, `sae` being that of this SAE; {} if unknown."""
    # a runner of several SAEs writes its own beside their folders
    for path in (folder / RUNNER_CFG_FILENAME, folder.parent / RUNNER_CFG_FILENAME):
        if path.is_file():
            try:
                cfg = json.loads(path.read_text())
                sae = cfg["sae"] if "sae" in cfg else cfg["saes"][folder.name]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path} is not the config of a runner ({error}): the file is truncated "
                    "or damaged. Resume from an earlier checkpoint."
                ) from error
            return {**cfg, "sae": sae}
    return {}


def _check_not_folded(folder: Path, was: Settings, now: Settings) -> None:
    """A training that ends folds its factor into the weights, and saves them as unscaled."""
    trained_with = _runner_settings(folder).get("sae", now).get("normalize_activations")
    if (
        trained_with in FOLDED_NORMALIZATIONS
        and was["normalize_activations"] not in FOLDED_NORMALIZATIONS
    ):
        raise ValueError(
            f"The weights in {folder} are of normalize_activations="
            f"{was['normalize_activations']!r}, not {trained_with!r}: a training that ends folds "
            "its factor into them, and one that went on from there would fold another. Resume "
            "from a checkpoint before the final one."
        )


def _refuse_other(
    folder: Path, names: tuple[str, ...], was: Settings, now: Settings
) -> None:
    for name in names:
        if name in was and name in now and was[name] != now[name]:
            raise ValueError(
                f"The checkpoint {folder} is of {name}={was[name]!r}, this run has "
                f"{name}={now[name]!r}. What defines the activations or the SAE cannot change on "
                f"the way: set {name} as it was, or begin anew."
            )


def _check_schedule(folder: Path, was: Settings, now: Settings) -> None:
    def parts(cfg: Settings) -> list[str | bool]:
        return [cfg[n] if isinstance(cfg[n], str) else cfg[n] > 0 for n in SCHEDULE]

    if was and parts(was) != parts(now):
        saved = ", ".join(f"{name}={was[name]}" for name in SCHEDULE)
        raise ValueError(
            f"The checkpoint {folder} brings along the state of another schedule of the learning "
            f"rate: {saved}. Set them as they were."
        )


def _warn_of_others(folder: Path, was: Settings, now: Settings) -> None:
    was, now = ({**cfg.get("sae", {}), **cfg} for cfg in (was, now))
    hidden = (*NOT_LISTED, *MODEL, *ACTIVATIONS, "sae", "metadata")
    lines = [
        f"  {name}: {was[name]} -> {now[name]}"
        + ", without effect: the checkpoint's stays" * (name in RESTORED)
        for name in was
        if name in now and name not in hidden and was[name] != now[name]
    ]
    if lines:
        settings = "\n".join(lines)
        warnings.warn(
            f"{folder} was written with other settings than this run has:\n{settings}",
            stacklevel=3,
        )


def _check_shapes(folder: Path, sae: TrainingSAE[Any]) -> None:
    path = folder / SAE_WEIGHTS_FILENAME
    try:
        with safe_open(path, framework="pt") as file:
            saved = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read ({error}): the file is truncated or damaged. "
            "Resume from an earlier checkpoint."
        ) from error
    wanted = sae.state_dict()
    if differing := sorted(set(saved) ^ set(wanted)):
        raise ValueError(
            f"The checkpoint {folder} and this run do not have the same tensors: "
            f"{differing[0]!r} is in one of them only. A solo run "
            "(decomposability_coefficient=0) and a joint run cannot resume each other."
        )
    for name, tensor in wanted.items():
        if list(saved[name]) != list(tensor.shape):
            raise ValueError(
                f"{path} has {name} of shape {list(saved[name])}, which its own config denies: "
                f"{list(tensor.shape)}. Resume from another checkpoint."
            )
