"""Holds the latents of saved SAEs against known labels of the tokens: probe.json and probe.svg."""

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from tyro.conf import Positional, UseAppendAction

from sae_lens_meta.activations.measured_on import SourceConfig
from sae_lens_meta.cli.options import named_groups, parse
from sae_lens_meta.cli.said import say
from sae_lens_meta.destination import check_new, held
from sae_lens_meta.probing.config import ProbeConfig
from sae_lens_meta.probing.result import FILENAME
from sae_lens_meta.probing.run import probe
from sae_lens_meta.probing.table import (
    difference_sentences,
    labels_table,
    summary_table,
)
from sae_lens_meta.report.probe_plot import PLOT, draw_probe
from sae_lens_meta.saved import short_names


@dataclass
class Probe:
    """
    Holds the latents of saved SAEs against known labels of the tokens: probe.json and probe.svg.

    Args:
        names (list): Folders of saved SAEs, or names of releases, each by itself.
        sae (list): A group of SAEs: NAME=FOLDER FOLDER ...; seeds of one setting. The first group is
            what the others are held against.
    """

    names: Positional[tuple[str, ...]] = ()
    sae: UseAppendAction[list[list[str]]] = field(default_factory=list)
    config: ProbeConfig = field(default_factory=ProbeConfig)
    source: SourceConfig = field(default_factory=lambda: SourceConfig(tokens=40_000))

    def groups(self) -> dict[str, list[str]]:
        """Folders and releases by group; one that is given alone is a group of its own."""
        alone = short_names([Path(name) for name in self.names])
        named = named_groups(self.sae)
        if twice := set(alone) & named.keys():
            raise ValueError(
                f"{', '.join(sorted(twice))}: a group has the name of an SAE that is given alone. "
                "Give another name."
            )
        return {name: [path] for name, path in zip(alone, self.names)} | named


def run(args: list[str]) -> None:
    """Probes, prints the tables, and writes the figures and the plot."""
    given = parse(Probe, "probe", args)
    cfg, groups = given.config, given.groups()
    target = cfg.output / FILENAME
    check_new(target, cfg.overwrite)
    with held(cfg.output):
        found = probe(groups, cfg, given.source)
        found.save(cfg.output)
        draw_probe(found, cfg.output / PLOT)
    console = Console()
    say(found.source.notes, found.warnings, console)
    console.print(labels_table(found))
    console.print(summary_table(found))
    for sentence in difference_sentences(found):
        console.print(sentence)
    console.print(f"Written: {target} and {cfg.output / PLOT}")
