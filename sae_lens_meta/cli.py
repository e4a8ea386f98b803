"""The command line: parses, calls one function, prints."""

import sys
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path

from datasets.exceptions import DatasetsError
from rich.console import Console
from sae_lens import SAE, LanguageModelSAETrainingRunner
from sae_lens.llm_sae_training_runner import _parse_cfg_args
from simple_parsing import ArgumentParser

from sae_lens_meta.calibration import calibrate
from sae_lens_meta.checks import (
    check_dataset,
    check_hook,
    check_resume,
    warn_of_slow_meta_sae,
)
from sae_lens_meta.demo import DemoConfig, run_demo
from sae_lens_meta.evaluation.autointerp import (
    AutointerpConfig,
    autointerp,
)
from sae_lens_meta.evaluation.autointerp.asking import LimitReached
from sae_lens_meta.evaluation.autointerp.judge import OpenAIJudge
from sae_lens_meta.evaluation.autointerp.results import (
    FILENAME,
    autointerp_table,
    show_difference,
    show_usage,
)
from sae_lens_meta.evaluation.compare import (
    CompareConfig,
    add_autointerp,
    check_measured,
    compare,
)
from sae_lens_meta.evaluation.comparison import comparison_table
from sae_lens_meta.evaluation.evaluate import evaluate, evaluation_table
from sae_lens_meta.evaluation.source import SourceConfig, load_source, regroup
from sae_lens_meta.publishing.publish import PublishConfig, publish
from sae_lens_meta.reproduce.reproduce import ReproduceConfig, reproduce
from sae_lens_meta.zoo import list_pretrained, releases_table, sae_folder


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `sae-lens-meta`; a wrong value ends it with a line, not a trace."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        _dispatch([_underscored(arg) for arg in args])
    except (ValueError, OSError, ArgumentError, DatasetsError, LimitReached) as error:
        raise SystemExit(f"sae-lens-meta: {error}") from error


def _underscored(arg: str) -> str:
    """SAELens's options have underscores; the Hub's own, dashes: both are understood."""
    name, equals, value = arg.partition("=")
    if name.startswith("--"):
        name = "--" + name[2:].replace("-", "_")
    return name + equals + value


def train(args: list[str]) -> None:
    """SAELens's own training command line, `meta` being its default architecture."""
    if not any(a.split("=")[0] in ("--architecture", "--sae") for a in args):
        args = ["--architecture", "meta", *(args or ["--help"])]
    cfg = _parse_cfg_args(args)
    check_resume(cfg)
    warn_of_slow_meta_sae(cfg)
    if not cfg.use_cached_activations:
        check_dataset(cfg.dataset_path, cfg.streaming)
    runner = LanguageModelSAETrainingRunner(cfg)
    check_hook(runner.model, cfg)
    runner.run()


def calibrate_saved(path: Path, source: SourceConfig, rule: str, batch: int) -> None:
    """Gives a saved JumpReLU SAE one threshold per latent and writes it back."""
    sae = SAE.load_from_disk(path, source.device)
    activations = load_source(source, sae).stream(sae, source.tokens)
    report = calibrate(sae, regroup(activations, batch), rule=rule)  # type: ignore[arg-type]
    sae.save_model(path)
    console = Console()
    for name, value in vars(report).items():
        console.print(f"{name:>14}  {value}")


def evaluate_saved(
    name: str,
    source: SourceConfig,
    ce_tokens: int,
    output: Path | None,
    shift_null: bool,
) -> None:
    """Measures a saved SAE and writes evaluation.json beside it, or for a release, here."""
    path = sae_folder(name)
    sae = SAE.load_from_disk(path, source.device)
    loaded = load_source(source, sae)
    result = evaluate(
        Path(name).name, sae, loaded, source.tokens, ce_tokens, shift_null
    )
    console = Console()
    console.print(evaluation_table([result]))
    is_release = not Path(name).is_dir()
    target = output or (Path() if is_release else path) / "evaluation.json"
    result.save(target)
    console.print(f"Written: {target}")


def compare_saved(cfg: CompareConfig, source: SourceConfig) -> None:
    """Holds joint SAEs against solo ones: comparison.json and report.html."""
    comparison = compare(cfg, source)
    console = Console()
    console.print(comparison_table(comparison))
    for warning in comparison.warnings:
        console.print(f"[yellow]Warning:[/yellow] {warning}")
    for sentence in comparison.verdict:
        console.print(sentence)
    if comparison.split_counts:
        console.print(comparison.split_counts.sentence())
    files = ("comparison.json", "report.html")
    console.print("Written: " + ", ".join(str(cfg.output / name) for name in files))


def interpret_saved(
    named: list[str],
    url: str,
    model: str,
    cfg: AutointerpConfig,
    source: SourceConfig,
    comparison: Path | None,
) -> None:
    """Lets a judge explain latents of one or two saved SAEs, and scores its explanations."""
    paths = {}
    for one in named:
        name, equals, path = one.partition("=")
        if not equals or not name or name in paths:
            raise ValueError(
                f"--sae takes NAME=PATH, each name once; got {one!r}. For instance --sae "
                "joint=demo_out/joint."
            )
        paths[name] = Path(path)
    if comparison:
        check_measured(paths.values(), comparison)
    found = autointerp(paths, OpenAIJudge(url, model), cfg, source)
    console = Console()
    console.print(autointerp_table(found))
    for difference in found.differences:
        console.print(show_difference(difference))
    for sae in found.saes:
        if len(sae.latents) < cfg.latents:
            console.print(
                f"{sae.name}: {len(sae.latents)} of {cfg.latents} latents; {sae.n_left_out} "
                "that were drawn fire in too few windows, or are silent in too few."
            )
    console.print(show_usage(found.usage))
    console.print(f"Written: {cfg.output / FILENAME}")
    if comparison:
        add_autointerp(found, comparison)
        console.print(f"Written: {comparison / 'comparison.json'} and its report")


def list_releases(pattern: str) -> None:
    """The releases that `SAE.from_pretrained` knows by name."""
    Console().print(releases_table(list_pretrained(pattern)))


def _dispatch(args: list[str]) -> None:
    if args[:1] == ["train"]:
        return train(args[1:])
    parser = ArgumentParser(prog="sae-lens-meta", description="MetaSAEs for SAELens.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("train", help=train.__doc__)
    demo = commands.add_parser("demo", help=run_demo.__doc__)
    demo.add_arguments(DemoConfig, dest="config")
    calibration = commands.add_parser("calibrate", help=calibrate_saved.__doc__)
    calibration.add_argument("--rule", choices=["rate", "equal_error"], default="rate")
    calibration.add_argument(
        "--batch", type=int, default=4096, help="tokens that BatchTopK selects over"
    )
    evaluation = commands.add_parser("evaluate", help=evaluate_saved.__doc__)
    evaluation.add_argument("--output", type=Path, help="where to write the figures")
    evaluation.add_argument(
        "--ce_tokens", type=int, default=4096, help="tokens to run the whole model on"
    )
    evaluation.add_argument(
        "--shift_null",
        action="store_true",
        help="also count which latents fire together in two different contexts: what bursts "
        "and positions alone give mean |phi|; takes 4 bytes a pair more",
    )
    interpreting = commands.add_parser("autointerp", help=interpret_saved.__doc__)
    interpreting.add_argument(
        "--sae", action="append", required=True, help="NAME=PATH; give it once or twice"
    )
    interpreting.add_argument(
        "--judge_url", required=True, help="for instance http://127.0.0.1:8000/v1"
    )
    interpreting.add_argument("--judge_model", required=True, help="its name there")
    interpreting.add_argument(
        "--comparison", type=Path, help="output of `compare` to add the scores to"
    )
    interpreting.add_arguments(AutointerpConfig, dest="config")
    interpreting.add_arguments(SourceConfig, dest="source")
    listing = commands.add_parser("list", help=list_releases.__doc__)
    listing.add_argument(
        "pattern", nargs="?", default="*", help="for instance 'metasae-*'"
    )
    publishing = commands.add_parser("publish", help=publish.__doc__)
    publishing.add_argument("path", type=Path, help="folder of the joint SAE")
    publishing.add_arguments(PublishConfig, dest="config")
    reproducing = commands.add_parser("reproduce", help=reproduce.__doc__)
    reproducing.add_argument(
        "name", metavar="NAME", help="of a release with a recipe, or of a file"
    )
    reproducing.add_arguments(ReproduceConfig, dest="config")
    comparison = commands.add_parser("compare", help=compare_saved.__doc__)
    comparison.add_arguments(CompareConfig, dest="config")
    comparison.add_arguments(SourceConfig, dest="source")
    calibration.add_argument("path", type=Path, help="folder of the saved SAE")
    evaluation.add_argument(
        "name", metavar="NAME", help="folder of the saved SAE, or of a release"
    )
    for command in (calibration, evaluation):
        command.add_arguments(SourceConfig, dest="source")
    parsed = parser.parse_args(args)
    if parsed.command == "demo":
        run_demo(parsed.config, Console())
    elif parsed.command == "calibrate":
        calibrate_saved(parsed.path, parsed.source, parsed.rule, parsed.batch)
    elif parsed.command == "list":
        list_releases(parsed.pattern)
    elif parsed.command == "autointerp":
        interpret_saved(
            parsed.sae,
            parsed.judge_url,
            parsed.judge_model,
            parsed.config,
            parsed.source,
            parsed.comparison,
        )
    elif parsed.command == "publish":
        publish(parsed.path, parsed.config, Console())
    elif parsed.command == "reproduce":
        reproduce(parsed.name, parsed.config, Console())
    elif parsed.command == "compare":
        compare_saved(parsed.config, parsed.source)
    else:
        evaluate_saved(
            parsed.name,
            parsed.source,
            parsed.ce_tokens,
            parsed.output,
            parsed.shift_null,
        )
    return None
