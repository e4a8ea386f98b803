"""What is written for other tools is what they read: by its format, and by the tools themselves where they are."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE
from safetensors.torch import load_file, save_file

from sae_lens_meta.activations.measured_on import SourceConfig
from sae_lens_meta.activations.source import load_source
from sae_lens_meta.activations.stream import ActivationBatch
from sae_lens_meta.cli import main
from sae_lens_meta.exports.config import ExportConfig
from sae_lens_meta.exports.dashboards import AT_A_TIME
from sae_lens_meta.exports.delphi import DelphiCache
from sae_lens_meta.saved import SavedSAE
from tests.tiny_llama import CONTEXT, HOOK, WIDTH, save_tiny_llama, save_trained

pytestmark = pytest.mark.slow
TOKENS = 4096
LATENTS = [3, 10, 20, 21, 40, 90]
# a folder with an environment that has the peers, docs/exports.md; made there where it does not exist
PEERS = os.environ.get("PEERS_ENVIRONMENT")


@pytest.fixture(scope="module")
def sae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    return save_trained(save_tiny_llama(folder / "model"), folder / "an_sae")


def export(sae: Path, to: str, output: Path, *more: str) -> None:
    options = ["--output", str(output), "--tokens", str(TOKENS), *more]
    main(["export", "--to", to, str(sae), *options])


def codes(sae: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens `[prompts, positions]` that the SAE reads, and its codes of them."""
    source, _ = load_source(SourceConfig(), [SavedSAE.read(sae)])
    batches = list(source.stream(TOKENS))
    acts = SAE.load_from_disk(sae).encode(torch.cat([b.activations for b in batches]))
    return torch.cat([b.tokens for b in batches]), acts.detach()


@pytest.mark.parametrize("latents", [[], LATENTS], ids=["all", "some"])
def test_for_delphi_it_is_where_latents_fire(
    sae: Path, tmp_path: Path, latents: list[int]
) -> None:
    chosen = ["--latents", *map(str, latents)] if latents else []
    export(sae, "delphi", tmp_path / "d", *chosen)
    folder = tmp_path / "d" / HOOK
    config = json.loads((folder / "config.json").read_text())
    assert config["ctx_len"] == CONTEXT and Path(config["model_name"]).is_dir()
    (path,) = folder.glob("*.safetensors")
    first, last = map(int, path.stem.split("_"))
    data = load_file(path)
    tokens, acts = codes(sae)
    assert (first, last) == (0, acts.shape[-1] - 1)
    assert torch.equal(data["tokens"], tokens)
    rows, places, numbers = data["locations"].long().T
    dense = torch.zeros_like(acts)
    dense[rows, places, numbers + first] = data["activations"].float()
    wanted = acts.clone()
    if latents:
        wanted[..., [i for i in range(acts.shape[-1]) if i not in latents]] = 0
    assert wanted.count_nonzero() > 100
    assert torch.allclose(dense, wanted, rtol=1e-3)


def test_delphi_is_given_the_model_that_was_read_and_not_the_one_recorded(
    sae: Path, tmp_path: Path
) -> None:
    recorded = SAE.load_from_disk(sae).cfg.metadata.model_name
    model = shutil.copytree(str(recorded), tmp_path / "copy")
    for output, more, name in (
        ("a", ["--model", str(model)], str(model)),
        ("b", [], recorded),
    ):
        export(sae, "delphi", tmp_path / output, "--latents", "1", *more)
        config = json.loads((tmp_path / output / HOOK / "config.json").read_text())
        assert config["model_name"] == name


def test_delphi_is_given_the_hooks_name_in_transformers(
    sae: Path, tmp_path: Path
) -> None:
    an_sae = SAE.load_from_disk(sae)
    an_sae.cfg.metadata.hf_hook_name = None
    an_sae.cfg.metadata.hook_name = "blocks.2.hook_resid_post"
    cache = DelphiCache(an_sae, [1])
    tokens = torch.zeros(2, 4, dtype=torch.long)
    cache.update(ActivationBatch(tokens, torch.randn(2, 4, WIDTH)))
    assert cache.save(tmp_path, "gpt2").name == "transformer.h.2"
    # of a model whose modules nothing tells, the name that is recorded
    assert cache.save(tmp_path, "mine").name == "blocks.2.hook_resid_post"


@pytest.mark.parametrize("to", ["saedashboard", "neuronpedia"])
def test_for_saedashboard_it_is_the_sae_the_tokens_and_a_script(
    sae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str
) -> None:
    export(sae, to, tmp_path / "e", "--latents", *map(str, reversed(LATENTS)))
    exported = SAE.load_from_disk(tmp_path / "e" / "sae")
    assert exported.cfg.metadata.hook_name == "blocks.0.hook_resid_post"
    for name, tensor in SAE.load_from_disk(sae).state_dict().items():
        assert torch.equal(exported.state_dict()[name], tensor)
    tokens, _ = codes(sae)
    assert torch.equal(
        load_file(tmp_path / "e" / "tokens.safetensors")["tokens"], tokens
    )
    settings = json.loads((tmp_path / "e" / "export.json").read_text())
    assert settings["to"] == to and settings["latents"] == LATENTS
    assert settings["layer"] == 0 and settings["sae_set"] == "an_sae"
    assert Path(settings["model"]).is_dir() and settings["ignored_positions"] == []
    said = capsys.readouterr().out
    assert f"python {tmp_path / 'e' / 'dashboards.py'}" in said
    # which asks for SAEDashboard and nothing of this package
    script = (tmp_path / "e" / "dashboards.py").read_text()
    assert "sae_lens_meta" not in script
    if shutil.which("uv") is None:  # an environment of the developer's own may have it
        ran = subprocess.run(
            [sys.executable, tmp_path / "e" / "dashboards.py"],
            capture_output=True,
            text=True,
        )
        assert ran.returncode != 0 and "sae_dashboard" in ran.stderr


def changed(sae: Path, folder: Path, **metadata: Any) -> Path:
    shutil.copytree(sae, folder)
    cfg = json.loads((folder / "cfg.json").read_text())
    cfg["metadata"] |= metadata
    (folder / "cfg.json").write_text(json.dumps(cfg))
    return folder


def test_positions_and_tokens_that_an_sae_leaves_out_are_left_out(
    sae: Path, tmp_path: Path
) -> None:
    part = changed(
        sae, tmp_path / "part", seqpos_slice=[2, -1], exclude_special_tokens=[1, 7]
    )
    export(part, "saedashboard", tmp_path / "e", "--latents", "1")
    settings = json.loads((tmp_path / "e" / "export.json").read_text())
    assert settings["ignored_positions"] == [0, 1, CONTEXT - 1]
    assert settings["ignored_tokens"] == [1, 7]
    tokens = load_file(tmp_path / "e" / "tokens.safetensors")["tokens"]
    assert tokens.shape[1] == CONTEXT, "whole contexts, as the model needs them"


def test_what_cannot_be_exported_is_said_before_anything_is_written(
    sae: Path, tmp_path: Path
) -> None:
    def refused(sae: Path, match: str, *more: str, to: str = "neuronpedia") -> None:
        with pytest.raises(SystemExit, match=match):
            export(sae, to, tmp_path / "out", *more)
        assert not (tmp_path / "out").exists()

    refused(sae, "latents 0 to 95, and not 96, -1", "--latents", "96", "-1", "3")
    refused(sae, "latents 0 to 95, and not 96", "--latents", "96", to="delphi")
    other = changed(sae, tmp_path / "other", hook_name="model.layers.0.mlp")
    refused(other, "'model.layers.0.mlp', which has no name of a block")
    flat = changed(sae, tmp_path / "flat")
    weights = load_file(flat / "sae_weights.safetensors")
    weights["W_dec"][5] = 0
    save_file(weights, flat / "sae_weights.safetensors")
    refused(flat, "rows of the latents 5 of .* are 0")
    refused(tmp_path / "nowhere", "no folder .*nowhere")
    export(flat, "saedashboard", tmp_path / "out", "--latents", "1", "2")
    with pytest.raises(SystemExit, match="out holds files already.*--overwrite"):
        export(sae, "delphi", tmp_path / "out")
    export(sae, "delphi", tmp_path / "out", "--overwrite", "--latents", "1")


def test_text_that_ends_early_is_said(
    sae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.jsonl").write_text(
        "".join(
            json.dumps({"text": f"<b>word {i}</b> " * 200}) + "\n" for i in range(4)
        )
    )
    short = ["--dataset", str(tmp_path / "short.jsonl"), "--held_out_documents", "1"]
    export(sae, "saedashboard", tmp_path / "e", "--latents", "1", *short)
    said = " ".join(capsys.readouterr().out.split())
    n = load_file(tmp_path / "e" / "tokens.safetensors")["tokens"].numel()
    assert (
        0 < n < TOKENS and f"The text ended after {n:,} of {TOKENS:,} tokens." in said
    )


def test_latents_are_chosen_once_and_in_order(sae: Path) -> None:
    saved = SavedSAE.read(sae)
    assert ExportConfig(latents=[9, 2, 9]).latents_of(saved) == [2, 9]
    assert ExportConfig().latents_of(saved) == list(range(96))


@pytest.fixture(scope="module")
def peers() -> str:
    """The Python of an environment with the peers."""
    if PEERS is None:
        pytest.skip("PEERS_ENVIRONMENT names no environment")
    python = Path(PEERS) / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", PEERS], check=True)
        for packages in (
            ["torch==2.13.0"],  # first: a looser request may pull a second build
            ["sae-dashboard==0.8.0", "pyarrow<20", "asyncer", "orjson"],
            ["--no-deps", "eai-delphi==0.1.3"],
        ):
            subprocess.run(
                [python, "-m", "pip", "install", "-q", *packages], check=True
            )
    return str(python)


def test_neuronpedias_files_say_what_the_sae_does(
    sae: Path, tmp_path: Path, peers: str
) -> None:
    export(sae, "neuronpedia", tmp_path / "e", "--latents", *map(str, LATENTS))
    subprocess.run([peers, tmp_path / "e" / "dashboards.py"], check=True)
    assert len(LATENTS) < AT_A_TIME
    (path,) = (tmp_path / "e").glob("batch-*.json")
    found = json.loads(path.read_text())
    assert (found["layer"], found["sae_set"]) == (0, "an_sae")
    assert [f["feature_index"] for f in found["features"]] == LATENTS
    tokens, acts = codes(sae)
    acts = acts * SAE.load_from_disk(sae).W_dec.norm(dim=-1)  # which it folds in
    acts[tokens == 1] = 0  # special tokens, which it leaves out
    for feature in found["features"]:
        mine = acts[..., feature["feature_index"]]
        assert feature["frac_nonzero"] == pytest.approx(
            (mine > 0).double().mean().item(), abs=1e-5
        )
        top = [a for a in feature["activations"] if a["bin_min"] == -1]
        assert len(top) == 20
        strongest = mine.flatten().topk(20).values.tolist()
        shown = [a["values"][a["qualifying_token_index"]] for a in top]
        assert shown == pytest.approx(strongest, abs=2e-3)
        assert len(feature["pos_str"]) == len(feature["neg_str"]) == 10


def test_saedashboard_draws_every_latent(sae: Path, tmp_path: Path, peers: str) -> None:
    export(sae, "saedashboard", tmp_path / "e", "--latents", *map(str, LATENTS))
    subprocess.run([peers, tmp_path / "e" / "dashboards.py"], check=True)
    page = (tmp_path / "e" / "dashboards.html").read_text()
    assert all(f'"{latent}": {{"' in page for latent in LATENTS)


READ_BY_DELPHI = """
import json, sys
from unittest.mock import MagicMock

while True:  # of what it depends on, reading takes little
    try:
        from delphi.config import ConstructorConfig, SamplerConfig
        from delphi.latents.loader import LatentDataset
        break
    except ModuleNotFoundError as error:
        sys.modules[error.name] = MagicMock()
        for name in [name for name in sys.modules if name.partition(".")[0] == "delphi"]:
            del sys.modules[name]

folder, module = sys.argv[1:]
data = LatentDataset(folder, SamplerConfig(), ConstructorConfig(), modules=[module], tokenizer=MagicMock())
(buffer,) = data.buffers
latents, locations, activations = buffer.load_data_per_latent()
print(json.dumps({
    "tokens": buffer.tokens.tolist(),
    "latents": latents.tolist(),
    "sums": [float(of.double().sum()) for of in activations],
}))
"""


def test_delphi_reads_its_cache(sae: Path, tmp_path: Path, peers: str) -> None:
    export(sae, "delphi", tmp_path / "d")
    ran = subprocess.run(
        [peers, "-c", READ_BY_DELPHI, tmp_path / "d", HOOK],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    tokens, acts = codes(sae)
    assert found["tokens"] == tokens.tolist()
    sums = acts.double().sum(dim=(0, 1))
    assert (
        found["latents"] == sums.nonzero()[:, 0].tolist() and len(found["latents"]) > 20
    )
    assert found["sums"] == pytest.approx(sums[found["latents"]].tolist(), rel=1e-3)
