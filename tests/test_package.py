"""What the wheel holds and what the source does not say."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from sae_lens_meta.release_files import MAX_BUNDLED

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_wheel_carries_the_list_of_releases(tmp_path: Path) -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "-o",
            tmp_path,
            ROOT,
        ],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        releases = archive.read("sae_lens_meta/pretrained.yaml")
    assert releases == (ROOT / "pretrained.yaml").read_bytes()
    assert isinstance(yaml.safe_load(releases)["releases"], list)
    assert not [name for name in names if name.startswith("tests")]
    for name in (
        "recipes/metasae-gpt2l-l20.yaml",
        "publishing/card.md.jinja",
        "evaluation/report/report.html.jinja",
    ):
        assert f"sae_lens_meta/{name}" in names
    bundled = {name for name in names if name.startswith("sae_lens_meta/bundled/")}
    root = ROOT / "sae_lens_meta"
    assert bundled == {
        f"sae_lens_meta/{path.relative_to(root)}"
        for path in (root / "bundled").rglob("*")
        if path.is_file()
    }
    assert any(name.endswith("/sae_weights.safetensors") for name in bundled)
    assert wheel.stat().st_size <= MAX_BUNDLED


def test_library_is_imported_without_the_demos_own_packages() -> None:
    code = """
import sys
sys.modules["gguf"] = None
import sae_lens_meta
assert "rich.console" not in sys.modules or "sae_lens_meta.demo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
