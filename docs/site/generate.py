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


def api() -> str:
    """What the package exports."""
    paths = [f"sae_lens_meta.{home}.{n}" for n, home in sae_lens_meta._HOMES.items()]
    return "# Python\n\n" + "".join(f"::: {path}\n\n" for path in paths)


for page, made in {
    "releases.md": releases,
    "commands.md": commands,
    "api.md": api,
}.items():
    with mkdocs_gen_files.open(page, "w") as file:
        file.write(made())
