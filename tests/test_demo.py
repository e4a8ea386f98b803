"""The main job, smaller, on the real model."""

from pathlib import Path

import pytest
from rich.console import Console
from sae_lens import SAE

import sae_lens_meta.demo as demo
from sae_lens_meta.demo import DemoConfig, run_demo


def small(smollm2: Path, output: Path, **changes: float) -> DemoConfig:
    return DemoConfig(
        model=str(smollm2),
        tokens=60_000,
        d_sae=1024,
        batch_size=512,
        held_out_documents=4,
        eval_tokens=3072,
        output=output,
        **changes,  # type: ignore[arg-type]
    )


@pytest.mark.slow
def test_penalty_acts_visibly_and_only_when_it_is_on(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "MAX_CE_TOKENS", 1024)
    console = Console(record=True, width=100)
    rows = run_demo(small(smollm2, tmp_path / "on"), console)
    joint, solo = rows["joint"], rows["solo"]
    assert joint.meta_explained_variance < solo.meta_explained_variance - 0.02
    for row in rows.values():
        assert row.reconstruction.l0 == pytest.approx(32, rel=0.08)
        assert 0.7 < row.ce_loss_recovered < 1
        assert 0.4 < row.reconstruction.explained_variance < 1

    printed = console.export_text()
    assert f"{joint.reconstruction.normalized_l2:.4f}" in printed
    assert printed.count("of the joint SAE") == 5
    assert SAE.load_from_disk(tmp_path / "on" / "joint" / "meta").cfg.d_sae == 92

    off = run_demo(
        small(smollm2, tmp_path / "off", decomposability_coefficient=0), console
    )
    assert off["joint"] == off["solo"]
    assert off["solo"].meta_explained_variance == pytest.approx(
        solo.meta_explained_variance, abs=1e-6
    )
