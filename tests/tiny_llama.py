"""A language model of random weights that SAELens loads from disk, and SAEs trained on it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from sae_lens.load_model import load_model
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sae_lens_meta import MetaTrainingSAE
from sae_lens_meta.activations.measured_on import OFF
from sae_lens_meta.activations.source import ActivationSource
from sae_lens_meta.activations.text import load_text
from tests.helpers import meta_config, trainer_for

HOOK, WIDTH, CONTEXT = "model.layers.0", 24, 32


def save_tiny_llama(path: Path) -> Path:
    """Writes the model and a tokenizer of whole words."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text: Any = load_text("pydoc", 1)[0]
    trainer = trainers.WordLevelTrainer(
        vocab_size=300,
        special_tokens=["<unk>", "<s>"],
    )
    tokenizer.train_from_iterator(text["text"], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="<s>"
    )
    fast.save_pretrained(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=1,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def tiny_source(model: Path, **documents: int) -> ActivationSource:
    """Activations of the model's hook on some documents of `pydoc`."""
    reading = replace(
        OFF,
        model=str(model),
        model_class="AutoModelForCausalLM",
        hook=HOOK,
        context_size=CONTEXT,
        prepend_bos=True,
        exclude_special_tokens=False,
        concatenate=True,
        separator="bos",
        seqpos_slice=(None,),
    )
    loaded = load_model("AutoModelForCausalLM", str(model), "cpu")
    text = load_text("pydoc", **documents)[1]
    return ActivationSource(loaded, text, reading, WIDTH, "cpu")


def record_reading(metadata: Any, model: Path) -> None:
    """Writes into a config's metadata what a runner of SAELens would of `tiny_source`."""
    metadata.model_name = str(model)
    metadata.model_class_name = "AutoModelForCausalLM"
    metadata.hook_name, metadata.context_size = HOOK, CONTEXT
    record_defaults(metadata)


def record_defaults(metadata: Any) -> None:
    """Writes what a runner of SAELens records of a reading by its defaults."""
    metadata.prepend_bos, metadata.seqpos_slice = True, (None,)
    metadata.exclude_special_tokens = metadata.disable_concat_sequences = False
    metadata.sequence_separator_token = "bos"


def save_trained(model: Path, path: Path, **settings: Any) -> Path:
    """Trains an SAE for 80 steps on the model's activations and saves it for inference."""
    cfg = meta_config(d_in=WIDTH, d_sae=96, **settings)
    record_reading(cfg.metadata, model)
    sae: Any = MetaTrainingSAE(cfg)
    source = tiny_source(model, n_held_out=20, n_skipped=30, seed=42)
    x = torch.cat([b.rows for b in source.stream(8000)])
    generator = torch.Generator().manual_seed(cfg.init_seed or 0)
    draws = (x[torch.randint(len(x), (256,), generator=generator)] for _ in range(80))
    trainer_for(sae, draws, 80, batch_size=256, lr=3e-3).fit()
    sae.save_inference_model(path)
    return path
