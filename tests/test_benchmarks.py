"""Benchmarks, which nobody runs every day, still fit the code that they measure."""

from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import launches, shapes, step
from benchmarks.shapes import Shape

FOLDER = Path(__file__).parent.parent / "benchmarks"
TINY = Shape(d_in=16, d_sae=128, meta_d_sae=16, k=4, meta_k=2, batch=64)


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("[a-z]*.py")))
def test_it_imports(name: str) -> None:
    if (
        name == "decompose_example"
    ):  # of SAELens's bridge, which TransformerLens 2 has no room for
        pytest.importorskip("transformer_lens.model_bridge")
    assert import_module(f"benchmarks.{name}").__doc__


def test_a_step_is_timed_with_each_of_its_stages(
    capsys: pytest.CaptureFixture[str],
) -> None:
    step.time_shape("tiny", TINY, 1, "cpu", False)
    printed = capsys.readouterr().out
    for kind in shapes.KINDS:
        assert f"{kind} " in printed
    joint = next(line for line in printed.splitlines() if line.startswith("joint: "))
    for stage in ("penalty", "encode", "select", "decode", "backward", "optimizer"):
        assert f"{stage} " in joint
    assert "joint: meta phase" in printed
    step.time_shape("tiny", TINY, 1, "cpu", False, ("solo", "cycle"))
    some = capsys.readouterr().out
    assert "cycle / solo: " in some and "stock" not in some and "joint" not in some
    step.time_shape("tiny", TINY, 1, "cpu", False, ("solo", *shapes.PENALTIES))
    penalties = capsys.readouterr().out
    assert all(f"{penalty} / solo: " in penalties for penalty in shapes.PENALTIES)


def test_launches_are_counted_by_kind_of_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    launches.count_shape("tiny", TINY, "cpu")
    rows = [line.split("|")[2:4] for line in capsys.readouterr().out.splitlines()[-5:]]
    assert [(kind.strip(), due.strip()) for kind, due in rows] == [
        ("solo", ""),
        ("joint", ""),
        ("joint", "yes"),
        ("cycle", ""),
        ("cycle", "yes"),
    ]
