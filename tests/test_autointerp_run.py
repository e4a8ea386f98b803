"""The whole run: SAEs, a language model, a server that judges, and where the scores end up."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sae_lens import SAE

from sae_lens_meta.autointerp.prompts import Messages
from sae_lens_meta.autointerp.results import AutoInterpretation
from sae_lens_meta.cli import main
from sae_lens_meta.comparison.result import Comparison
from sae_lens_meta.report import write_report
from sae_lens_meta.report.attached import scores_of
from sae_lens_meta.zoo import files as release_files
from tests.judges import Guesser, JudgeServer, judge_server
from tests.test_zoo import FOLDER, NAME, entry, use_zoo
from tests.tiny_llama import CONTEXT, save_tiny_llama, save_trained

pytestmark = pytest.mark.slow
TOKENS = 16_000
SOURCE = ["--context_size", str(CONTEXT), "--tokens", str(TOKENS)]
SMALL = ["--latents", "12", "--window", "8", "--explaining", "6", "--active", "4"]
SMALL += ["--boundary", "1", "--silent", "4", "--shown", "4"]


@pytest.fixture(scope="module")
def saes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    model = save_tiny_llama(folder / "model")
    return {
        "joint": save_trained(model, folder / "joint"),
        "solo": save_trained(model, folder / "solo", decomposability_coefficient=0),
    }


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with judge_server(JudgeServer(answer=Guesser().answer)) as running:
        yield running


def interpret(
    server: JudgeServer, output: Path, paths: dict[str, Path], *more: str
) -> AutoInterpretation:
    named = [x for name, path in paths.items() for x in ("--sae", f"{name}={path}")]
    judge = ["--judge-url", server.url, "--judge-model", "guesser"]
    arguments = [*named, *judge, *SMALL, *SOURCE, "--output", str(output), *more]
    main(["autointerp", *arguments])
    return AutoInterpretation.load(output / "autointerp.json")


def test_matched_latents_of_two_saes_are_scored_and_a_second_run_is_free(
    saes: dict[str, Path], server: JudgeServer, tmp_path: Path
) -> None:
    found = interpret(server, tmp_path / "out", saes, "--random_directions")
    assert [sae.name for sae in found.saes] == ["joint", "solo", "random directions"]
    assert found.judge == "guesser" and found.prompt_version == 2
    assert found.usage.requests == len(server.requests)
    for sae in found.saes:
        assert len(sae.latents) == 12
        assert [one.latent for one in sae.shuffled] == [
            one.latent for one in sae.latents
        ]
    joint, solo = (found.saes[i].latents for i in (0, 1))
    rows = [SAE.load_from_disk(path).W_dec.detach() for path in saes.values()]
    cosine = torch.nn.functional.cosine_similarity(
        rows[0][[one.latent for one in joint]], rows[1][[one.latent for one in solo]]
    )
    assert cosine.mean() > 0.5, "they are matched"
    assert found.pair_cosines == pytest.approx(cosine.tolist(), abs=1e-5)
    for difference in found.differences:
        n = difference.n_pairs + difference.n_one_missing + difference.n_both_missing
        assert n == len(joint) == len(solo)
    assert (
        sum(q[1].n_pairs for q in found.by_firing_rate) == found.differences[1].n_pairs
    )
    n_requests = len(server.requests)
    again = interpret(server, tmp_path / "out", saes, "--random_directions")
    assert len(server.requests) == n_requests and again.usage.requests == 0
    assert again.saes == found.saes and again.differences == found.differences


def test_it_runs_where_an_event_loop_runs_already_as_in_a_notebook(
    saes: dict[str, Path], server: JudgeServer, tmp_path: Path
) -> None:
    async def cell() -> AutoInterpretation:
        return interpret(server, tmp_path / "out", {"a": saes["joint"]})

    assert len(asyncio.run(cell()).saes[0].latents) == 12


def test_the_same_sae_twice_is_refused_before_the_judge_is_asked(
    saes: dict[str, Path], server: JudgeServer, tmp_path: Path
) -> None:
    twice = {"a": saes["joint"], "b": saes["joint"]}
    with pytest.raises(SystemExit, match="'a' and 'b' have the same weights"):
        interpret(server, tmp_path / "two", twice)
    assert not server.requests


def test_the_scores_flow_into_the_comparison_its_report_and_the_card(
    saes: dict[str, Path], server: JudgeServer, tmp_path: Path
) -> None:
    output = str(tmp_path / "comparison")
    pair = ["--joint", str(saes["joint"]), "--solo", str(saes["solo"])]
    quick = ["--ce_tokens", "256", "--min_fired", "3", "--meta_steps", "5"]
    main(["compare", *pair, *quick, *SOURCE, "--output", output])
    found = interpret(server, tmp_path / "out", saes, "--comparison", output)
    comparison = Comparison.load(tmp_path / "comparison" / "comparison.json")
    summary = scores_of(comparison)
    assert summary is not None and summary.pair == ["joint", "solo"]
    assert summary.means["joint"] == found.saes[0].means()
    report = (tmp_path / "comparison" / "report.html").read_text()
    mean = found.saes[1].means()[1]
    assert mean.mean is not None
    shown = f"{mean.mean:.3f} ({mean.n} of {mean.n_asked}"
    assert "Judge: guesser" in report and shown in report
    comparison.extras.clear()
    write_report(comparison, tmp_path / "without.html")
    assert "Judge" not in (tmp_path / "without.html").read_text()
    other = {
        "x": save_trained(saes["joint"].parent / "model", tmp_path / "x", init_seed=9)
    }
    with pytest.raises(SystemExit, match="did not measure the SAE at"):
        interpret(server, tmp_path / "other", other, "--comparison", output)


def test_a_release_is_interpreted_by_its_name(
    saes: dict[str, Path],
    server: JudgeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(release_files, "bundled_folder", lambda: tmp_path / "bundled")
    weights = tmp_path / "bundled" / NAME
    shutil.copytree(saes["joint"], weights / FOLDER)
    bundled = entry(weights, published=False, bundled=True, revision=None)
    use_zoo([bundled], tmp_path / "zoo.yaml", monkeypatch)
    by_folder = interpret(server, tmp_path / "out", {"a": saes["joint"]})
    n_requests = len(server.requests)
    by_name = interpret(server, tmp_path / "out", {"a": Path(NAME)})
    assert by_name.saes == by_folder.saes and len(server.requests) == n_requests
    with pytest.raises(SystemExit, match="no release 'metasae-tinny' .* metasae-tiny"):
        interpret(server, tmp_path / "out", {"a": Path("metasae-tinny")})


def test_one_question_that_is_refused_costs_its_pair_a_score_and_no_second_run(
    saes: dict[str, Path],
    server: JudgeServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # else lines and cells are broken
    explained: list[str] = []

    def is_first_but_one(messages: Messages) -> bool:
        """The explanation of one latent of one SAE."""
        if "Find what these" in messages[0]["content"]:
            shown = messages[1]["content"]
            explained.extend([shown] if shown not in explained else [])
            return explained[1:2] == [shown]
        return False

    server.refuses = is_first_but_one
    url, server.url = server.url, server.url.replace("://", "://ada:hunter2@")
    runs, n_requests = [], []
    for _ in range(2):
        interpret(server, tmp_path / "out", saes, "--no_controls")
        runs.append(json.loads((tmp_path / "out" / "autointerp.json").read_text()))
        n_requests.append(len(server.requests))
    assert n_requests[0] == n_requests[1], "the second run asks nothing"
    for part in ("saes", "differences", "by_firing_rate", "pair_cosines"):
        assert runs[0][part] == runs[1][part]
    for difference in runs[1]["differences"][1:]:
        assert (difference["n_pairs"], difference["n_one_missing"]) == (11, 1)
    shown = capsys.readouterr()
    assert "over 11 pairs; 1 with one side missing, 0 with both" in shown.out
    assert "1 no explanation" in shown.out
    texts = [shown.out, shown.err]
    texts += [str(p.read_bytes()) for p in (tmp_path / "out").iterdir()]
    assert not any("hunter2" in text for text in texts)
    assert url.encode() in (tmp_path / "out" / "replies.sqlite").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--sae", "joint"],
            "--sae takes NAME=FOLDER or NAME=RELEASE, each name once; got 'joint'",
        ),
        (["--sae", "a=x", "--sae", "a=y"], "each name once"),
        (
            ["--sae", "a=x", "--sae", "b=y", "--sae", "c=z"],
            "Give one or two SAEs, got 3",
        ),
        (
            ["--sae", "a=nowhere"],
            "There is no folder 'nowhere'. There is no release 'nowhere'",
        ),
        (
            ["--sae", "a=x", "--active", "2", "--boundary", "2"],
            "boundary must be at least 0",
        ),
        (["--sae", "a=x", "--latents", "0"], "latents must be at least 1, got 0"),
    ],
)
def test_bad_input_is_named_before_anything_is_read(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = ["--judge_url", "http://127.0.0.1:1/v1", "--judge_model", "m"]
    with pytest.raises(SystemExit) as ended:
        main(["autointerp", *arguments, *judge])
    # options that are out of range are told in a box, which wraps
    said = f"{ended.value.code} {capsys.readouterr().err}".replace("│", " ")
    assert message in " ".join(said.split())
