"""Holds groups of SAEs against each other: comparison.json and report.html."""

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from tyro.conf import UseAppendAction

from sae_lens_meta.activations.measured_on import SourceConfig
from sae_lens_meta.cli.options import named_groups, parse
from sae_lens_meta.cli.said import say
from sae_lens_meta.comparison.config import CompareConfig, Settings
from sae_lens_meta.comparison.members import EQUAL_L2, JOINT, SOLO
from sae_lens_meta.comparison.run import compare
from sae_lens_meta.comparison.table import comparison_table
from sae_lens_meta.destination import held
from sae_lens_meta.report import write_report

Paths = UseAppendAction[list[list[Path]]]


@dataclass
class Compare:
    """
    Holds groups of SAEs against each other: comparison.json and report.html.

    Args:
        sae (list): A group of SAEs: NAME=FOLDER FOLDER ...; seeds of one setting.
        baseline (str): The group that the others are held against; three or more seeds for an
            effect to be claimed.
        control (str | None): The group that is the baseline brought to the L2 and L0 of the others,
            which tells what worse reconstruction alone does.
        joint (list): Folders of joint SAEs, of one or several settings: a group of that name.
        solo (list): Folders of solo SAEs trained on the same tokens: a group of that name.
        solo_equal_l2 (list): Folders of solo SAEs brought to the L2 and L0 of the joint ones.
    """

    sae: UseAppendAction[list[list[str]]] = field(default_factory=list)
    baseline: str = SOLO
    control: str | None = EQUAL_L2
    joint: Paths = field(default_factory=list)
    solo: Paths = field(default_factory=list)
    solo_equal_l2: Paths = field(default_factory=list)
    settings: Settings = field(default_factory=Settings)
    source: SourceConfig = field(default_factory=SourceConfig)

    def groups(self) -> dict[str, list[Path]]:
        """Folders by group."""
        named = named_groups(self.sae)
        found = {name: list(map(Path, paths)) for name, paths in named.items()}
        shorthands = {SOLO: self.solo, EQUAL_L2: self.solo_equal_l2, JOINT: self.joint}
        for name, given in shorthands.items():
            if paths := [path for one in given for path in one]:
                found.setdefault(name, []).extend(paths)
        return found


def run(args: list[str]) -> None:
    """Compares, prints the table and the verdict, and writes the report."""
    given = parse(Compare, "compare", args)
    cfg = CompareConfig(
        **vars(given.settings),
        groups=given.groups(),
        baseline=given.baseline,
        control=given.control,
    )
    comparison = compare(cfg, given.source)
    with held(cfg.output):
        write_report(comparison, cfg.output / "report.html")
    console = Console()
    console.print(comparison_table(comparison))
    say(comparison.source.notes, comparison.warnings, console)
    for sentence in comparison.verdict:
        console.print(sentence)
    if comparison.split_counts:
        console.print(comparison.split_counts.sentence())
    files = ("comparison.json", "report.html")
    console.print("See " + " and ".join(str(cfg.output / name) for name in files))
