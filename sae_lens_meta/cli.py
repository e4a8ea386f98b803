"""The command line: parses, calls one function, prints."""

import sys
from argparse import ArgumentError
from collections.abc import Sequence

from datasets.exceptions import DatasetsError
from rich.console import Console
from sae_lens import LanguageModelSAETrainingRunner
from sae_lens.llm_sae_training_runner import _parse_cfg_args
from simple_parsing import ArgumentParser

from sae_lens_meta.checks import check_dataset, check_hook, check_resume
from sae_lens_meta.demo import DemoConfig, run_demo


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `sae-lens-meta`; a wrong value ends it with a line, not a trace."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        _dispatch(args)
    except (ValueError, OSError, ArgumentError, DatasetsError) as error:
        raise SystemExit(f"sae-lens-meta: {error}") from error


def train(args: list[str]) -> None:
    """SAELens's own training command line, `meta` being its default architecture."""
    if not any(a.split("=")[0] in ("--architecture", "--sae") for a in args):
        args = ["--architecture", "meta", *(args or ["--help"])]
    cfg = _parse_cfg_args(args)
    check_resume(cfg)
    if not cfg.use_cached_activations:
        check_dataset(cfg.dataset_path, cfg.streaming)
    runner = LanguageModelSAETrainingRunner(cfg)
    check_hook(runner.model, cfg)
    runner.run()


def _dispatch(args: list[str]) -> None:
    if args[:1] == ["train"]:
        return train(args[1:])
    parser = ArgumentParser(prog="sae-lens-meta", description="MetaSAEs for SAELens.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("train", help=train.__doc__)
    demo = commands.add_parser("demo", help=run_demo.__doc__)
    demo.add_arguments(DemoConfig, dest="config")
    run_demo(parser.parse_args(args).config, Console())
    return None
