"""The main job, smaller: on the real model, and stopped and gone on from on a tiny one."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sae_lens import SAE
from safetensors.torch import load_file, save_file

import sae_lens_meta.cli.demo as demo
from sae_lens_meta.cli.demo import DemoConfig, run_demo
from sae_lens_meta.reproduce.training import finished_checkpoints
from sae_lens_meta.training.joint import MetaTrainingSAE
from tests.tiny_llama import CONTEXT, HOOK

ROOT = Path(__file__).parent.parent


def small(smollm2: Path, output: Path) -> DemoConfig:
    return DemoConfig(
        model=str(smollm2),
        tokens=60_000,
        d_sae=1024,
        batch_size=512,
        held_out_documents=4,
        eval_tokens=3072,
        output=output,
    )


@pytest.mark.slow
def test_penalty_acts_visibly(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "MAX_CE_TOKENS", 1024)
    quick = partial(demo.meta_explained_variance, n_steps=300, lr=2.5e-3)
    monkeypatch.setattr(demo, "meta_explained_variance", quick)
    console = Console(record=True, width=100)
    rows = run_demo(small(smollm2, tmp_path / "on"), console)
    joint, solo = rows["joint"], rows["solo"]
    assert joint.meta_explained_variance < solo.meta_explained_variance - 0.02
    for row in rows.values():
        assert row.reconstruction.l0 == pytest.approx(32, rel=0.08)
        assert 0.7 < row.model_cost.ce_loss_recovered < 1
        assert 0.4 < row.reconstruction.explained_variance < 1

    printed = console.export_text()
    assert f"{joint.reconstruction.normalized_l2:.4f}" in printed
    assert printed.count("of the joint SAE") == 5
    assert SAE.load_from_disk(tmp_path / "on" / "joint" / "meta").cfg.d_sae == 92


@pytest.fixture
def tiny(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DemoConfig:
    """79 steps, with a checkpoint after every eighth."""
    quick = partial(demo.meta_explained_variance, n_steps=5)
    monkeypatch.setattr(demo, "meta_explained_variance", quick)
    monkeypatch.setattr(demo, "MAX_CE_TOKENS", 256)
    return DemoConfig(
        model=str(model),
        hook=HOOK,
        tokens=20_000,
        d_sae=96,
        k=4,
        batch_size=256,
        context_size=CONTEXT,
        eval_tokens=512,
        output=tmp_path / "out",
    )


@pytest.mark.slow
def test_penalty_acts_only_when_it_is_on(tiny: DemoConfig, tmp_path: Path) -> None:
    console = Console(quiet=True)
    on = run_demo(tiny, console)
    without = replace(tiny, decomposability_coefficient=0, output=tmp_path / "off")
    off = run_demo(without, console)
    assert on["joint"] != on["solo"]
    assert off["joint"] == off["solo"] == on["solo"]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each step of the joint SAE."""
    taken: list[int] = []
    step = MetaTrainingSAE.training_forward_pass

    def counted(self: MetaTrainingSAE, step_input: Any) -> Any:
        if self.meta_sae is not None:
            taken.append(step_input.n_training_steps)
        return step(self, step_input)

    monkeypatch.setattr(MetaTrainingSAE, "training_forward_pass", counted)
    return taken


def in_another_process(cfg: DemoConfig) -> subprocess.Popen[str]:
    options = [f"--{name}={value}" for name, value in vars(cfg).items()]
    code = "from sae_lens_meta.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "demo", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_demo_that_is_stopped_is_gone_on_from_by_the_same_call(
    tiny: DemoConfig,
    steps: list[int],
    number: signal.Signals,
    capfd: pytest.CaptureFixture[str],
) -> None:
    checkpoints = tiny.output / "checkpoints"
    process = in_another_process(tiny)
    while not finished_checkpoints(checkpoints):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, printed = process.communicate()
    assert process.returncode != 0
    kept = max(finished_checkpoints(checkpoints))
    assert 0 < kept < tiny.tokens
    if number != signal.SIGKILL:
        last = printed.strip().splitlines()[-1]
        assert f"Stopped by {number.name} after {kept:,} tokens" in last
        assert "Traceback" not in printed
    with pytest.raises(ValueError, match="holds a run with tokens 20000; this one has"):
        run_demo(replace(tiny, tokens=30_000), Console(quiet=True))

    capfd.readouterr()
    rows = run_demo(tiny, Console(quiet=True))
    assert len(steps) == 79 - kept // tiny.batch_size
    first, *others = re.findall(r"\| (\d+)/20000 \[", capfd.readouterr().err)
    assert int(first) == 0 and min(map(int, others)) > kept, "the bar goes on too"
    assert int(others[-1]) == 20_000
    assert set(rows) == {"joint", "solo"}
    assert not checkpoints.exists()


@pytest.mark.slow
def test_a_finished_demo_shows_its_figures_again_and_is_overwritten_by_none(
    tiny: DemoConfig,
    steps: list[int],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    text = tmp_path / "docs.jsonl"
    documents = [f"The document {i} has words of its own. " * 40 for i in range(13)]
    lines = [json.dumps({"text": document}) for document in documents]
    text.write_text("\n".join(lines))
    cfg = replace(tiny, dataset=str(text), tokens=1024)  # more than one document has
    rows = run_demo(cfg, Console(quiet=True))
    assert len(steps) == 4
    shown = capfd.readouterr().err
    assert shown.count("| 0/1024 [") == 1, "one bar, and none over another"
    assert "| 1024/1024 [" in shown
    assert not [w for w in recwarn if issubclass(w.category, UserWarning)]
    assert "Loading weights" not in shown
    assert SAE.load_from_disk(cfg.output / "solo").cfg.metadata.held_out == {
        "documents": 12,
        "text_seed": 42,
    }

    console = Console(record=True, width=100)
    assert run_demo(cfg, console) == rows
    printed = console.export_text()
    assert "out holds this run, which is finished" in " ".join(printed.split())
    assert "tokens held out from training, every token" in printed
    record = json.loads((cfg.output / "demo.json").read_text())
    assert record["source"]["dataset"] == str(text)
    assert record["source"]["seen"] == "held out"
    assert f"{rows['joint'].reconstruction.normalized_l2:.4f}" in printed
    # what was said of the figures belongs to them
    record["source"]["warnings"] = ["The text ended early."]
    (cfg.output / "demo.json").write_text(json.dumps(record))
    again = Console(record=True, width=100)
    run_demo(cfg, again)
    assert "The text ended early." in again.export_text()

    for changes, message in [
        ({"lr": 2e-3}, "holds a run with lr 0.001; this one has 0.002"),
        ({"dataset": "pydoc"}, "holds a run with dataset '.*docs.jsonl'"),
    ]:
        with pytest.raises(ValueError, match=message):
            run_demo(replace(cfg, **changes), console)
    text.write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match="holds a run with text_sha256"):
        run_demo(cfg, console)
    assert len(steps) == 4


def test_a_demo_touches_no_folder_of_another_run(tiny: DemoConfig) -> None:
    (tiny.output / "joint").mkdir(parents=True)
    weights = tiny.output / "joint" / "sae_weights.safetensors"
    weights.write_text("of a larger run")
    with pytest.raises(ValueError, match="joint exists, .* it is of another run"):
        run_demo(tiny, Console(quiet=True))
    assert weights.read_text() == "of a larger run"


@pytest.mark.slow
def test_the_model_runs_on_no_token_twice_and_changed_weights_are_told(
    tiny: DemoConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "MAX_CE_TOKENS", 4096)
    console = Console(record=True, width=100)
    rows = run_demo(tiny, console)
    for row in rows.values():
        assert row.model_cost.n_tokens <= row.reconstruction.n_tokens == 512
    assert "CE and KL are of the first 512 tokens" in console.export_text()
    run_demo(tiny, console)
    assert "changed since" not in console.export_text()
    weights = tiny.output / "joint" / "sae_weights.safetensors"
    tensors = load_file(weights)
    tensors["threshold"] *= 3
    save_file(tensors, weights)
    run_demo(tiny, console)
    shown = " ".join(console.export_text().split())
    assert "out/joint were changed since" in shown and "out/solo were" not in shown
