"""Pages of the site that are made from the code: releases, commands, what Python callers use."""

import contextlib
import io
import os
from importlib import import_module

os.environ |= {"COLUMNS": "96", "NO_COLOR": "1", "TERM": "dumb"}

import mkdocs_gen_files  # noqa: E402
import sae_lens  # noqa: E402, F401

import sae_lens_meta  # noqa: E402
from sae_lens_meta.cli import COMMANDS  # noqa: E402
from sae_lens_meta.zoo.names import releases_table  # noqa: E402


def releases() -> str:
    """The zoo's table, as `sae-lens-meta list` has it."""
    table = releases_table(sae_lens_meta.list_pretrained())
    header = [str(column.header) for column in table.columns]
    rows = zip(*(column.cells for column in table.columns), strict=True)
    lines = [header, ["---"] * len(header), *(map(str, row) for row in rows)]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"# Releases\n\nMade from `pretrained.yaml`: what `sae-lens-meta list` prints.\n\n{body}\n"


def commands() -> str:
    """Every command's help."""
    parts = ["# Commands\n\n`sae-lens-meta COMMAND --help` prints the same.\n"]
    for name in COMMANDS:
        parts.append(f"## {name}\n\n```text\n{_help(name)}\n```\n")
    return "\n".join(parts)


def _help(name: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        import_module(f"sae_lens_meta.cli.{name}").run(["--help"])
    return printed.getvalue().strip()


# what Python callers use of each room, beside what the package exports
ROOMS = {
    "Measure": (
        "activations.measured_on.SourceConfig",
        "measures.evaluate.evaluate",
        "measures.calibration.calibrate",
    ),
    "Compare": (
        "comparison.config.CompareConfig",
        "comparison.run.compare",
        "report.report.write_report",
    ),
    "Take apart": (
        "decomposition.decompose.decomposition",
        "decomposition.decompose.checked",
        "decomposition.fit.FitSettings",
        "decomposition.decomposition.Decomposition",
        "decomposition.steering.without_part",
        "decomposition.steering.steered",
        "atlas.atlas.make_atlas",
    ),
    "Hold against what is known": (
        "probing.config.ProbeConfig",
        "probing.run.probe",
        "known_truth.study.StudyConfig",
        "known_truth.study.run_study",
    ),
    "Share": (
        "publishing.publish.PublishConfig",
        "publishing.publish.publish",
        "reproduce.reproduce.ReproduceConfig",
        "reproduce.reproduce.reproduce",
        "reproduce.several.reproduce_several",
    ),
}


def api() -> str:
    """What the package exports, and what callers use of its rooms."""
    exported = [f"{home}.{name}" for name, home in sae_lens_meta._HOMES.items()]
    parts = ["# Python\n"]
    for heading, paths in {"Train and load": exported, **ROOMS}.items():
        parts.append(f"## {heading}\n")
        parts += [f"::: sae_lens_meta.{path}\n" for path in paths]
    return "\n".join(parts)


for page, made in {
    "releases.md": releases,
    "commands.md": commands,
    "api.md": api,
}.items():
    with mkdocs_gen_files.open(page, "w") as file:
        file.write(made())
