"""The language model that an SAE records, or the one that is given in its place."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from sae_lens.load_model import load_model
from transformer_lens.HookedTransformer import HookedRootModule
from transformer_lens.loading_from_pretrained import get_official_model_name
from transformers import AutoTokenizer

from sae_lens_meta.activations.gguf import INSTALL_SMOLLM2, convert_gguf, smollm2_gguf
from sae_lens_meta.hashing import file_sha256
from sae_lens_meta.hooks import name_in
from sae_lens_meta.saved import Reading

SMOLLM2 = "smollm2"
SMOLLM2_ON_THE_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"


def model_path(model: str) -> str:
    """What SAELens loads `model` from; a GGUF file is converted once and kept in the cache."""
    if model != SMOLLM2 and not model.endswith(".gguf"):
        return model
    gguf = smollm2_gguf() if model == SMOLLM2 else Path(model)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return str(convert_gguf(gguf, cache / "sae_lens_meta"))


def model_metadata(model: str) -> dict[str, str]:
    """What an SAE records of a model that is converted from a file, beside its local path."""
    if model == SMOLLM2:
        return _file_metadata(smollm2_gguf()) | {"model_on_the_hub": SMOLLM2_ON_THE_HUB}
    return _file_metadata(Path(model)) if model.endswith(".gguf") else {}


def _file_metadata(gguf: Path) -> dict[str, str]:
    return {"model_file": gguf.name, "model_file_sha256": file_sha256(gguf)}


def load_language_model(
    reading: Reading, device: str
) -> tuple[HookedRootModule, Reading, list[str]]:
    """
    The model of a complete reading.

    Returns:
        It; the reading, with the name that it was loaded by; and what it was loaded in the
        place of, in words.

    Raises:
        ValueError: if its path does not exist here, and no name on the Hub is recorded.
        OSError: if it cannot be had.
    """
    name, replaced = found_model(reading)
    path = model_path(name)
    try:
        model = load_model(
            str(reading.model_class),
            path,
            device=device,
            # for instance its dtype, which the activations depend on
            model_from_pretrained_kwargs=reading.model_kwargs,
        )
    except OSError as error:
        hint = "Give another --model."
        if name == SMOLLM2_ON_THE_HUB:
            hint = f"Without the Hub it can be had by {INSTALL_SMOLLM2}."
        first_line = str(error).partition("\n")[0]
        raise OSError(
            f"The model {name!r} cannot be loaded: {first_line} {hint}"
        ) from error
    return model, replace(reading, model=name), replaced


def load_tokenizer(reading: Reading) -> Any:
    """
    The tokenizer of a complete reading's model, which takes no time to load, unlike the model.

    Raises:
        ValueError: as `load_language_model`, or if it does not tell which characters a token is of.
    """
    name, _ = found_model(reading)
    path = model_path(name)
    if reading.model_class == "HookedTransformer":
        path = get_official_model_name(name)
    tokenizer = AutoTokenizer.from_pretrained(path)
    if not tokenizer.is_fast:
        raise ValueError(
            f"The tokenizer of {name!r} does not tell which characters a token is of, as those of "
            "the package tokenizers do. Labels cannot be brought to its tokens."
        )
    return tokenizer


def fitted(reading: Reading, model: HookedRootModule) -> Reading:
    """
    The reading, its hook by the name that `model` has for it.

    Raises:
        ValueError: if the contexts are longer than the model's.
    """
    longest = longest_context(model)
    if longest is not None and int(reading.context_size or 0) > longest:
        raise ValueError(
            f"{reading.model!r} has contexts of {longest} tokens at most, and not of "
            f"{reading.context_size}. Give --context_size {longest} or less."
        )
    hook = name_in(str(reading.hook), model.hook_dict)
    return replace(reading, hook=hook or reading.hook)


def found_model(reading: Reading) -> tuple[str, list[str]]:
    """The name to load the recorded model by, and what is said of it."""
    name = str(reading.model)
    is_here = Path(name).expanduser().exists()
    if not is_here and _is_installed(reading):
        return SMOLLM2, []
    if name.startswith(("/", "~", ".")) and not is_here:
        if reading.model_on_the_hub is None:
            raise ValueError(
                f"The SAE was trained on the model at {name}, which is not there. Give --model."
            )
        name = reading.model_on_the_hub
        return name, [f"{name} of the Hub in the place of the recorded {reading.model}"]
    if reading.model_file is not None and not is_here:
        return name, [f"{name} in the place of the recorded file {reading.model_file}"]
    return name, []


def _is_installed(reading: Reading) -> bool:
    """Whether the file that the model was converted from is the one of SmolLM2's package."""
    try:
        installed = smollm2_gguf()
    except FileNotFoundError:
        return False
    if reading.model_file_sha256 is None:  # as before releases recorded it
        return installed.name == reading.model_file
    return file_sha256(installed) == reading.model_file_sha256


def longest_context(model: Any) -> int | None:
    """Tokens that the model takes at most, where its config says so."""
    inner = getattr(model, "model", None)
    for config in (getattr(model, "cfg", None), getattr(inner, "config", None)):
        for name in ("n_ctx", "max_position_embeddings"):
            if isinstance(found := getattr(config, name, None), int):
                return found
    return None


def is_same_model(given: str, recorded: Reading) -> bool:
    """Whether `given` names the model that is recorded, in other words."""
    if given == SMOLLM2 and recorded.model_file is not None:
        return _is_installed(recorded)
    return recorded.model is not None and model_path(given) == recorded.model
