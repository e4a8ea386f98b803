"""SAELens's own training command line, `meta` being its default architecture."""

from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset
from sae_lens import LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner
from sae_lens.constants import SAE_WEIGHTS_FILENAME
from sae_lens.llm_sae_training_runner import _parse_cfg_args

from sae_lens_meta.activations.language_model import model_metadata, model_path
from sae_lens_meta.activations.rows_of_tokens import check_rows_of_tokens
from sae_lens_meta.activations.text import read_documents, text_identity
from sae_lens_meta.destination import check_new, check_writable, held
from sae_lens_meta.saved import check_device
from sae_lens_meta.training.checks import (
    check_dataset,
    check_hook,
    warn_of_slow_meta_sae,
)
from sae_lens_meta.training.resume import check_resume
from sae_lens_meta.training.schedules import SchedulesConfig

ABOUT = """\
SAELens's own options follow. Where neither --architecture nor --sae is given, this command trains
`meta`, whatever SAELens names as its default.
"""


def run(args: list[str]) -> None:
    """Trains an SAE with SAELens's options; its own parser reads them."""
    args = args or ["--help"]
    if {"-h", "--help"} & {*args}:
        print(ABOUT)  # noqa: T201
    if not any(a.split("=")[0] in ("--architecture", "--sae") for a in args):
        args = ["--architecture", "meta", *args]
    overwrite = "--overwrite" in args
    cfg = _parse_cfg_args([arg for arg in args if arg != "--overwrite"])
    for key, value in model_metadata(cfg.model_name).items():
        setattr(cfg.sae.metadata, key, value)
    cfg.model_name = model_path(cfg.model_name)
    check_device(cfg.device)
    if not cfg.output_path:
        _train(cfg)
        return
    check_new(Path(cfg.output_path) / SAE_WEIGHTS_FILENAME, overwrite)
    with held(Path(cfg.output_path)):
        _train(cfg)
    print(f"Saved: {cfg.output_path}")  # noqa: T201


def _train(cfg: LanguageModelSAERunnerConfig[Any]) -> None:
    if cfg.checkpoint_path:
        check_writable(Path(cfg.checkpoint_path))
    text = _text(cfg)
    cfg.sae.metadata.autocast_lm = cfg.autocast_lm
    check_resume(cfg)
    if isinstance(cfg.sae, SchedulesConfig):
        cfg.sae.check_annealing(cfg.training_tokens // cfg.train_batch_size_tokens)
    warn_of_slow_meta_sae(cfg)
    runner = LanguageModelSAETrainingRunner(cfg, override_dataset=text)
    check_hook(runner.model, cfg)
    rows = runner.activations_store.dataset
    if rows is not None and not cfg.use_chat_formatting:
        tokenizer: Any = runner.model.tokenizer
        check_rows_of_tokens(cfg.dataset_path, rows, cfg.prepend_bos, tokenizer)
    runner.run()


def _text(cfg: LanguageModelSAERunnerConfig[Any]) -> Dataset | IterableDataset | None:
    """The documents of a file; and records of any text what SAELens's runner does not."""
    if cfg.use_cached_activations:
        return None
    text = None
    if Path(cfg.dataset_path).expanduser().is_file():
        # which SAELens would look for on the Hub
        text = read_documents(cfg.dataset_path)
    else:
        check_dataset(cfg.dataset_path, cfg.streaming)
    cfg.sae.metadata.text_sha256 = text_identity(cfg.dataset_path).sha256
    cfg.sae.metadata.use_chat_formatting = cfg.use_chat_formatting
    return text
