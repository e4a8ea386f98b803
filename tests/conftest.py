"""The real language model, converted once, its TransformerLens twin, and a tiny one."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from huggingface_hub import constants
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions.llama import convert_llama_weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_lens_meta.activations import cache
from sae_lens_meta.activations.gguf import convert_gguf, smollm2_gguf
from sae_lens_meta.activations.text import load_text
from sae_lens_meta.comparison.result import Comparison
from sae_lens_meta.measures.evaluate import summarize_decoder
from sae_lens_meta.publishing import upload
from sae_lens_meta.report.plots import Plot, all_plots
from sae_lens_meta.reproduce import run as reproduce_run
from sae_lens_meta.training import backend
from sae_lens_meta.training.backend.cuda import CUDA
from sae_lens_meta.zoo import releases
from tests.hub_server import WRITER, HubServer, hub_server
from tests.recipes import SHARD, plain_recipe, written
from tests.tiny_llama import save_tiny_llama

N_LAYERS = 12


@pytest.fixture(autouse=True)
def _quiet_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")


@pytest.fixture
def gpu_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets CPU tensors take the code of a GPU."""
    monkeypatch.setattr(backend, "CPU", CUDA)


@pytest.fixture(params=["processor", "gpu"])
def either_code(request: pytest.FixtureRequest) -> None:
    """CPU tensors, by the processor's code and by a GPU's."""
    if request.param == "gpu":
        request.getfixturevalue("gpu_code")


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as a folder that SAELens loads."""
    return convert_gguf(smollm2_gguf(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of random weights as a folder that SAELens loads."""
    return save_tiny_llama(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def recipe(model: Path, tmp_path: Path) -> Path:
    """A whole recipe for it."""
    return written(tmp_path, plain_recipe(model))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has few tokens make several shards."""
    monkeypatch.setattr(cache, "SHARD_TOKENS", SHARD)
    monkeypatch.setattr(reproduce_run, "SHARD_TOKENS", SHARD)


@pytest.fixture
def smollm2_in_cache(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Has commands that name the model find it converted."""
    cache = tmp_path / "xdg"
    cache.mkdir()
    (cache / "sae_lens_meta").symlink_to(smollm2.parents[1])
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


@pytest.fixture
def few_meta_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has `evaluate` fit its meta SAEs for a few steps; else they take most of the time."""
    quick = partial(summarize_decoder, meta_steps=20)
    monkeypatch.setattr("sae_lens_meta.measures.evaluate.summarize_decoder", quick)


PLOTS: dict[str, list[Plot]] = {}


@pytest.fixture
def plots_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the plots of the same SAEs not drawn again, which takes most of making a release."""

    def drawn(comparison: Comparison) -> list[Plot]:
        key = repr(comparison.saes)
        if key not in PLOTS:
            PLOTS[key] = all_plots(comparison)
        return PLOTS[key]

    monkeypatch.setattr("sae_lens_meta.report.report.all_plots", drawn)


@pytest.fixture(scope="session")
def hooked_smollm2(smollm2: Path) -> HookedTransformer:
    """The first layers of the same weights as a TransformerLens model."""
    hf_model: Any = AutoModelForCausalLM.from_pretrained(smollm2)
    hf = hf_model.config
    cfg = HookedTransformerConfig(
        n_layers=N_LAYERS,
        d_model=hf.hidden_size,
        n_ctx=128,
        d_head=hf.hidden_size // hf.num_attention_heads,
        n_heads=hf.num_attention_heads,
        n_key_value_heads=hf.num_key_value_heads,
        d_mlp=hf.intermediate_size,
        d_vocab=hf.vocab_size,
        act_fn="silu",
        gated_mlp=True,
        normalization_type="RMS",
        eps=hf.rms_norm_eps,
        positional_embedding_type="rotary",
        rotary_adjacent_pairs=False,
        rotary_dim=hf.hidden_size // hf.num_attention_heads,
        rotary_base=int(_rope_theta(hf)),
        final_rms=True,
        original_architecture="LlamaForCausalLM",
    )
    model = HookedTransformer(cfg, AutoTokenizer.from_pretrained(smollm2))
    model.load_state_dict(convert_llama_weights(hf_model, cfg), strict=False)
    return model.eval()


def _rope_theta(config: Any) -> float:
    # transformers 5 gathered what concerns positions
    return getattr(config, "rope_theta", None) or config.rope_parameters["rope_theta"]


@pytest.fixture(scope="session")
def text() -> Dataset:
    documents, _ = load_text("pydoc", n_held_out=4)
    assert isinstance(documents, Dataset)
    return documents


@pytest.fixture(autouse=True)
def _restore_signal_handlers() -> Any:
    """SAELens's runners install handlers that would outlive the test."""
    import signal

    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub of the test's own, which `huggingface_hub` talks to, and an empty cache."""
    with hub_server() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        # where versions below 1 keep another
        monkeypatch.setattr(
            "huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE",
            template,
            raising=False,
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


@pytest.fixture
def random_activations() -> torch.Tensor:
    return torch.randn(300, 16, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def list_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A list of releases of the test's own, with a comment."""
    copy = tmp_path / "pretrained.yaml"
    copy.write_text(releases.zoo_path().read_text())
    monkeypatch.setattr(releases, "zoo_path", lambda: copy)
    return copy


@pytest.fixture
def as_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a token that may write, and no waiting between attempts."""
    monkeypatch.setenv("HF_TOKEN", WRITER)
    monkeypatch.setattr(upload, "wait_exponential", lambda **_: lambda _: 0)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
