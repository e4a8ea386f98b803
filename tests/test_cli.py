"""The command line itself: quick to help, and clear about what it does not know."""

import ast
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sae_lens_meta.cli import COMMANDS, main
from sae_lens_meta.cli.compare import Compare
from sae_lens_meta.cli.options import parse
from sae_lens_meta.destination import held

HELP_SECONDS = 1.0


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sae_lens_meta", *args], capture_output=True, text=True
    )


def test_help_lists_every_command_without_importing_torch() -> None:
    code = (
        "import sys; from sae_lens_meta.cli import main; main(['--help']); "
        "assert not {'torch', 'sae_lens', 'numba'} & set(sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    for command in COMMANDS:
        assert f"  {command} " in found.stdout
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run("--help").stdout == found.stdout == run().stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    assert taken / 2 < HELP_SECONDS


def test_an_unknown_command_is_named_with_one_that_is_like_it() -> None:
    found = run("evalute")
    assert found.returncode == 1
    assert "there is no command 'evalute'. Did you mean evaluate?" in found.stderr


def test_each_command_is_a_file_that_says_what_it_does() -> None:
    folder = Path(__file__).parents[1] / "sae_lens_meta" / "cli"
    for command in COMMANDS:
        summary = ast.get_docstring(ast.parse((folder / f"{command}.py").read_text()))
        assert summary and summary.splitlines()[0].endswith(".")


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "train"])
def test_a_commands_help_is_its_options_and_no_programmers_note(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "Raises" not in shown and "usage: sae-lens-meta " + command in shown


def test_a_warning_is_a_line_and_no_place_in_the_code() -> None:
    code = (
        "import sys, types, warnings; from sae_lens_meta.cli import main; "
        "sys.modules['sae_lens_meta.cli.list'] = types.SimpleNamespace("
        "run=lambda args: warnings.warn('The text is read again.')); main(['list'])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stderr == "\nWarning: The text is read again.\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_in_a_line_and_lets_go_of_its_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    def run(_: list[str]) -> None:
        with held(tmp_path):
            (tmp_path / "progress").touch()
            os.kill(os.getpid(), number)
            signal.pause()

    monkeypatch.setattr("sae_lens_meta.cli.watch.run", run)
    # as in a new process: SAELens's runners leave handlers of their own; conftest restores them
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with pytest.raises(SystemExit, match=f"^sae-lens-meta: stopped by {number.name}.$"):
        main(["watch", "x"])
    assert [path.name for path in tmp_path.iterdir()] == ["progress"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_option_that_there_is_not_ends_with_exit_code_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "x", "--tokns", "3"])
    assert ended.value.code == 2
    assert "tokns" in capsys.readouterr().err


def test_groups_of_any_name_are_given_and_the_shorthands_are_groups() -> None:
    args = "--sae matryoshka=m0 m1 --sae solo=s0 --solo s1 --joint j0 --joint j1 j2"
    given = [str(one) for one in args.split()]
    groups = parse(Compare, "compare", given).groups()
    assert {name: [p.name for p in paths] for name, paths in groups.items()} == {
        "solo": ["s0", "s1"],
        "matryoshka": ["m0", "m1"],
        "joint": ["j0", "j1", "j2"],
    }
    with pytest.raises(ValueError, match="--sae takes NAME=FOLDER"):
        parse(Compare, "compare", ["--sae", "a", "b"]).groups()


@pytest.mark.slow
def test_importing_the_plugin_costs_little_beside_saelens() -> None:
    code = (
        "import sae_lens, time; start = time.process_time(); import sae_lens_meta; "
        "print(time.process_time() - start)"
    )
    threads = {"OMP_NUM_THREADS": "1"}
    found = [
        float(
            subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                env=os.environ | threads,
            ).stdout
        )
        for _ in range(3)
    ]
    assert min(found) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "import sae_lens_meta",
        "from sae_lens_meta.zoo.names import list_pretrained",
        "from sae_lens_meta.training.config import DecomposabilityConfig",
        "from sae_lens_meta.measures.evaluate import evaluate",
        "import sae_lens; import sae_lens_meta",
    ],
)
def test_whatever_is_imported_first_everything_is_registered(first: str) -> None:
    code = (
        f"{first}; import sae_lens_meta; from sae_lens.registry import "
        "SAE_TRAINING_CLASS_REGISTRY as known; from "
        "sae_lens.loading.pretrained_saes_directory import "
        "get_pretrained_saes_directory as directory; assert known['meta'][0] is "
        "sae_lens_meta.MetaTrainingSAE; assert 'metasae-gpt2l-l20' in directory()"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("missing", "command", "extra"),
    [
        ("matplotlib", ["compare", "--joint", "a", "--solo", "b"], "report"),
        ("openai", ["autointerp", "--sae", "a=b"], "judge"),
    ],
)
def test_what_an_optional_package_is_missing_for_is_told_before_any_work(
    missing: str, command: list[str], extra: str
) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None; "
        f"from sae_lens_meta.cli import main; main({command!r})"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 1
    assert (
        f"{missing} is not installed. pip install 'sae-lens-meta[{extra}]'"
        in " ".join(found.stderr.split())
    )
    assert "Traceback" not in found.stderr
