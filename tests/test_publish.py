"""From a folder to a release: what is uploaded, what is refused, what a fault leaves behind."""

import copy
import io
import json
import os
import pickle
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants
from rich.console import Console
from sae_lens import SAE
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from safetensors.torch import load_file, save_file

import sae_lens_meta
from sae_lens_meta import MetaTrainingSAE
from sae_lens_meta.activations.measured_on import SourceConfig
from sae_lens_meta.autointerp.results import AutointerpSummary, ScoreMean
from sae_lens_meta.cli import main
from sae_lens_meta.cli.evaluate import Evaluate
from sae_lens_meta.cli.options import parse
from sae_lens_meta.decomposition.given import given_sae
from sae_lens_meta.hashing import file_sha256
from sae_lens_meta.measures.calibration import calibrate
from sae_lens_meta.publishing import upload
from sae_lens_meta.publishing.card import model_card, released_name
from sae_lens_meta.publishing.objective import objective_of
from sae_lens_meta.publishing.package import Package, make_package, public_metadata
from sae_lens_meta.publishing.publish import (
    PublishConfig,
    _training,
    prepare,
    publish,
)
from sae_lens_meta.publishing.upload import PublishError
from sae_lens_meta.report.scores import attached
from sae_lens_meta.saved import Reading, SavedSAE
from sae_lens_meta.statistics.paired import paired_difference
from sae_lens_meta.zoo import files as release_files
from sae_lens_meta.zoo import names as zoo
from sae_lens_meta.zoo import releases
from sae_lens_meta.zoo.releases import NEEDED_FILES, Release, check_release_name
from tests.comparisons import N_TOKENS, compared, comparison
from tests.helpers import meta_config, sparse_batches, train
from tests.hub_server import STRANGER, WRITER, Fault, HubServer

pytestmark = pytest.mark.usefixtures("plots_drawn_once")
REPO, HOOK = "tests/metasae-tiny", "blocks.0.hook"
WEIGHTS = "sae_weights.safetensors"
METADATA = {
    "hook_name": HOOK,
    "model_name": "/home/ada/models/tiny",
    "dataset_path": "../shared/corpus.jsonl.gz",
    "context_size": 128,
    "wandb_api_key": "0123456789abcdef0123",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A joint SAE, calibrated, its meta SAE, and a comparison that measured it."""
    path = tmp_path_factory.mktemp("runs") / "joint"
    save_measured(path)
    return path


def save_measured(path: Path, **settings: Any) -> None:
    train(meta_config(**settings), 6).save_inference_model(path)
    sae = SAE.load_from_disk(path)
    for key, value in METADATA.items():
        setattr(sae.cfg.metadata, key, value)
    batches = sparse_batches(n=512)
    calibrate(sae, [next(batches) for _ in range(4)])
    sae.save_model(path)
    write_comparison(path)


def write_comparison(path: Path) -> None:
    joint = compared("joint", "joint", 5e-3, variant="joint, lambda_2 0.3")
    joint.weights_sha256 = file_sha256(path / WEIGHTS)
    joint.path = str(path)
    sae = SAE.load_from_disk(path)
    joint.training = sae.cfg.metadata.training_architecture_details
    made = comparison([joint, compared("a", "solo", 6e-3), compared("b", "solo", 6e-3)])
    made.source = replace(made.source, dataset="/home/ada/held_out.txt", hook=HOOK)
    made.settings["output"] = str(path)
    made.verdict = ["A sentence about the claim."]
    made.warnings = ["A warning of the comparison."]
    made.save(path)


@pytest.fixture
def path(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    copy = tmp_path / "joint"
    for file in trained.rglob("*.*"):
        (copy / file.relative_to(trained)).parent.mkdir(parents=True, exist_ok=True)
        (copy / file.relative_to(trained)).write_bytes(file.read_bytes())
    return copy


@pytest.fixture
def release(
    hub: HubServer,
    path: Path,
    as_writer: None,  # noqa: ARG001
    tmp_path: Path,
) -> Callable[..., Any]:
    """Publishes `path` as the writer."""

    def run(**changes: Any) -> Any:
        cfg: dict[str, Any] = {"repo": REPO, "output": tmp_path / "out"} | changes
        return publish(path, PublishConfig(**cfg), Console(quiet=True))

    assert not hub.repos
    return run


def test_one_commit_holds_everything_is_tagged_and_loads_in_stock_saelens(
    hub: HubServer, release: Callable[..., Any], path: Path
) -> None:
    entry = release()
    repo = hub.repos[REPO]
    assert len(repo.commits) == 2, "the Hub's own, and ours"
    assert repo.tags == {"v1": repo.head} and entry.revision == repo.head
    assert set(repo.files) - {".gitattributes"} == {
        *(f"{HOOK}{d}/{f}" for d in ("", "/meta") for f in ("cfg.json", WEIGHTS)),
        "README.md",
        "comparison.json",
        "comparison.schema.json",
        "report.html",
    }
    local = SAE.load_from_disk(path)
    for found, wanted in (
        (SAE.from_pretrained(REPO, HOOK), local),
        (SAE.from_pretrained(REPO, f"{HOOK}/meta"), SAE.load_from_disk(path / "meta")),
    ):
        assert all(
            torch.equal(found.state_dict()[k], v)
            for k, v in wanted.state_dict().items()
        )
    assert local.threshold.unique().numel() > 2, "thresholds of their own"  # type: ignore[union-attr, operator]


def test_nothing_of_the_machine_and_no_secret_is_uploaded(
    hub: HubServer, release: Callable[..., Any], path: Path
) -> None:
    release()
    texts = {
        name: content.decode()
        for name, content in hub.repos[REPO].files.items()
        if not name.endswith(".safetensors")
    }
    for name, text in texts.items():
        for private in ("/home/ada", "../shared", str(path.parent), "0123456789abcdef"):
            assert private not in text, (name, private)
        assert WRITER not in text
    cfg = json.loads(texts[f"{HOOK}/cfg.json"])
    assert cfg["metadata"]["model_name"] == "tiny"
    assert cfg["metadata"]["dataset_path"] == "corpus.jsonl.gz"
    assert cfg["metadata"]["calibration"]["rule"] == "rate"


def test_the_card_has_the_figures_of_the_comparison(
    hub: HubServer, release: Callable[..., Any]
) -> None:
    release(base_model="org/tiny", dataset="org/text", licence="mit")
    text = hub.repos[REPO].files["README.md"].decode()
    card: Any = ModelCard(text)
    data = card.data
    assert (data.library_name, data.license) == ("saelens", "mit")
    assert (data.base_model, data.datasets) == ("org/tiny", ["org/text"])
    figures = {r.metric_type: r.metric_value for r in data.eval_results}
    assert figures["corrected_mean_abs_phi"] == 5e-3
    assert figures["normalised_l2"] == 0.1
    # in the sentence on its training, beside what the SAE records itself
    assert "org/text (recorded as corpus.jsonl.gz) through " in text
    assert "| normalised L2 | 0.1000 | 0.0900 to 0.1100 | +0.0 % |" in text
    assert "| corrected mean \\|phi\\| | 5.000e-03 |  | -16.7 % |" in text
    for part in (
        "A sentence about the claim.",
        "A warning of the comparison.",
        f'SAE.from_pretrained("{REPO}", "{HOOK}")',
        "mean over 1 joint SAE of this setting to the mean over 2\nsolo SAEs",
        "| decomposability_coefficient | 0.3 |",
    ):
        assert part in text, part
    snippet = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    exec(compile(snippet, "card", "exec"), {})  # the first one needs no plugin


def test_the_card_and_the_terminal_warn_of_an_sae_that_does_not_do(path: Path) -> None:
    cfg = PublishConfig(REPO, output=path.parent / "out")
    said = {}
    for explained, recovered, n_silent in ((0.8, 0.95, 10), (0.12, 0.4, 9000)):
        found = json.loads((path / "comparison.json").read_text())
        for one in found["saes"]:
            one["evaluation"]["reconstruction"]["explained_variance"] = explained
            one["evaluation"]["reconstruction"]["n_silent"] = n_silent
            one["evaluation"]["model_cost"]["ce_loss_recovered"] = recovered
        (path / "comparison.json").write_text(json.dumps(found))
        console = Console(file=io.StringIO(), width=300)
        prepare(path, cfg, console)
        card = (cfg.output / "README.md").read_text()
        said[explained] = [card, console.file.getvalue()]  # type: ignore[attr-defined]
    for text in said[0.12]:
        for part in ("explains 12.0% of", "recovers 40.0% of", "45% of its latents"):
            assert part in text, part
    for text in said[0.8]:
        assert "of the variance of the activations:" not in text
        assert "recovers" not in text
        assert "never fire on this text" not in text


def test_a_training_is_told_by_its_own_penalty(package: Package, path: Path) -> None:
    known = package.measured.training
    told = []
    for changes in (
        {},
        {"penalty": "implied_overlap", "decomposability_coefficient": 1.0},
    ):
        settings = known | changes
        measured: Any = replace(package.measured, training=settings)
        subject = replace(package, measured=measured, objective=objective_of(settings))
        told.append(_training(path, subject, None))
    assert "lambda_2 0.3, sigma^2 1, meta SAE " in told[0]
    assert told[1].endswith("penalty implied_overlap, lambda 1")


def test_a_published_config_has_the_hook_by_both_names() -> None:
    found = public_metadata(
        Reading(
            model="a/b", hook="model.layers.3", hook_in_transformers="model.layers.3"
        ),
        None,
    )
    assert found == {
        "model_name": "a/b",
        "hook_name": "blocks.3.hook_resid_post",
        "hf_hook_name": "model.layers.3",
    }
    known = Reading(model="a/b", hook="blocks.3.hook_resid_post")
    assert "hf_hook_name" not in public_metadata(known, None)
    both = replace(known, hook_in_transformers="model.layers.3")
    assert public_metadata(both, None) == found


def test_the_cards_command_measures_the_release_as_it_was_measured(
    hub: HubServer, release: Callable[..., Any]
) -> None:
    entry = release()
    card = hub.repos[REPO].files["README.md"].decode()
    (command,) = re.findall(r"^    (sae-lens-meta evaluate .*)$", card, re.MULTILINE)
    (_, _, *options) = shlex.split(command)
    given = parse(Evaluate, "evaluate", options)
    assert (given.name, given.ce_tokens) == (entry.name, 4096)
    source = given.source
    wanted = SourceConfig(
        dataset="held_out.txt",
        held_out_documents=12,
        first_document=0,
        text_seed=42,
        tokens=N_TOKENS,
    )
    assert source == wanted


@pytest.mark.parametrize(
    ("dataset", "listed"),
    [
        ("HuggingFaceFW/fineweb", ["HuggingFaceFW/fineweb"]),
        ("HuggingFaceFW/fineweb:sample-10BT", ["HuggingFaceFW/fineweb"]),
        ("corpus.jsonl.gz", None),
    ],
)
def test_the_card_lists_a_dataset_of_the_hub(
    package: Package, list_path: Path, dataset: str, listed: list[str] | None
) -> None:
    release = releases.load_zoo(list_path).releases[0]
    assert (
        model_card(package, release, dataset).data.to_dict().get("datasets") == listed
    )


def test_the_card_has_a_judges_scores_where_there_are_any(
    package: Package, list_path: Path
) -> None:
    mean = ScoreMean("fuzzing", 0.6127, None, 48, 50, {"unreadable": 2})
    package = replace(package, comparison=copy.deepcopy(package.comparison))
    summary = AutointerpSummary(
        judge="a judge",
        prompt_version=1,
        means={"joint": [mean]},
        shuffled={"joint": [replace(mean, mean=0.5, n=50, missing={})]},
        pair=["joint", "solo"],
        differences=[paired_difference("fuzzing", [(0.6, 0.5)] * 9)],
    )
    package.comparison.extras["autointerp"] = attached(summary, package.comparison)
    text = str(model_card(package, releases.load_zoo(list_path).releases[0], "text"))
    assert "Judge: a judge; scores of another judge are not comparable" in text
    row = "| joint | fuzzing, chance 0.5 | 0.613 (48 of 50; 2 unreadable) | 0.500 (50 of 50) |"
    assert row in text
    assert "joint less solo, over matched latents:" in text
    assert "- fuzzing: +0.100 (+0.100 to +0.100), p 0.00" in text
    package.comparison.extras.clear()
    text = str(model_card(package, releases.load_zoo(list_path).releases[0], "text"))
    assert "udge" not in text and "## Limits" in text


def test_the_entry_is_written_and_the_release_loads_by_its_name(
    hub: HubServer,
    release: Callable[..., Any],
    list_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = list_path.read_text()
    release(release="metasae-tiny")
    after = list_path.read_text()
    assert after.startswith(before), "the other entries and comments are as they were"
    zoo.register_zoo()
    load: Any = SAE.from_pretrained
    online = load("metasae-tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.repos.clear()
    assert torch.equal(load("metasae-tiny").W_dec, online.W_dec)
    get_pretrained_saes_directory().pop("metasae-tiny")


@pytest.mark.parametrize(
    ("settings", "said", "in_a_line"),
    [
        (
            {"penalty": "implied_overlap", "decomposability_coefficient": 3.0},
            "implied overlap: the decoder row of a latent",
            "penalty implied_overlap, lambda 3",
        ),
        (
            {"penalty": "orthogonality"},
            "([OrtSAE](https://arxiv.org/abs/2509.22033))",
            "penalty orthogonality, lambda 0.3",
        ),
        ({"decomposability_coefficient": 0.0}, "without a penalty", "no penalty"),
    ],
    ids=["implied_overlap", "orthogonality", "none"],
)
def test_what_was_trained_without_a_meta_sae_is_released_without_one(
    settings: dict[str, Any],
    said: str,
    in_a_line: str,
    hub: HubServer,
    release: Callable[..., Any],
    list_path: Path,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    release(release="metasae-tiny")  # one that has a meta SAE
    path = tmp_path / "alone"
    save_measured(path, **settings)
    cfg = PublishConfig(
        repo=REPO, release="metasae-tiny", output=tmp_path / "alone_out"
    )
    entry = publish(path, cfg, Console(quiet=True))
    assert entry.saes[0].meta_path is None and entry.training.endswith(in_a_line)
    files = hub.repos[REPO].files
    assert {name for name in files if name.startswith(HOOK)} == {
        f"{HOOK}/cfg.json",
        f"{HOOK}/{WEIGHTS}",
    }
    card = files["README.md"].decode()
    assert said in card and "meta_sae = " not in card and "MetaSAEs" not in card
    assert "| decomposability_coefficient |" in card and "| meta_" not in card
    assert ("arxiv:2509.22033" in card) == ("OrtSAE" in card)
    assert "arxiv:2604.03436" not in card
    assert released_name(card) == "metasae-tiny"
    zoo.register_zoo()
    load: Any = SAE.from_pretrained
    wanted = SAE.load_from_disk(path).W_dec
    assert torch.equal(load("metasae-tiny").W_dec, wanted)
    with pytest.raises(ValueError, match="trained without a meta SAE .*decompose"):
        sae_lens_meta.load_meta_sae("metasae-tiny")
    given = given_sae("metasae-tiny")
    assert given.joint is None and torch.equal(given.W_dec, wanted)
    get_pretrained_saes_directory().pop("metasae-tiny")


def test_an_entry_that_exists_is_replaced_in_its_place(
    list_path: Path, release: Callable[..., Any]
) -> None:
    release(release="metasae-tiny", training="First")
    release(release="metasae-tiny", training="Second")
    text = list_path.read_text()
    assert text.count("name: metasae-tiny") == 1
    assert "Second" in text and "First" not in text
    # the first of the list, whose successor and comments stay
    entries = releases.load_zoo(list_path).releases
    first, names = entries[0], [r.name for r in entries]
    assert names[-1] == "metasae-tiny"
    lines = text.replace(
        "  - name: metasae-gemma", "  # a note\n  - name: metasae-gemma"
    )
    list_path.write_text(lines)
    releases.write_release(first.model_copy(update={"training": "Third"}))
    text = list_path.read_text()
    assert "Third" in text and "  # a note\n  - name: metasae-gemma" in text
    assert [r.name for r in releases.load_zoo(list_path).releases] == names
    other = first.model_copy(update={"repo_id": REPO, "saes": first.saes * 2})
    before = list_path.read_text()
    with pytest.raises(ValueError, match="has an SAE id twice"):
        releases.write_release(other)
    assert list_path.read_text() == before
    with pytest.raises(ValueError, match="is of the hook 'blocks.20"):
        release(release=first.name)


def test_a_model_is_not_named_otherwise_than_the_sae_records(
    hub: HubServer, release: Callable[..., Any], path: Path
) -> None:
    cfg = json.loads((path / "cfg.json").read_text())
    cfg["metadata"]["model_on_the_hub"] = "org/tiny"
    (path / "cfg.json").write_text(json.dumps(cfg))
    with pytest.raises(ValueError, match="--base_model org/else: .* on 'org/tiny'"):
        release(base_model="org/else")
    assert not hub.repos
    release(base_model="mirror/tiny")  # one model, kept at another place


def test_a_listed_name_is_not_given_to_another_model_or_to_fewer_saes(
    hub: HubServer, release: Callable[..., Any], list_path: Path
) -> None:
    entry = release(release="metasae-tiny")
    n_requests = len(hub.requests)
    with pytest.raises(
        ValueError, match="of 'tiny', but this SAE reads .* of 'org/else'"
    ):
        release(release="metasae-tiny", base_model="org/else")
    other = entry.saes[0].model_copy(update={"id": "other", "path": "o", "files": {}})
    two = entry.model_copy(update={"saes": [*entry.saes, other]})
    files = {
        f"{d}/{f}": "0" * 64
        for d in ("o", entry.saes[0].meta_path)
        for f in NEEDED_FILES
    }
    other.files.update(files)
    releases.write_release(two)
    with pytest.raises(
        ValueError, match="has the SAEs other too, which this would drop"
    ):
        release(release="metasae-tiny")
    with pytest.raises(ValueError, match="stands twice"):
        release(release="another-name")
    assert not list(list_path.parent.glob("*.part"))
    for name in ("gpt2-small-res-jb", "../x", "a b", ""):
        with pytest.raises(ValueError, match="is no name|is the name of a release of"):
            check_release_name(name)
    assert len(hub.requests) == n_requests, "all of it before anything is uploaded"


def test_a_public_repository_is_not_taken_for_a_private_one(
    hub: HubServer, send: Callable[..., str]
) -> None:
    before = dict(hub.new_repo(REPO).files)
    with pytest.raises(PublishError, match="exists and is public"):
        send(private=True)
    assert hub.repos[REPO].files == before
    hub.repos.clear()
    send(private=True)
    assert hub.repos[REPO].private


CARD = b"---\nlicense: mit\n---\n# Mine\n"
BESIDE_A_RELEASE = {
    "another format": {"model.safetensors": b"w"},
    "a config at the root": {"cfg.json": b"{}"},
    "a pickle in a folder": {"x/ae.pt": b"w"},
    "another hook": {"blocks.9/cfg.json": b"{}", f"blocks.9/{WEIGHTS}": b"w"},
    "a config in the SAE's own folder": {f"{HOOK}/x/cfg.json": b"{}"},
    "a format that we do not know": {"sae/weights": b"w", "tiny.Q4_1.gguf": b"w"},
    "somebody's card": {"README.md": CARD},
}
WITHOUT_A_CARD_OF_OURS = BESIDE_A_RELEASE | {
    "SAELens's own upload of this hook": {
        f"{HOOK}/cfg.json": b"{}",
        f"{HOOK}/{WEIGHTS}": b"w",
        "README.md": CARD,
    },
    "the same without a card": {f"{HOOK}/cfg.json": b"{}", f"{HOOK}/{WEIGHTS}": b"w"},
    "somebody's report": {"report.html": b"<html>"},
}


def check_left_alone(
    hub: HubServer, send: Callable[..., str], others: dict[str, bytes]
) -> None:
    """A repository with these files too is refused by their names, and nothing is sent."""
    repo = hub.repos[REPO]
    head = repo.commit({**repo.files, **others}, repo.large[repo.head])
    hub.requests.clear()
    with pytest.raises(
        PublishError, match="not of the release 'metasae-tiny'"
    ) as error:
        send()
    assert all(name in str(error.value) for name in others)
    assert "Give another repository" in str(error.value)
    assert repo.head == head
    assert not [path for _, path in hub.requests if "/preupload/" in path]


@pytest.mark.parametrize("name", WITHOUT_A_CARD_OF_OURS)
def test_a_repository_of_something_else_is_left_alone(
    hub: HubServer, send: Callable[..., str], name: str
) -> None:
    hub.new_repo(REPO)
    check_left_alone(hub, send, WITHOUT_A_CARD_OF_OURS[name])


@pytest.mark.parametrize("name", BESIDE_A_RELEASE)
def test_an_update_does_not_take_what_was_added_beside_a_release(
    hub: HubServer, send: Callable[..., str], name: str
) -> None:
    send()
    check_left_alone(hub, send, BESIDE_A_RELEASE[name])


def test_a_file_is_found_however_long_the_listing_is(
    hub: HubServer, send: Callable[..., str]
) -> None:
    hub.page = 3
    repo = hub.new_repo(REPO)
    notes = {f"notes/{i:03}.md": b"a note" for i in range(20)}
    repo.commit({**repo.files, **notes}, set())
    check_left_alone(hub, send, {"z/model.safetensors": b"w"})


def test_documents_and_a_card_without_text_are_no_hindrance(
    hub: HubServer, send: Callable[..., str]
) -> None:
    repo = hub.new_repo(REPO)
    documents = {"LICENSE": b"MIT", "docs/plot.png": b"png", "notes.md": b"a note"}
    licence = {"README.md": b"---\nlicense: mit\n---\n"}  # as the Hub makes it
    repo.commit({**repo.files, **documents, **licence}, set())
    for _ in range(2):
        send()
        assert documents.items() <= repo.files.items()
    assert b"# metasae-tiny" in repo.files["README.md"]


@pytest.mark.usefixtures("list_path")
def test_another_release_is_not_written_over_though_its_files_have_the_same_names(
    hub: HubServer, release: Callable[..., Any], path: Path
) -> None:
    release()
    head = hub.repos[REPO].head
    with pytest.raises(PublishError, match="--release metasae-tiny"):
        release(release="metasae-new")
    cfg = json.loads((path / "cfg.json").read_text())
    cfg["metadata"]["model_name"] = "org/else"
    (path / "cfg.json").write_text(json.dumps(cfg))
    with pytest.raises(PublishError, match="of the model 'tiny', but .* 'org/else'"):
        release()
    assert hub.repos[REPO].head == head


def test_what_an_earlier_sae_left_is_gone_and_sparsity_is_published(
    hub: HubServer, release: Callable[..., Any], path: Path
) -> None:
    save_file({"sparsity": torch.zeros(64)}, path / "sparsity.safetensors")
    release()
    load: Any = SAE.from_pretrained_with_cfg_and_sparsity
    assert torch.equal(load(REPO, HOOK)[2], torch.zeros(64))
    (path / "sparsity.safetensors").unlink()
    release()
    assert f"{HOOK}/sparsity.safetensors" not in hub.repos[REPO].files
    assert len(hub.repos[REPO].tags) == 2


def test_a_rival_tag_is_not_taken_for_ours(
    hub: HubServer, send: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    list_refs = upload.HfApi.list_repo_refs
    rivals = ["v1"]

    def with_a_rival(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = list_refs(self, *args, **kwargs)
        repo = hub.repos[REPO]
        for name in rivals:
            repo.tags[name] = next(iter(repo.commits))
        rivals.clear()
        return found

    monkeypatch.setattr(upload.HfApi, "list_repo_refs", with_a_rival)
    commit = send()
    assert hub.repos[REPO].tags["v2"] == commit != hub.repos[REPO].tags["v1"]


def test_a_hub_that_never_shows_a_tag_is_not_asked_for_ever(
    hub: HubServer, send: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    list_refs = upload.HfApi.list_repo_refs

    def without_tags(self: Any, *args: Any, **kwargs: Any) -> Any:
        return replace(list_refs(self, *args, **kwargs), tags=[])

    monkeypatch.setattr(upload.HfApi, "list_repo_refs", without_tags)
    with pytest.raises(
        PublishError, match="shows no tag of .* 4 were set.* not tagged"
    ):
        send()
    head = hub.repos[REPO].head
    assert hub.repos[REPO].tags == {"v1": head}, "one number, however often it is set"


def test_it_waits_as_long_as_the_hub_asks(
    hub: HubServer, send: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waited.append)
    hub.faults.append(Fault("POST .*/commit/", 429, 1, {"Retry-After": "7"}))
    send()
    assert waited == [7]


def test_verifying_reads_the_commit_from_the_hub_and_not_the_cache(
    hub: HubServer, send: Callable[[], str], package: Package
) -> None:
    send()
    downloads = [p for m, p in hub.requests if m == "GET" and "/resolve/" in p]
    commit = hub.repos[REPO].head
    small = [n for n in package.names if not n.endswith(".safetensors")]
    assert {f"/{REPO}/resolve/{commit}/{name}" for name in small} == set(downloads)
    hub.requests.clear()
    send()
    again = Counter(p for m, p in hub.requests if m == "GET" and "/resolve/" in p)
    # once more those that say whose release is there
    read = {f"/{REPO}/resolve/{commit}/{n}" for n in ("README.md", f"{HOOK}/cfg.json")}
    assert again == Counter(downloads) + Counter(read)


DRY_RUN = {
    "a new repository": (lambda _: None, "publishing creates it"),
    "an empty one": (lambda hub: hub.new_repo(REPO), "may take the release"),
    "a Hub that is down": (
        lambda hub: hub.faults.append(Fault("GET", 503, 99)),
        "answered 503: .* could not be looked at",
    ),
}


@pytest.mark.usefixtures("as_writer")
@pytest.mark.parametrize("name", DRY_RUN)
def test_a_dry_run_shows_everything_looks_at_the_repository_and_changes_nothing(
    hub: HubServer,
    path: Path,
    list_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    prepare_hub, message = DRY_RUN[name]
    prepare_hub(hub)
    heads = {name: repo.head for name, repo in hub.repos.items()}
    before, output = list_path.read_text(), path.parent / "out"
    main(
        ["publish", "--dry-run", str(path), "--repo", REPO, "--release", "metasae-tiny"]
        + ["--output", str(output)]
    )
    shown = capsys.readouterr().out
    assert re.search(message, " ".join(shown.split()))
    assert {method for method, _ in hub.requests} == {"GET"}
    assert {name: repo.head for name, repo in hub.repos.items()} == heads
    assert list_path.read_text() == before
    for file in ("README.md", "report.html", f"{HOOK}/meta/{WEIGHTS}"):
        assert file in shown and (output / file).is_file()
    assert file_sha256(output / HOOK / WEIGHTS)[:16] in shown
    entry = yaml.safe_load(shown[shown.index("  - name:") :].split("Written")[0])
    assert entry[0]["name"] == "metasae-tiny" and entry[0]["saes"][0]["l0"] == 32.0


def test_a_dry_run_is_refused_as_publishing_would_be(
    hub: HubServer, release: Callable[..., Any]
) -> None:
    repo = hub.new_repo(REPO)
    repo.commit({**repo.files, "x/ae.pt": b"w"}, set())
    messages = []
    for dry_run in (True, False):
        with pytest.raises(PublishError, match="x/ae.pt") as error:
            release(dry_run=dry_run)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_a_bundled_release_loads_from_the_package_and_is_uploaded_nowhere(
    hub: HubServer,
    release: Callable[..., Any],
    path: Path,
    list_path: Path,  # noqa: ARG001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(release_files, "bundled_folder", lambda: tmp_path / "bundled")
    with pytest.raises(ValueError, match="give --release"):
        release(bundle=True)
    (tmp_path / "out" / HOOK).mkdir(parents=True)
    (tmp_path / "out" / HOOK / "sparsity.safetensors").write_bytes(b"of another SAE")
    entry = release(bundle=True, release="tiny")
    assert not hub.repos and not hub.requests
    assert (entry.bundled, entry.published, entry.revision) == (True, False, None)
    assert releases.load_zoo().releases[-1] == entry
    zoo.register_zoo()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found, wanted = SAE.from_pretrained("tiny", HOOK), SAE.load_from_disk(path)
    assert all(
        torch.equal(found.state_dict()[k], v) for k, v in wanted.state_dict().items()
    )
    card = (tmp_path / "bundled" / "tiny" / "README.md").read_text()
    assert "has not been uploaded anywhere" in card and REPO not in card
    files = (p for p in (tmp_path / "bundled" / "tiny").rglob("*") if p.is_file())
    assert {str(p.relative_to(tmp_path / "bundled" / "tiny")) for p in files} == {
        *(f"{HOOK}{d}/{f}" for d in ("", "/meta") for f in ("cfg.json", WEIGHTS)),
        "README.md",
        "comparison.json",
        "comparison.schema.json",
        "report.html",
    }
    assert zoo.sae_folder("tiny") == tmp_path / "bundled" / "tiny" / HOOK

    monkeypatch.setattr(release_files, "MAX_BUNDLED", 1000)
    for dry_run in (True, False):
        with pytest.raises(ValueError, match="more than 0 MB does not travel"):
            release(bundle=True, release="tiny", dry_run=dry_run)


def test_running_again_adds_nothing_and_a_change_is_another_tag(
    hub: HubServer, release: Callable[..., Any], path: Path
) -> None:
    first = release()
    assert release().revision == first.revision
    assert len(hub.repos[REPO].commits) == 2
    sae = SAE.load_from_disk(path)
    sae.W_dec.data *= 1.5  # type: ignore[operator]
    sae.save_model(path)
    write_comparison(path)
    second = release()
    assert hub.repos[REPO].tags == {"v1": first.revision, "v2": second.revision}


@pytest.fixture(scope="module")
def prepared(
    trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Package, Release]:
    """What `trained` uploads, prepared once."""
    cfg = PublishConfig(REPO, output=tmp_path_factory.mktemp("out"))
    return prepare(trained, cfg, Console(quiet=True))


@pytest.fixture
def package(prepared: tuple[Package, Release]) -> Package:
    return prepared[0]


@pytest.fixture
def send(
    hub: HubServer,  # noqa: ARG001
    as_writer: None,  # noqa: ARG001
    prepared: tuple[Package, Release],
) -> Callable[..., str]:
    """Uploads it as the writer."""

    def run(private: bool = False) -> str:
        return upload.upload(*prepared, private, lambda _: None)

    return run


PASSING = [
    Fault("POST /api/repos/create", 500, 2),
    Fault("POST .*/commit/", 500, 2),
    Fault("POST .*/commit/", 429, 1, {"Retry-After": "0"}),
    Fault("POST .*/commit/", "die", 1),
    Fault("POST .*/commit/", "lost", 1),
    Fault("PUT /storage/", 500, 2),
    Fault("PUT /storage/", "die", 1),
    Fault("POST .*/preupload/", 503, 1),
    Fault("POST .*/objects/batch", 429, 1, {"Retry-After": "0"}),
    Fault("GET .*/refs", 502, 1),
    Fault("POST .*/tag/", 500, 1),
    Fault("POST .*/tag/", "lost", 1),
    Fault("GET /storage/", "truncate", 1),
    Fault("GET .*/(resolve|storage)/", "trickle", 8),
]


@pytest.mark.parametrize("fault", PASSING, ids=lambda f: f"{f.request} {f.kind}")
def test_a_fault_that_passes_does_not_show_in_what_is_published(
    hub: HubServer, send: Callable[[], str], fault: Fault
) -> None:
    hub.faults.append(replace(fault))
    commit = send()
    repo = hub.repos[REPO]
    assert hub.faults[0].times == 0, "the fault was met"
    assert repo.tags == {"v1": repo.head} and commit == repo.head
    assert len(repo.commits) == 2


LASTING = {
    "a server that is down": (Fault("POST .*/commit/", 503, 99), "answered 503"),
    "one that dies in mid-upload": (
        Fault("PUT /storage/", "die", 99),
        "gave no answer",
    ),
    "one that asks to wait": (
        Fault("POST .*/commit/", 429, 99, {"Retry-After": "0"}),
        "asked 4 times to slow down",
    ),
    "a token that may only read": (
        Fault("POST .*/preupload/", 403, 99),
        "may not write",
    ),
    "a stale parent": (Fault("POST .*/commit/", 412, 99), "Somebody else"),
    "a card it does not accept": (Fault("POST /api/validate", 400, 99), "Invalid meta"),
}


@pytest.mark.parametrize("name", LASTING)
def test_a_fault_that_lasts_leaves_the_repository_as_it_was(
    hub: HubServer, send: Callable[[], str], name: str
) -> None:
    fault, message = LASTING[name]
    old = hub.new_repo(REPO)
    before = dict(old.files)
    hub.faults.append(replace(fault))
    with pytest.raises(PublishError, match=message) as error:
        send()
    assert "Run the command again" in str(error.value)
    assert WRITER not in str(error.value)
    assert old.files == before and not old.tags
    hub.faults.clear()
    assert old.tags == {} and send() == old.head
    assert old.tags == {"v1": old.head}


def test_what_was_not_published_is_not_listed(
    hub: HubServer, release: Callable[..., Any], list_path: Path
) -> None:
    before = list_path.read_text()
    hub.faults.append(Fault("POST .*/tag/", 403, 99))
    with pytest.raises(PublishError, match="is there, but not verified and not tagged"):
        release(release="metasae-tiny")
    assert list_path.read_text() == before


def test_somebody_elses_commit_in_between_is_not_overwritten(
    hub: HubServer, send: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = hub.new_repo(REPO)
    create = upload.HfApi.create_commit

    def with_a_rival(self: Any, *args: Any, **kwargs: Any) -> Any:
        repo.commit({**repo.files, "README.md": b"mine"}, set())
        return create(self, *args, **kwargs)

    monkeypatch.setattr(upload.HfApi, "create_commit", with_a_rival)
    with pytest.raises(PublishError, match="Somebody else has committed"):
        send()
    assert repo.files["README.md"] == b"mine" and f"{HOOK}/{WEIGHTS}" not in repo.files


def test_bytes_that_come_back_changed_are_not_tagged(
    hub: HubServer, send: Callable[[], str], trained: Path
) -> None:
    class Damaging(dict[tuple[str, str], bytes]):
        def __setitem__(self, key: tuple[str, str], content: bytes) -> None:
            is_weights = key[1] == file_sha256(trained / WEIGHTS)
            super().__setitem__(key, content[:-1] + b"!" if is_weights else content)

    hub.objects = Damaging()
    with pytest.raises(PublishError, match="is not the file that was sent.*not tagged"):
        send()
    assert not hub.repos[REPO].tags


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "did not accept the token, or there is none"),
        ("hf_wrongwrongwrongwrong", "did not accept the token"),
        (STRANGER, "may not write to tests/metasae-tiny"),
    ],
)
def test_a_token_that_will_not_do_is_said_and_never_shown(
    hub: HubServer,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(path / "no_token"))
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    out = ["--output", str(path.parent / "out")]
    with pytest.raises(SystemExit, match=message) as error:
        main(["publish", str(path), "--repo", REPO, *out])
    shown = capsys.readouterr()
    for text in (str(error.value), shown.out, shown.err):
        assert token is None or token not in text
    assert not hub.repos


def no_meta(path: Path) -> None:
    (path / "meta" / WEIGHTS).unlink()


def not_calibrated(path: Path) -> None:
    cfg = json.loads((path / "cfg.json").read_text())
    del cfg["metadata"]["calibration"]
    (path / "cfg.json").write_text(json.dumps(cfg))


def not_finite(path: Path) -> None:
    sae = SAE.load_from_disk(path)
    sae.W_dec.data[0, 0] = float("nan")  # type: ignore[operator, index]
    sae.save_model(path)


def other_weights(path: Path) -> None:
    sae = SAE.load_from_disk(path)
    sae.W_dec.data *= 1.5  # type: ignore[operator]
    sae.save_model(path)


def a_pickle(path: Path) -> None:
    (path / WEIGHTS).unlink()
    torch.save({"W_dec": torch.zeros(2)}, path / "sae_weights.pt")


def a_pickle_by_another_name(path: Path) -> None:
    (path / WEIGHTS).write_bytes(pickle.dumps({"W_dec": [0.0]}))


def noted(path: Path) -> None:
    tensors = load_file(path / WEIGHTS)
    save_file(tensors, path / WEIGHTS, metadata={"source": "/home/ada/x"})
    write_comparison(path)


def pickled_sparsity(path: Path) -> None:
    torch.save({"sparsity": torch.zeros(64)}, path / "sparsity.safetensors")


def other_meta(path: Path) -> None:
    MetaTrainingSAE(meta_config(meta_d_sae=7)).save_inference_model(path.parent / "o")
    for name in ("cfg.json", WEIGHTS):
        (path.parent / "o" / "meta" / name).replace(path / "meta" / name)


def change_comparison(path: Path, **changes: Any) -> None:
    plain = json.loads((path / "comparison.json").read_text())
    plain["saes"][0] |= {k: v for k, v in changes.items() if k in plain["saes"][0]}
    plain["source"] |= {k: v for k, v in changes.items() if k in plain["source"]}
    (path / "comparison.json").write_text(json.dumps(plain))


def escaping_hook(path: Path) -> None:
    cfg = json.loads((path / "cfg.json").read_text())
    cfg["metadata"]["hook_name"] = "../../escaped"
    (path / "cfg.json").write_text(json.dumps(cfg))


def a_topk_sae(path: Path) -> None:
    cfg = json.loads((path / "cfg.json").read_text()) | {"architecture": "standard"}
    (path / "cfg.json").write_text(json.dumps(cfg))
    tensors = load_file(path / WEIGHTS)
    del tensors["threshold"]
    save_file(tensors, path / WEIGHTS)


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no cfg": (lambda p: (p / "cfg.json").unlink(), "it has no cfg.json"),
    "no meta": (no_meta, f"meta is not a saved SAE: it has no {WEIGHTS}"),
    "not calibrated": (not_calibrated, "not calibrated. Run `sae-lens-meta calibrate"),
    "not finite": (not_finite, "W_dec of the SAE .* is not finite"),
    "other weights": (other_weights, "measured other weights"),
    "no comparison": (lambda p: (p / "comparison.json").unlink(), "Measure the SAE"),
    "a pickle": (a_pickle, "a pickle, which is never published"),
    "notes in the header": (noted, "carries the notes .'source'. in its header"),
    "pickled sparsity": (pickled_sparsity, "it is no safetensors file"),
    "another's meta SAE": (other_meta, "d_sae=7, which are not those of the meta SAE"),
    "another hook": (lambda p: change_comparison(p, hook="x"), "on the hook 'x'"),
    "a solo SAE": (
        lambda p: change_comparison(p, group="solo"),
        "has the SAE as 'solo'",
    ),
    "a hook that escapes": (escaping_hook, "not a plain path inside"),
    "another architecture": (a_topk_sae, "of architecture 'standard'. Only a jumprelu"),
    "no record of training": (
        lambda p: change_comparison(p, training={}),
        "does not record the .* Say how it was trained with --training",
    ),
    "a pickle, renamed": (a_pickle_by_another_name, "truncated or damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_published_is_refused_before_the_hub_is_asked(
    hub: HubServer, release: Callable[..., Any], path: Path, name: str
) -> None:
    spoil, message = BAD[name]
    spoil(path)
    with pytest.raises((ValueError, OSError), match=message):
        release()
    assert not hub.requests


def test_the_run_itself_is_not_written_over(
    hub: HubServer, release: Callable[..., Any], path: Path
) -> None:
    before = (path / "comparison.json").read_bytes()
    with pytest.raises(ValueError, match="Give another --output"):
        release(output=path)
    assert (path / "comparison.json").read_bytes() == before and not hub.requests


def test_a_readme_in_the_output_folder_that_is_no_card_stays(
    hub: HubServer, release: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text("# My project")
    with pytest.raises(ValueError, match="is not a card .* Give another --output"):
        release(output=tmp_path)
    assert (tmp_path / "README.md").read_text() == "# My project" and not hub.requests


@pytest.mark.parametrize("repo", ["alone", "a/b/c", "tests/", "tests/a--b", "../x/y"])
def test_a_malformed_repository_is_refused(
    release: Callable[..., Any], repo: str, hub: HubServer
) -> None:
    with pytest.raises(ValueError):
        release(repo=repo)
    assert not hub.requests


WITH_LIST = """
import sys
from pathlib import Path
from sae_lens_meta.zoo import releases
path = Path(sys.argv.pop(1))
releases.zoo_path = lambda: path
"""
PUBLISH = (
    WITH_LIST
    + """
from sae_lens_meta.cli import main
from sae_lens_meta.cli.evaluate import Evaluate
from sae_lens_meta.cli.options import parse
main()
"""
)
LOAD = (
    WITH_LIST
    + """
from sae_lens_meta.zoo import names as zoo
zoo.register_zoo()  # importing the package has registered the real list
from sae_lens import SAE
print(float(SAE.from_pretrained("metasae-tiny").W_dec.double().sum()))
"""
)


@pytest.mark.slow
def test_published_by_one_process_it_loads_in_others_online_and_then_offline(
    hub: HubServer, path: Path, tmp_path: Path, list_path: Path
) -> None:
    def run(
        code: str, *args: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        hub_only = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
        return subprocess.run(
            [sys.executable, "-c", code, str(list_path), *args],
            env=os.environ | hub_only | environment,
            capture_output=True,
            text=True,
        )

    home, out = str(tmp_path / "writers_home"), str(tmp_path / "out")
    options = ["--repo", REPO, "--release", "metasae-tiny", "--output", out]
    published = run(
        PUBLISH, "publish", str(path), *options, HF_TOKEN=WRITER, HF_HOME=home
    )
    assert published.returncode == 0, published.stderr
    assert WRITER not in published.stdout + published.stderr
    sums = []
    for offline in ("0", "1"):
        home = str(tmp_path / "readers_home")
        loaded = run(LOAD, HF_HUB_OFFLINE=offline, HF_HOME=home)
        assert loaded.returncode == 0, loaded.stderr
        sums.append(float(loaded.stdout))
        hub.repos.clear()
    wanted = float(SAE.load_from_disk(path).W_dec.double().sum())  # type: ignore[operator]
    assert sums == [wanted, wanted]


def test_the_card_says_what_was_given_in_the_place_of_the_record(
    package: Package, list_path: Path
) -> None:
    package = replace(package, comparison=copy.deepcopy(package.comparison))
    source = package.comparison.source
    source.options = {"context_size": 16}
    source.overridden = ["--context_size 16 in the place of the recorded 128"]
    text = str(model_card(package, releases.load_zoo(list_path).releases[0], "text"))
    (command,) = re.findall(r"^    (sae-lens-meta evaluate .*)$", text, re.MULTILINE)
    (_, _, *options) = shlex.split(command)
    assert parse(Evaluate, "evaluate", options).source.context_size == 16
    assert "Read with --context_size 16 in the place of the recorded 128." in text


def test_the_card_tells_the_tokens_that_the_model_was_run_on(
    package: Package, list_path: Path
) -> None:
    card = model_card(package, releases.load_zoo(list_path).releases[0], "text")
    assert "CE and KL are of the first 4,096 tokens" in str(card)
    results = card.data.to_dict()["model-index"][0]["results"]
    of = {
        metric["type"]: result["dataset"].get("config")
        for result in results
        for metric in result["metrics"]
    }
    assert of["kl_divergence_nats"] == "the first 4,096 tokens"
    assert of["normalised_l2"] is None


def test_a_config_that_was_edited_after_the_comparison_is_not_published(
    path: Path, tmp_path: Path
) -> None:
    saved = SavedSAE.read(path)
    change_comparison(path, config_sha256=saved.config_sha256)
    make_package(path, path / "comparison.json", tmp_path / "a")
    cfg = json.loads((path / "cfg.json").read_text())
    cfg["apply_b_dec_to_input"] = not cfg["apply_b_dec_to_input"]
    (path / "cfg.json").write_text(json.dumps(cfg))
    with pytest.raises(ValueError, match="cfg.json was changed since"):
        make_package(path, path / "comparison.json", tmp_path / "b")
