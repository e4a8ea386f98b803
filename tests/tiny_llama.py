"""A language model of random weights that SAELens loads from disk, and SAEs trained on it."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sae_lens_meta import MetaTrainingSAE
from sae_lens_meta.evaluation.source import SourceConfig, load_source
from sae_lens_meta.text import load_text
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


def save_trained(model: Path, path: Path, **settings: Any) -> Path:
    """Trains an SAE for 80 steps on the model's activations and saves it for inference."""
    cfg = meta_config(d_in=WIDTH, d_sae=96, **settings)
    cfg.metadata.model_name = str(model)
    cfg.metadata.hook_name = HOOK
    cfg.metadata.prepend_bos = True
    sae: Any = MetaTrainingSAE(cfg)
    source = load_source(
        SourceConfig(context_size=CONTEXT, held_out_documents=20, first_document=30),
        sae,
    )
    x = torch.cat([b.activations.flatten(0, 1) for b in source.stream(sae, 8000)])
    generator = torch.Generator().manual_seed(cfg.init_seed or 0)
    draws = (x[torch.randint(len(x), (256,), generator=generator)] for _ in range(80))
    trainer_for(sae, draws, 80, batch_size=256, lr=3e-3).fit()
    sae.save_inference_model(path)
    return path
