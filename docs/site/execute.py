"""
Executes notebooks in place, each from its beginning, and keeps what a reader wants to see.

    python docs/site/execute.py NOTEBOOK...

What libraries say on stderr is left out, and so are bars that live only in a running notebook.
"""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient

TIMEOUT = 900  # seconds, of a cell
WIDGET = "application/vnd.jupyter.widget-view+json"


def execute(path: Path) -> None:
    """Executes the notebook at `path` in an empty folder, and writes its outputs into it."""
    notebook = nbformat.read(path, as_version=4)
    with TemporaryDirectory() as folder:
        NotebookClient(
            notebook,
            timeout=TIMEOUT,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
        ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times, which would differ at every call
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _is_shown(output)]
    nbformat.write(notebook, path)


def _is_shown(output: Any) -> bool:
    if output.output_type == "stream":
        return output.name != "stderr"
    return WIDGET not in output.get("data", {})


for notebook in sys.argv[1:]:
    start = time.perf_counter()
    execute(Path(notebook))
    print(f"{notebook}: {time.perf_counter() - start:.0f} s", flush=True)
