"""Lets a judge explain latents of one or two saved SAEs, and scores its explanations."""

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from tyro.conf import UseAppendAction

from sae_lens_meta.activations.measured_on import SourceConfig
from sae_lens_meta.autointerp import AutointerpConfig, autointerp, check_number
from sae_lens_meta.autointerp.openai_judge import OpenAIJudge
from sae_lens_meta.autointerp.results import (
    FILENAME,
    AutoInterpretation,
    autointerp_table,
    check_same_subjects,
    show_difference,
    show_pairs,
    show_usage,
)
from sae_lens_meta.cli.options import parse
from sae_lens_meta.cli.said import say
from sae_lens_meta.comparison.run import check_measured
from sae_lens_meta.destination import held
from sae_lens_meta.report.scores import add_scores
from sae_lens_meta.zoo.names import sae_folder


@dataclass
class Autointerp:
    """
    Lets a judge explain latents of one or two saved SAEs, and scores its explanations.

    Args:
        sae (list[str]): NAME=FOLDER or NAME=RELEASE; give it once or twice.
        judge_url (str): Of an OpenAI-compatible server, for instance http://127.0.0.1:8000/v1.
        judge_model (str): Its name there.
        comparison (Path | None): Output of `compare` to add the scores to.
    """

    sae: UseAppendAction[list[str]]
    judge_url: str
    judge_model: str
    comparison: Path | None = None
    config: AutointerpConfig = field(default_factory=AutointerpConfig)
    source: SourceConfig = field(default_factory=SourceConfig)

    def paths(self) -> dict[str, str]:
        """Folders or releases by the names to show them under."""
        paths = {}
        for one in self.sae:
            name, equals, path = one.partition("=")
            if not equals or not name or name in paths:
                raise ValueError(
                    f"--sae takes NAME=FOLDER or NAME=RELEASE, each name once; got {one!r}. For "
                    "instance --sae joint=demo_out/joint."
                )
            paths[name] = path
        return paths


def run(args: list[str]) -> None:
    """Asks the judge, prints the scores, and adds them to a comparison where one is given."""
    given = parse(Autointerp, "autointerp", args)
    cfg, source, paths = given.config, given.source, given.paths()
    check_number(paths)  # before a name is looked up, or its release fetched
    if given.comparison:
        check_measured([sae_folder(path) for path in paths.values()], given.comparison)
    with held(cfg.output):
        folders = {name: sae_folder(path) for name, path in paths.items()}
        check_same_subjects(cfg.output, given.judge_model, folders)
        judge = OpenAIJudge(given.judge_url, given.judge_model)
        found = autointerp(paths, judge, cfg, source)
    console = Console()
    _show(found, cfg, console)
    console.print(f"Written: {cfg.output / FILENAME}")
    if given.comparison:
        with held(given.comparison):
            add_scores(found, given.comparison)
        console.print(f"Written: {given.comparison / 'comparison.json'} and its report")


def _show(
    found: AutoInterpretation,
    cfg: AutointerpConfig,
    console: Console,
) -> None:
    say(found.source.notes, found.source.warnings, console)
    console.print(autointerp_table(found))
    for difference in found.differences:
        console.print(show_difference(difference))
    if found.pair_cosines:
        console.print(show_pairs(found.pair_cosines))
    for sae in found.saes:
        if len(sae.latents) < cfg.latents:
            console.print(
                f"{sae.name}: {len(sae.latents)} of {cfg.latents} latents; {sae.n_left_out} "
                "that were drawn fire in too few windows, or are silent in too few."
            )
    console.print(show_usage(found.usage))
