"""The command line: parses, calls one function, prints."""

import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from inspect import getdoc
from pathlib import Path
from typing import Any

from datasets.exceptions import DatasetsError
from rich.console import Console
from sae_lens import LanguageModelSAETrainingRunner
from sae_lens.constants import SAE_WEIGHTS_FILENAME
from sae_lens.llm_sae_training_runner import _parse_cfg_args
from simple_parsing import ArgumentParser

from sae_lens_meta.calibration import Rule, calibrate, selected_per_token
from sae_lens_meta.checks import (
    check_dataset,
    check_hook,
    warn_of_slow_meta_sae,
)
from sae_lens_meta.demo import DemoConfig, run_demo
from sae_lens_meta.destination import check_new, check_writable, held
from sae_lens_meta.evaluation.autointerp import (
    AutointerpConfig,
    autointerp,
    check_number,
)
from sae_lens_meta.evaluation.autointerp.asking import LimitReached
from sae_lens_meta.evaluation.autointerp.judge import OpenAIJudge
from sae_lens_meta.evaluation.autointerp.results import (
    FILENAME,
    autointerp_table,
    check_same_subjects,
    show_difference,
    show_pairs,
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
from sae_lens_meta.evaluation.measured_on import SourceConfig
from sae_lens_meta.evaluation.source import load_source, regroup
from sae_lens_meta.interruption import Interrupted
from sae_lens_meta.publishing.publish import PublishConfig, publish
from sae_lens_meta.reproduce.reproduce import ReproduceConfig, reproduce
from sae_lens_meta.resume import check_resume
from sae_lens_meta.saved import SavedSAE
from sae_lens_meta.text import read_documents, text_identity
from sae_lens_meta.zoo import list_pretrained, releases_table, sae_folder

_SAID = (
    ValueError,
    OSError,
    ArgumentError,
    DatasetsError,
    LimitReached,
    Interrupted,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `sae-lens-meta`; a wrong value ends it with a line, not a trace."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        _dispatch([_underscored(arg) for arg in args])
    except _SAID as error:
        raise SystemExit(f"sae-lens-meta: {error}") from error
    except KeyboardInterrupt as error:
        raise SystemExit("sae-lens-meta: stopped by SIGINT.") from error


def _summary(function: Callable[..., Any]) -> str:
    """The first line of what is said of it."""
    return (getdoc(function) or "").splitlines()[0]


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
    overwrite = "--overwrite" in args
    cfg = _parse_cfg_args([arg for arg in args if arg != "--overwrite"])
    check_resume(cfg)
    if cfg.output_path:
        check_new(Path(cfg.output_path) / SAE_WEIGHTS_FILENAME, overwrite)
    if cfg.checkpoint_path:
        check_writable(Path(cfg.checkpoint_path))
    warn_of_slow_meta_sae(cfg)
    text = None
    if not cfg.use_cached_activations:
        if Path(cfg.dataset_path).expanduser().is_file():
            # which SAELens would look for on the Hub
            text = read_documents(cfg.dataset_path)
        else:
            check_dataset(cfg.dataset_path, cfg.streaming)
        # which SAELens's runner does not record
        cfg.sae.metadata.text_sha256 = text_identity(cfg.dataset_path).sha256
        cfg.sae.metadata.use_chat_formatting = cfg.use_chat_formatting
    runner = LanguageModelSAETrainingRunner(cfg, override_dataset=text)
    check_hook(runner.model, cfg)
    runner.run()


def calibrate_saved(
    path: Path, source: SourceConfig, rule: Rule, batch: int, k: float | None
) -> None:
    """Gives a saved JumpReLU SAE one threshold per latent and writes it back."""
    saved = SavedSAE.read(path)
    check_writable(path)
    sae = saved.load(source.device)
    selected_per_token(sae, k)  # or an error before anything is read
    activations, measured_on = load_source(source, [saved], to_calibrate=True)
    batches = regroup(activations.stream(source.tokens), batch)
    report = calibrate(sae, batches, k, rule, measured_on.text)
    sae.save_model(path)
    console = Console()
    _say(measured_on.notes, measured_on.warnings, console)
    for name, value in vars(report).items():
        console.print(f"{name:>14}  {value}")


def evaluate_saved(
    name: str,
    source: SourceConfig,
    ce_tokens: int,
    output: Path | None,
    overwrite: bool,
    shift_null: bool,
) -> None:
    """Measures a saved SAE and writes evaluation.json beside it, or for a release, here."""
    saved = SavedSAE.read(sae_folder(name))
    is_release = not Path(name).is_dir()
    target = output or (Path() if is_release else saved.path) / "evaluation.json"
    check_new(target, overwrite)
    sae = saved.load(source.device)
    activations, measured_on = load_source(source, [saved])
    result = evaluate(
        Path(name).name, sae, activations, source.tokens, ce_tokens, shift_null
    )
    console = Console()
    _say(measured_on.notes, measured_on.warnings, console)
    console.print(evaluation_table([result], measured_on))
    target.parent.mkdir(parents=True, exist_ok=True)
    result.save(target, measured_on)
    console.print(f"Written: {target}")


def _say(notes: list[str], warnings: list[str], console: Console) -> None:
    for line in [*notes, *(f"Warning: {warning}" for warning in warnings)]:
        console.print(line, style="yellow", markup=False)


def compare_saved(cfg: CompareConfig, source: SourceConfig) -> None:
    """Holds joint SAEs against solo ones: comparison.json and report.html."""
    comparison = compare(cfg, source)
    console = Console()
    console.print(comparison_table(comparison))
    _say(comparison.source.notes, comparison.warnings, console)
    for sentence in comparison.verdict:
        console.print(sentence)
    if comparison.split_counts:
        console.print(comparison.split_counts.sentence())
    files = ("comparison.json", "report.html")
    console.print("See " + " and ".join(str(cfg.output / name) for name in files))


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
                f"--sae takes NAME=FOLDER or NAME=RELEASE, each name once; got {one!r}. For "
                "instance --sae joint=demo_out/joint."
            )
        paths[name] = path
    check_number(paths)  # before a name is looked up, or its release fetched
    if comparison:
        check_measured([sae_folder(path) for path in paths.values()], comparison)
    with held(cfg.output):
        folders = {name: sae_folder(path) for name, path in paths.items()}
        check_same_subjects(cfg.output, model, folders)
        found = autointerp(paths, OpenAIJudge(url, model), cfg, source)
    console = Console()
    _say(found.source.notes, found.source.warnings, console)
    console.print(autointerp_table(found))
    for difference in found.differences:
        console.print(show_difference(difference))
    if found.pair_cosines:
        console.print(show_pairs(found.pair_cosines))
    n_read = found.n_tokens or 0
    if n_read < source.tokens - found.source.context_size:
        console.print(f"The text ended after {n_read:,} of {source.tokens:,} tokens.")
    for sae in found.saes:
        if len(sae.latents) < cfg.latents:
            console.print(
                f"{sae.name}: {len(sae.latents)} of {cfg.latents} latents; {sae.n_left_out} "
                "that were drawn fire in too few windows, or are silent in too few."
            )
    console.print(show_usage(found.usage))
    console.print(f"Written: {cfg.output / FILENAME}")
    if comparison:
        with held(comparison):
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
    demo = commands.add_parser("demo", help=_summary(run_demo))
    demo.add_arguments(DemoConfig, dest="config")
    calibration = commands.add_parser("calibrate", help=calibrate_saved.__doc__)
    calibration.add_argument("--rule", choices=["rate", "equal_error"], default="rate")
    calibration.add_argument(
        "--batch", type=int, default=4096, help="tokens that BatchTopK selects over"
    )
    calibration.add_argument(
        "--k", type=float, help="latents a token, where the SAE does not record it"
    )
    evaluation = commands.add_parser("evaluate", help=evaluate_saved.__doc__)
    evaluation.add_argument("--output", type=Path, help="where to write the figures")
    evaluation.add_argument(
        "--overwrite", action="store_true", help="replace figures written before"
    )
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
        "--sae",
        action="append",
        required=True,
        help="NAME=FOLDER or NAME=RELEASE; give it once or twice",
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
    publishing = commands.add_parser("publish", help=_summary(publish))
    publishing.add_argument("path", type=Path, help="folder of the joint SAE")
    publishing.add_arguments(PublishConfig, dest="config")
    reproducing = commands.add_parser("reproduce", help=_summary(reproduce))
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
        calibrate_saved(parsed.path, parsed.source, parsed.rule, parsed.batch, parsed.k)
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
            parsed.overwrite,
            parsed.shift_null,
        )
    return None
