"""Every tutorial is executed end to end, as a reader would, and ends with a picture."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# both come with what builds the site
pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

DOCS = Path(__file__).parents[1] / "docs"
EXECUTE = DOCS / "site" / "execute.py"
TUTORIALS = sorted(DOCS.glob("tutorials/*.ipynb"))
IDS = [path.stem for path in TUTORIALS]
PICTURE = "image/png"


def pictures(cell: Any) -> list[str]:
    return [o for o in cell.outputs if PICTURE in o.get("data", {})]


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.slow
@pytest.mark.usefixtures("smollm2_in_cache")
@pytest.mark.parametrize("path", TUTORIALS, ids=IDS)
def test_a_tutorial_runs_to_its_picture(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    copy = tmp_path / path.name
    notebook = nbformat.read(path, as_version=4)
    for cell in code(notebook):
        cell.outputs = []
    nbformat.write(notebook, copy)
    subprocess.run([sys.executable, EXECUTE, copy], check=True)
    assert pictures(code(nbformat.read(copy, as_version=4))[-1])


@pytest.mark.parametrize("path", TUTORIALS, ids=IDS)
def test_what_is_kept_of_a_tutorial_is_one_run_from_its_beginning(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    ran = [cell for cell in code(notebook) if cell.source]
    assert [cell.execution_count for cell in ran] == list(range(1, len(ran) + 1))
    assert pictures(ran[-1])
    kept = str(notebook)
    assert "Traceback" not in kept and str(Path.home()) not in kept
    assert len(IDS) == 5
