"""What the wheel holds and what the source does not say."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from sae_lens_meta.zoo.files import MAX_BUNDLED

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
        releases = archive.read("sae_lens_meta/zoo/pretrained.yaml")
    assert releases == (ROOT / "pretrained.yaml").read_bytes()
    assert isinstance(yaml.safe_load(releases)["releases"], list)
    assert not [name for name in names if name.startswith("tests")]
    for name in (
        "reproduce/recipes/metasae-gpt2l-l20.yaml",
        "publishing/card.md.jinja",
        "report/report.html.jinja",
    ):
        assert f"sae_lens_meta/{name}" in names
    bundled = {name for name in names if name.startswith("sae_lens_meta/zoo/bundled/")}
    root = ROOT / "sae_lens_meta"
    assert bundled == {
        f"sae_lens_meta/{path.relative_to(root)}"
        for path in (root / "zoo" / "bundled").rglob("*")
        if path.is_file()
    }
    assert any(name.endswith("/sae_weights.safetensors") for name in bundled)
    assert wheel.stat().st_size <= MAX_BUNDLED


@pytest.mark.slow
def test_library_is_imported_without_the_demos_own_packages() -> None:
    code = """
import sys
sys.modules["gguf"] = None
import sae_lens_meta
assert "rich.console" not in sys.modules or "sae_lens_meta.cli.demo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_objective_is_read_in_five_minutes() -> None:
    files = ("config.py", "penalty.py", "decomposability.py", "meta_sae.py")
    training = ROOT / "sae_lens_meta" / "training"
    texts = [(training / name).read_text() for name in files]
    assert sum(len(text.splitlines()) for text in texts) < 500


def test_the_lowest_versions_promised_are_those_that_are_tested() -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    # the checks and the site are not run there
    tested_extras = [of for name, of in extras.items() if name not in ("check", "docs")]
    asked = [*project["dependencies"], *(one for of in tested_extras for one in of)]
    floors = {
        requirement.name: Version(specifier.version)
        for requirement in map(Requirement, asked)
        for specifier in requirement.specifier
        if specifier.operator == ">="
    }
    lines = (ROOT / "tests" / "lowest.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if "==" in line]
    tested = {name: Version(version) for name, version in pins}
    for name in floors.keys() - {"torch"}:  # which the Makefile pins
        assert tested[name] == floors[name], name


@pytest.mark.slow
@pytest.mark.parametrize(
    "making",
    [
        """
from sae_lens_meta.training.implied_overlap import ImpliedOverlap
counted = ImpliedOverlap(8)
for _ in range(100):
    counted.count(torch.eye(8))
""",
        """
from sae_lens_meta.training.backend.interface import Sums, csr
csr(Sums(torch.ones(2), torch.tensor([0, 1]), torch.tensor([0, 1, 2])), 2)
""",
        """
from sae_lens_meta.decomposition.decompose import decomposition
found = decomposition("metasae-smollm2-135m-instruct-l11")
found.shares, found.latents_of(0)
""",
    ],
    ids=["implied overlap", "backend", "decomposition"],
)
def test_torchs_advice_on_sparse_tensors_reaches_no_user(making: str) -> None:
    # once in a process: each in one of its own
    code = f"import torch\n{making}"
    subprocess.run([sys.executable, "-W", "error:Sparse", "-c", code], check=True)
