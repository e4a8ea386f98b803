"""Runs another package's module with the architectures and the releases of this one registered."""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

USAGE = """usage: sae-lens-meta run MODULE [ARGUMENT ...]

Runs MODULE as `python -m MODULE ARGUMENT ...` would, with the architectures and the releases of
sae-lens-meta registered in SAELens. SAELens finds plugins by import alone, so that a command of
another package does not know of them: `sae-lens-meta run sae_bench.evals.core.main ...` does."""


def run(args: list[str]) -> None:
    """
    Registers, then hands over to the module.

    Raises:
        ValueError: if there is no such module.
    """
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)  # noqa: T201
        raise SystemExit(0)
    module, *arguments = args
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    if not _exists(module):
        raise ValueError(
            f"There is no module {module!r} in this environment. Install the package that has it "
            "beside sae-lens-meta, or run this from its folder."
        )
    import sae_lens  # noqa: F401 - registers the plugin, which waits for it

    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False
