"""The model that an SAE is measured on is loaded as it was for its training."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sae_lens_meta import MetaTrainingSAE
from sae_lens_meta.evaluation.source import SourceConfig, load_source
from tests.helpers import meta_config
from tests.tiny_llama import CONTEXT, HOOK, WIDTH, save_tiny_llama


@pytest.mark.parametrize(
    ("trained_with", "dtype"),
    [("AutoModelForCausalLM", torch.bfloat16), ("HookedTransformer", torch.float32)],
)
def test_a_model_is_loaded_with_the_options_that_the_sae_records(
    tmp_path: Path, trained_with: str, dtype: torch.dtype
) -> None:
    cfg = meta_config(d_in=WIDTH)
    metadata = cfg.metadata
    metadata.model_name = str(save_tiny_llama(tmp_path))
    metadata.hook_name, metadata.prepend_bos = HOOK, True
    metadata.model_class_name = trained_with
    # those of another class would not be understood
    metadata.model_from_pretrained_kwargs = {"dtype": "bfloat16"}
    sae: Any = MetaTrainingSAE(cfg)
    source = load_source(SourceConfig(context_size=CONTEXT), sae)
    model: Any = source.model
    assert model.model.dtype == dtype
    (batch,) = source.stream(sae, 8 * CONTEXT)
    assert batch.activations.dtype == torch.float32
