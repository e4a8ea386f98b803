"""What trainings of several SAEs read, how, and what the SAEs record of their text."""

from collections.abc import Mapping
from typing import Any

from datasets import Dataset, IterableDataset
from sae_lens import ActivationsStore, LoggingConfig, MultiSAETrainingRunnerConfig
from transformer_lens.HookedTransformer import HookedRootModule

from sae_lens_meta.activations.source import without_advice
from sae_lens_meta.activations.text import order_of, text_identity
from sae_lens_meta.training.joint import MetaTrainingSAEConfig


def together(
    saes: dict[str, MetaTrainingSAEConfig], **settings: Any
) -> MultiSAETrainingRunnerConfig:
    """SAELens's config for training `saes` in one pass, without files and logs of its own."""
    return MultiSAETrainingRunnerConfig(
        saes=saes,
        checkpoint_path=None,
        output_path=None,
        logger=LoggingConfig(log_to_wandb=False),
        **settings,
    )


def text_store(
    cfg: MultiSAETrainingRunnerConfig,
    model: HookedRootModule,
    text: Dataset | IterableDataset,
    beside: Mapping[str, int] | None = None,
) -> ActivationsStore:
    """
    SAELens's store of the activations that `cfg.saes` read, from the start of `text`.

    Args:
        cfg: of the training.
        model: the language model.
        text: documents.
        beside: other hooks to read in the same pass, with their widths.
    """
    widths = {hook: cfg.saes[sae].d_in for sae, hook in cfg.hook_names_per_sae.items()}
    widths |= beside or {}
    with without_advice():
        return ActivationsStore.from_config_multi_hook(
            model,
            dataset=text,
            hook_names=list(widths),
            hook_d_ins=widths,
            context_size=cfg.context_size,
            n_batches_in_buffer=cfg.n_batches_in_buffer,
            store_batch_size_prompts=cfg.store_batch_size_prompts,
            train_batch_size_tokens=cfg.train_batch_size_tokens,
            total_training_tokens=cfg.training_tokens,
            device=cfg.device,
            autocast_lm=cfg.autocast_lm,
        )


def text_metadata(
    dataset: str, n_held_out: int, text_seed: int, data_seed: int
) -> dict[str, Any]:
    """
    What an SAE records of its text beside what SAELens has it record.

    Args:
        dataset: as `load_text` takes it.
        n_held_out: documents kept from training, the first ones.
        text_seed: of the order of the documents.
        data_seed: of the order that its training reads activations in.
    """
    return {
        "held_out": {
            "documents": n_held_out,
            "text_seed": order_of(dataset, text_seed),
        },
        "text_sha256": text_identity(dataset).sha256,
        "data_seed": data_seed,
    }
