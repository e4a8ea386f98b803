"""What a saved SAE is and how it must be read, by its own files and nothing else."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from sae_lens import SAE
from sae_lens.constants import (
    SAE_CFG_FILENAME,
    SAE_WEIGHTS_FILENAME,
    TRAINER_STATE_FILENAME,
)
from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting
from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY
from safetensors import SafetensorError, safe_open

from sae_lens_meta.hashing import file_sha256
from sae_lens_meta.hooks import transformer_lens_name, transformers_name
from sae_lens_meta.training.config import FOLDED_NORMALIZATIONS

Kind = Literal["sae", "transcoder", "training checkpoint"]
# a config of a training has it, one of inference never
_OF_A_TRAINING = "decoder_init_norm"
# of a config: what no code depends on, since all are computed in float32 wherever they are
_WITHOUT_EFFECT = ("metadata", "device", "dtype")
_DECODER = "W_dec"
# codes a token by those before it in its context, which measures of single activations are not of
_TEMPORAL = "temporal"


@dataclass(frozen=True)
class Reading:
    """
    How the activations of an SAE are made from text; None where that is not recorded.

    Attributes:
        model: that can be loaded: a path on this machine, or the Hub's id.
        model_on_the_hub: the Hub's id, beside a path.
        model_file: the file that the model was converted from, such as a GGUF.
        model_file_sha256: of what that file holds.
        model_class: HookedTransformer, AutoModelForCausalLM or HookedMamba.
        model_kwargs: of the model's `from_pretrained`, such as its dtype.
        hook: whose activations, as recorded.
        hook_in_transformers: its name in transformers, recorded beside or told by the model's family.
        head: of a hook with several.
        context_size: tokens.
        prepend_bos: whether every context begins with a BOS token.
        exclude_special_tokens: whether special tokens, or which ids, are left out.
        concatenate: whether documents are joined to fill a context.
        separator: token between them: an id, "bos", "eos", "sep", or "none".
        seqpos_slice: positions of a context that are read, as bounds of a slice.
        chat: whether texts go through the tokenizer's chat template.
        autocast_lm: whether the model runs in bfloat16 where that is accurate enough.
    """

    model: str | None = None
    model_on_the_hub: str | None = None
    model_file: str | None = None
    model_file_sha256: str | None = None
    model_class: str | None = None
    model_kwargs: dict[str, Any] | None = None
    hook: str | None = None
    hook_in_transformers: str | None = None
    head: int | None = None
    context_size: int | None = None
    prepend_bos: bool | None = None
    exclude_special_tokens: bool | tuple[int, ...] | None = None
    concatenate: bool | None = None
    separator: int | str | None = None
    seqpos_slice: tuple[int | None, ...] | None = None
    chat: bool | None = None
    autocast_lm: bool | None = None

    @property
    def transformer_lens_hook(self) -> str | None:
        """The hook's name in TransformerLens; None where it has none, or none is recorded."""
        return transformer_lens_name(self.hook) if self.hook else None


@dataclass(frozen=True)
class TrainingText:
    """
    What an SAE was trained on.

    Attributes:
        name: of the dataset, as it was given.
        sha256: of its documents (`text_identity`); None where that is not recorded.
        held_out: documents kept from training, the first ones in the order of `seed`.
        seed: of that order.
    """

    name: str
    sha256: str | None
    held_out: int | None
    seed: int | None


@dataclass(frozen=True)
class Calibration:
    """
    How thresholds were taken.

    Attributes:
        rule: `rate` or `equal_error`.
        n_tokens: read.
        k: latents a token that they were taken at; None where not recorded.
        text_sha256: of the text's documents; None, as the next three, where not recorded.
        first_document: in the order of `text_seed`.
        documents: read from there on.
        text_seed: of the order of the documents.
        overridden: what was given in the place of what the SAE records, by option.
    """

    rule: str
    n_tokens: int
    k: float | None
    text_sha256: str | None
    first_document: int | None
    documents: int | None
    text_seed: int | None
    overridden: dict[str, Any]


@dataclass(frozen=True)
class SavedSAE:
    """
    An SAE on disk: ours, or any that SAELens saved.

    Attributes:
        path: its folder.
        kind: an SAE for inference, a transcoder, or a checkpoint that can be trained on.
        architecture: of the config, for instance `jumprelu`.
        d_in, d_sae: its shape.
        dtype: of its weights, by the config.
        normalization: of its inputs.
        needs_folding: whether that normalisation is applied by a training alone, so that the
            weights give wrong codes until it is folded into them.
        reading: how its activations are made.
        training_architecture: it came from.
        settings: of that training, for instance `k`; empty where none are recorded.
        coefficient: `decomposability_coefficient`: 0 for a solo SAE, None for other objectives.
        init_seed: of its initial weights.
        data_seed: of the order of its training's activations.
        text: it was trained on.
        calibration: of its thresholds.
        weights_sha256: of its weights as saved.
        config_sha256: of those parts of its config that its codes depend on.
        tensors_sha256: of its weights, whatever else stands in their file.
    """

    path: Path
    kind: Kind
    architecture: str
    d_in: int
    d_sae: int
    dtype: str
    normalization: str
    needs_folding: bool
    reading: Reading
    training_architecture: str | None
    settings: dict[str, Any]
    coefficient: float | None
    init_seed: int | None
    data_seed: int | None
    text: TrainingText | None
    calibration: Calibration | None

    @cached_property
    def weights_sha256(self) -> str:
        return file_sha256(self.path / SAE_WEIGHTS_FILENAME)

    @cached_property
    def config_sha256(self) -> str:
        cfg = json.loads((self.path / SAE_CFG_FILENAME).read_text(encoding="utf-8"))
        decides = {k: v for k, v in cfg.items() if k not in _WITHOUT_EFFECT}
        return sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    @cached_property
    def tensors_sha256(self) -> str:
        digest, path = sha256(), self.path / SAE_WEIGHTS_FILENAME
        try:
            with safe_open(path, framework="pt") as file:
                for name in sorted(file.keys()):
                    tensor = file.get_tensor(name).flatten()
                    digest.update(f"{name} {tensor.dtype} {len(tensor)}".encode())
                    digest.update(tensor.view(torch.uint8).numpy())
        except SafetensorError as error:
            raise _damaged(path, error) from error
        return digest.hexdigest()

    @classmethod
    def read(cls, path: Path) -> "SavedSAE":
        """
        Reads what the folder `path` records.

        Raises:
            FileNotFoundError: if the folder or one of its files is missing.
            ValueError: if its config is not one of an SAE that SAELens knows.
        """
        if not path.is_dir():
            raise FileNotFoundError(f"There is no SAE folder at {path}.")
        for name in (SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME):
            if not (path / name).is_file():
                raise FileNotFoundError(f"{path} is not a saved SAE: it has no {name}.")
        cfg = _config(path / SAE_CFG_FILENAME)
        metadata = cfg.get("metadata") or {}
        details = metadata.get("training_architecture_details") or {}
        kind = _kind(path, cfg, metadata)
        settings = cfg if kind == "training checkpoint" else details
        return cls(
            path=path,
            kind=kind,
            architecture=cfg["architecture"],
            d_in=cfg["d_in"],
            d_sae=cfg["d_sae"],
            dtype=cfg.get("dtype", "float32"),
            normalization=cfg.get("normalize_activations", "none"),
            needs_folding=cfg.get("normalize_activations") in FOLDED_NORMALIZATIONS,
            reading=_reading(metadata),
            training_architecture=metadata.get("training_architecture"),
            settings=details,
            coefficient=settings.get("decomposability_coefficient"),
            init_seed=settings.get("init_seed"),
            data_seed=metadata.get("data_seed"),
            text=_text(metadata),
            calibration=_calibration(metadata.get("calibration")),
        )

    def check_is_sae(self) -> None:
        """
        Checks that it is an SAE for inference, whose codes of an activation mean something.

        Raises:
            ValueError: if it is a transcoder, a temporal SAE or a checkpoint, or its normalisation
                is not folded into its weights.
        """
        if self.kind == "training checkpoint":
            raise ValueError(
                f"{self.path} is a checkpoint of a training, not a saved SAE. Load it with "
                "`TrainingSAE.load_from_disk` and save it with `save_inference_model`, or give "
                "the training's output folder."
            )
        if self.kind == "transcoder":
            raise ValueError(
                f"{self.path} is a {self.architecture}: it predicts another activation than the "
                "one it reads, and the measures here are of how an SAE reconstructs what it "
                "reads. Only SAEs can be measured."
            )
        if self.architecture == _TEMPORAL:
            raise ValueError(
                f"{self.path} is a {_TEMPORAL} SAE, which codes a token by those before it; the "
                "measures here are of SAEs that read one activation at a time."
            )
        if self.needs_folding:
            raise ValueError(
                f"{self.path} was saved in the middle of a training with normalize_activations="
                f"{self.normalization!r}, whose factor is folded into the weights only when the "
                "training ends: its codes are wrong. Train it to its end, or take the final one."
            )

    def load(self, device: str = "cpu") -> SAE[Any]:
        """
        The SAE, in float32, its weights checked.

        Raises:
            ValueError: as `check_is_sae`, or if the weights cannot be read, do not fit the
                config, or are not finite.
        """
        self.check_is_sae()
        check_device(device)
        weights = self.path / SAE_WEIGHTS_FILENAME
        # of what is loaded now: the folder may hold other weights when it is asked for
        _ = self.weights_sha256
        try:
            # thresholds must not be rounded on their way
            sae = SAE.load_from_disk(self.path, device, dtype="float32")
        except SafetensorError as error:
            raise _damaged(weights, error) from error
        except (RuntimeError, KeyError) as error:
            raise ValueError(
                f"{weights} does not fit {SAE_CFG_FILENAME} beside it: {error}"
            ) from error
        for name, tensor in sae.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise ValueError(
                    f"{name} of the SAE at {self.path} is not finite everywhere."
                )
        return sae

    def decoder(self) -> torch.Tensor:
        """
        Its decoder `[d_sae, d_in]` in float32, also a transcoder's, `[d_sae, d_out]`.

        The other weights stay on disk.

        Raises:
            ValueError: if it is a checkpoint of a training or saved before its normalisation
                was folded, or the decoder is missing or of another shape.
        """
        if self.kind != "transcoder":
            self.check_is_sae()
        path = self.path / SAE_WEIGHTS_FILENAME
        try:
            with safe_open(path, framework="pt") as file:
                shape = (0, 0)
                if _DECODER in set(file.keys()):
                    shape = tuple(file.get_slice(_DECODER).get_shape())
                # a transcoder writes to an activation of another width
                width = shape[1] if self.kind == "transcoder" else self.d_in
                if shape == (self.d_sae, width):
                    return file.get_tensor(_DECODER).float()
        except SafetensorError as error:
            raise _damaged(path, error) from error
        raise ValueError(
            f"{path} does not fit {SAE_CFG_FILENAME} beside it: {_DECODER} is to have "
            f"{self.d_sae} rows of width {self.d_in}, and has the shape {shape}."
        )


def _damaged(path: Path, error: SafetensorError) -> ValueError:
    return ValueError(
        f"{path} cannot be read ({error}): the file is truncated or damaged."
    )


def short_names(paths: Sequence[Path]) -> list[str]:
    """
    The ends of `paths`, as long as it takes to tell them apart.

    Raises:
        ValueError: if a path stands twice, however it is spelled.
    """
    parts = [path.resolve().parts[1:] for path in paths]
    if repeated := {"/".join(p) for p in parts if parts.count(p) > 1}:
        raise ValueError(
            f"Given more than once: {', '.join(sorted(repeated))}. Leave out all but one."
        )
    length = 1
    while len({p[-length:] for p in parts}) < len(parts):
        length += 1
    return ["/".join(p[-length:]) for p in parts]


def check_device(device: str) -> None:
    """
    Raises:
        ValueError: if this machine has no such device.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"There is no device {device!r} here: {reason}. Give --device cpu."
        ) from error


def _config(path: Path) -> dict[str, Any]:
    try:
        cfg = handle_config_defaulting(json.loads(path.read_text(encoding="utf-8")))
        architecture = cfg["architecture"]
        sizes = (cfg["d_in"], cfg["d_sae"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not the config of an SAE ({error!r}): the file is truncated or "
            "damaged, or of something else."
        ) from error
    known = SAE_CLASS_REGISTRY.keys() | SAE_TRAINING_CLASS_REGISTRY.keys()
    if architecture not in known:
        raise ValueError(
            f"{path} is of architecture {architecture!r}, which SAELens does not know. It "
            f"knows {', '.join(sorted(known))}; import the package that registers yours."
        )
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(f"{path} has d_in and d_sae {sizes}, which are no sizes.")
    return cfg


def _kind(path: Path, cfg: dict[str, Any], metadata: dict[str, Any]) -> Kind:
    is_of_a_training = (
        _OF_A_TRAINING in cfg or (path / TRAINER_STATE_FILENAME).is_file()
    )
    if is_of_a_training or cfg["architecture"] not in SAE_CLASS_REGISTRY:
        return "training checkpoint"
    _, of_class = SAE_CLASS_REGISTRY[cfg["architecture"]]
    out = metadata.get("hook_name_out")
    writes_elsewhere = out and out != metadata.get("hook_name")
    if writes_elsewhere or "d_out" in {field.name for field in fields(of_class)}:
        return "transcoder"
    return "sae"


def _reading(metadata: dict[str, Any]) -> Reading:
    special = metadata.get("exclude_special_tokens")
    disable = metadata.get("disable_concat_sequences")
    separator = metadata.get("sequence_separator_token")
    if separator is None and "sequence_separator_token" in metadata:
        separator = "none"
    positions = metadata.get("seqpos_slice")
    model, hook = metadata.get("model_name"), metadata.get("hook_name")
    model_on_the_hub = metadata.get("model_on_the_hub")
    hook_in_transformers = metadata.get("hf_hook_name")
    if hook and not hook_in_transformers:
        hook_in_transformers = transformers_name(hook, model_on_the_hub or model)
    return Reading(
        model=model,
        model_on_the_hub=model_on_the_hub,
        model_file=metadata.get("model_file"),
        model_file_sha256=metadata.get("model_file_sha256"),
        model_class=metadata.get("model_class_name"),
        model_kwargs=metadata.get("model_from_pretrained_kwargs"),
        hook=hook,
        hook_in_transformers=hook_in_transformers,
        head=metadata.get("hook_head_index"),
        context_size=metadata.get("context_size"),
        prepend_bos=metadata.get("prepend_bos"),
        exclude_special_tokens=tuple(special) if isinstance(special, list) else special,
        concatenate=None if disable is None else not disable,
        separator=separator,
        seqpos_slice=None if positions is None else tuple(positions),
        chat=metadata.get("use_chat_formatting"),
        autocast_lm=metadata.get("autocast_lm"),
    )


def _text(metadata: dict[str, Any]) -> TrainingText | None:
    name = metadata.get("dataset_path")
    if not name:
        return None
    held_out = metadata.get("held_out") or {}
    return TrainingText(
        name=name,
        sha256=metadata.get("text_sha256"),
        held_out=held_out.get("documents"),
        seed=held_out.get("text_seed"),
    )


def _calibration(recorded: dict[str, Any] | None) -> Calibration | None:
    if not recorded:
        return None
    text = recorded.get("text") or {}
    return Calibration(
        rule=recorded["rule"],
        n_tokens=recorded["n_tokens"],
        k=recorded.get("k"),
        text_sha256=text.get("sha256"),
        first_document=text.get("first_document"),
        documents=text.get("documents"),
        text_seed=text.get("text_seed"),
        overridden=recorded.get("overridden") or {},
    )
