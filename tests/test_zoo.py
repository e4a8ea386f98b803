"""Releases by their names: what SAELens finds, what is refused, what is verified."""

import copy
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants
from sae_lens import SAE
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

import sae_lens_meta
from sae_lens_meta import MetaTrainingSAE
from sae_lens_meta.zoo import files as release_files
from sae_lens_meta.zoo import names as zoo
from sae_lens_meta.zoo import releases
from tests.helpers import meta_config
from tests.hub_server import Fault, HubServer

REPO, NAME, FOLDER = "tests/metasae-tiny", "metasae-tiny", "blocks.0.hook"
COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A joint SAE and its meta SAE, as a repository would hold them."""
    sae = MetaTrainingSAE(meta_config())
    sae.save_inference_model(tmp_path / "repo" / FOLDER)
    return tmp_path / "repo"


def load(*args: Any, **kwargs: Any) -> Any:
    """`SAE.from_pretrained` as the plugin leaves it; type checkers know SAELens's own."""
    from_pretrained: Any = SAE.from_pretrained
    return from_pretrained(*args, **kwargs)


def entry(saved: Path, **changes: Any) -> dict[str, Any]:
    contents = {
        str(path.relative_to(saved)): path.read_bytes()
        for path in saved.rglob("*")
        if path.suffix in (".json", ".safetensors")
    }
    sae = {
        "id": "hook",
        "path": FOLDER,
        "meta_path": f"{FOLDER}/meta",
        "l0": 4.0,
        "explained_variance": 0.8,
        "files": {n: hashlib.sha256(c).hexdigest() for n, c in contents.items()},
    }
    return {
        "name": NAME,
        "repo_id": REPO,
        "revision": COMMIT,
        "published": True,
        "model": "a model",
        "hook": "blocks.0.hook",
        "conversion_func": "sae_lens_meta",
        "licence": "mit",
        "paper": "https://arxiv.org/abs/2604.03436",
        "training": "80 steps",
        "command": "sae-lens-meta demo",
        "saes": [sae],
    } | changes


def use_zoo(
    entries: list[dict[str, Any]], path: Path, patch: pytest.MonkeyPatch
) -> None:
    path.write_text(yaml.safe_dump({"releases": entries}, sort_keys=False))
    patch.setattr(releases, "zoo_path", lambda: path)
    zoo.register_zoo()


@pytest.fixture
def released(
    hub: HubServer, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    """The release on a Hub of its own, nothing cached."""
    files = {
        str(path.relative_to(saved)): path.read_bytes()
        for path in saved.rglob("*")
        if path.is_file()
    }
    large = {name for name in files if name.endswith(".safetensors")}
    commit = hub.new_repo(REPO).commit(files, large)
    use_zoo([entry(saved, revision=commit)], tmp_path / "zoo.yaml", monkeypatch)
    yield hub
    get_pretrained_saes_directory().pop(NAME, None)


def same_weights(found: Any, folder: Path) -> bool:
    wanted = SAE.load_from_disk(folder).state_dict()
    return all(torch.equal(found.state_dict()[k], wanted[k]) for k in wanted)


def test_a_release_loads_by_its_name_alone_and_its_meta_sae_too(
    released: HubServer, saved: Path
) -> None:
    sae = load(NAME)
    assert same_weights(sae, saved / FOLDER)
    assert same_weights(sae_lens_meta.load_meta_sae(NAME), saved / FOLDER / "meta")
    released.requests.clear()
    with_cfg, cfg, sparsity = SAE.from_pretrained_with_cfg_and_sparsity(
        NAME, "hook", dtype="bfloat16"
    )
    assert with_cfg.dtype == torch.bfloat16 and cfg["architecture"] == "jumprelu"
    assert sparsity is None
    downloads = [r for r in released.requests if r[0] == "GET"]
    assert not downloads, "it was in the cache"
    load(NAME, force_download=True)
    assert len([r for r in released.requests if r[0] == "GET"]) == 2
    lookup = get_pretrained_saes_directory()[NAME]
    assert (lookup.expected_l0, lookup.repo_id) == ({"hook": 4.0}, REPO)


def cached(tmp_path: Path, name: str) -> Path:
    return next((tmp_path / "cache").rglob(f"snapshots/*/{FOLDER}/{name}")).resolve()


@pytest.mark.usefixtures("released")
def test_a_damaged_file_in_the_cache_is_repaired_and_never_loaded(
    saved: Path, tmp_path: Path
) -> None:
    load(NAME)
    weights = cached(tmp_path, "sae_weights.safetensors")
    content = weights.read_bytes()
    for damaged in (content[:-100], content[:-1] + bytes([content[-1] ^ 1])):
        weights.write_bytes(damaged)
        assert same_weights(load(NAME), saved / FOLDER)
        assert weights.read_bytes() == content


def test_other_bytes_under_the_pinned_revision_are_refused(
    released: HubServer, saved: Path
) -> None:
    weights = (saved / FOLDER / "sae_weights.safetensors").read_bytes()
    key = (REPO, hashlib.sha256(weights).hexdigest())
    released.objects[key] = weights[:-1] + bytes([weights[-1] ^ 1])
    for _ in range(2):
        with pytest.raises(ValueError, match="is not the file that was released"):
            load(NAME)
    left = [p for p in Path(constants.HF_HUB_CACHE).rglob("*") if p.is_file()]
    assert released.objects[key] not in [p.read_bytes() for p in left]
    released.objects[key] = weights
    assert same_weights(load(NAME), saved / FOLDER)


def test_the_pinned_revision_is_loaded_though_the_head_has_moved(
    released: HubServer, saved: Path
) -> None:
    repo = released.repos[REPO]
    moved = {name: b"{}" for name in repo.files}
    repo.commit(moved, repo.large[repo.head])
    assert same_weights(load(NAME), saved / FOLDER)


@pytest.mark.parametrize(
    "name", ["cfg.json", "meta/cfg.json", "meta/sae_weights.safetensors"]
)
def test_every_file_is_verified(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(release_files, "bundled_folder", lambda: tmp_path / "bundled")
    shutil.copytree(saved, tmp_path / "bundled" / NAME)
    bundled = entry(saved, published=False, bundled=True, revision=None)
    use_zoo([bundled], tmp_path / "zoo.yaml", monkeypatch)
    damaged = tmp_path / "bundled" / NAME / FOLDER / name
    damaged.write_bytes(damaged.read_bytes() + b" ")
    with pytest.raises(ValueError, match="missing or damaged"):
        load(NAME)
        sae_lens_meta.load_meta_sae(NAME)
    get_pretrained_saes_directory().pop(NAME)


def test_a_damaged_file_is_said_to_be_damaged_offline_too(
    released: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(NAME)
    weights = cached(tmp_path, "sae_weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    released.repos.clear()
    for offline in (False, True):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        with pytest.raises(
            ValueError, match="is damaged in the cache, and could not be"
        ):
            load(NAME)


@pytest.mark.parametrize("kind", [500, 429, "truncate", "trickle", "stall", "die"])
def test_a_download_that_is_disturbed_ends_whole_or_not_at_all(
    released: HubServer, saved: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    fault = Fault("GET /storage", kind, times=1, headers={"Retry-After": "0"})
    released.faults.append(fault)
    for _ in range(2):
        try:
            sae = load(NAME)
        except OSError:
            continue
        assert same_weights(sae, saved / FOLDER)
        break
    else:
        pytest.fail("it never recovered")
    assert fault.times == 0, "the fault was met"


def test_a_bundled_release_needs_no_network_and_is_verified_too(
    hub: HubServer, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release_files, "bundled_folder", lambda: tmp_path / "bundled")
    shutil.copytree(saved, tmp_path / "bundled" / NAME)
    bundled = entry(saved, published=False, bundled=True, revision=None)
    use_zoo([bundled], tmp_path / "zoo.yaml", monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same_weights(load(NAME), saved / FOLDER)
    assert same_weights(sae_lens_meta.load_meta_sae(NAME), saved / FOLDER / "meta")
    assert not hub.requests
    weights = tmp_path / "bundled" / NAME / FOLDER / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    for spoil in (lambda: None, weights.unlink):
        spoil()
        with pytest.raises(ValueError, match="missing or damaged. Install"):
            load(NAME)
    get_pretrained_saes_directory().pop(NAME)


OFFLINE = """
import sys
from pathlib import Path
from sae_lens_meta.zoo import releases
releases.zoo_path = lambda: Path(sys.argv[1])
from sae_lens_meta.zoo import names as zoo
zoo.register_zoo()
from sae_lens import SAE
print(float(SAE.from_pretrained("metasae-tiny").W_dec.sum()))
"""


@pytest.mark.slow
def test_a_fresh_process_loads_it_and_another_does_so_offline(
    released: HubServer, saved: Path, tmp_path: Path
) -> None:
    def load_elsewhere(**environment: str) -> subprocess.CompletedProcess[str]:
        home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        return subprocess.run(
            [sys.executable, "-c", OFFLINE, str(tmp_path / "zoo.yaml")],
            env=os.environ | home | {"HF_ENDPOINT": released.url} | environment,
            capture_output=True,
            text=True,
        )

    empty = load_elsewhere(HF_HUB_OFFLINE="1")
    assert empty.returncode == 1 and "offline" in empty.stderr.lower()
    expected = float(SAE.load_from_disk(saved / FOLDER).W_dec.sum())
    assert float(load_elsewhere().stdout) == pytest.approx(expected)
    released.repos.clear()
    assert float(load_elsewhere(HF_HUB_OFFLINE="1").stdout) == pytest.approx(expected)


def test_a_release_without_weights_says_how_to_train_it() -> None:
    zoo.register_zoo()
    assert {r.name for r in sae_lens_meta.list_pretrained("metasae-g*")} == {
        "metasae-gpt2l-l20",
        "metasae-gemma2-9b-l23",
    }
    message = "do not exist yet. Train them with: sae-lens-meta reproduce metasae-gpt2l"
    with pytest.raises(ValueError, match=message):
        load("metasae-gpt2l-l20")
    with pytest.raises(ValueError, match=message):
        sae_lens_meta.load_meta_sae("metasae-gpt2l-l20")


def test_a_wrong_name_suggests_near_ones() -> None:
    with pytest.raises(ValueError, match="Did you mean metasae-gpt2l-l20"):
        load("metasae-gpt2-l20")
    with pytest.raises(ValueError, match="Did you mean .*gpt2-small-res-jb"):
        load("gpt2-small-res-jp", "blocks.8.hook_resid_pre")
    with pytest.raises(ValueError, match="There are: metasae-gpt2l-l20"):
        sae_lens_meta.load_meta_sae("metasae-gpt2-l20")


def test_stock_releases_are_as_they_were() -> None:
    before = dict(get_pretrained_saes_directory())
    zoo.register_zoo()
    zoo.register_zoo()
    directory = get_pretrained_saes_directory()
    assert {k: v for k, v in directory.items() if k in before} == before
    assert SAE.from_pretrained.__func__.wrapped_by_sae_lens_meta  # type: ignore[attr-defined]
    assert not hasattr(
        SAE.from_pretrained.__func__.__wrapped__,  # type: ignore[attr-defined]
        "wrapped_by_sae_lens_meta",
    ), "wrapped once"
    with pytest.raises(TypeError, match="takes an sae_id as well"):
        load("gpt2-small-res-jb")


def test_a_saelens_that_has_changed_is_left_alone_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def changed(cls: Any, name: str) -> str:  # noqa: ARG001
        return name

    monkeypatch.setattr(SAE, "from_pretrained", classmethod(changed))
    with pytest.warns(UserWarning, match="SAELens has changed SAE.from_pretrained"):
        zoo.register_zoo()
    assert load("x") == "x"


def broken_zoo(saved: Path, tmp_path: Path, old: str, new: str) -> str:
    text = yaml.safe_dump({"releases": [entry(saved)]}, sort_keys=False)
    assert text.count(old) >= 1
    path = tmp_path / "zoo.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError) as error:
        releases.load_zoo(path)
    line = next(
        i
        for i, t in enumerate(path.read_text().splitlines(), 1)
        if new.split("\n")[-1].strip() in t
    )
    message = str(error.value)
    assert message.startswith(f"{path}, line {line}"), message
    return message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "licence: mit",
            "license: mit",
            "Extra inputs are not permitted|Field required",
        ),
        ("published: true", "published: maybe", "valid boolean"),
        ("func: sae_lens_meta", "func: pickle", "Input should be 'sae_lens_meta'"),
        (f"repo_id: {REPO}", "repo_id: a/b/c", "Repo id"),
        (f"repo_id: {REPO}", "repo_id: alone", "not of the form organisation/name"),
        (f"revision: {COMMIT}", "revision: main", "the 40 digits of a commit"),
        (f"path: {FOLDER}", "path: ../elsewhere", "not a plain path inside"),
        (f"meta_path: {FOLDER}/meta", "meta_path: /etc", "not a plain path inside"),
        (f"path: {FOLDER}", "path: .", "not a plain path inside"),
        (f"meta_path: {FOLDER}/meta", "meta_path: 'C:/x'", "not a plain path inside"),
        ("hook: blocks.0.hook", "hook: blocks.0.hook\n  hook: twice", "stands twice"),
    ],
)
def test_a_wrong_line_of_the_list_is_named(
    saved: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert re.search(message, broken_zoo(saved, tmp_path, old, new))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "it has '' where the name"),
        (".", "it has '.' where the name"),
        ("..", "it has '..' where the name"),
        ("a/../b", "it has '..' where the name"),
        ("./a", "it has '.' where the name"),
        ("a//b", "it has '' where the name"),
        ("a/", "it has '' where the name"),
        ("/a", "absolute"),
        ("C:", "has a ':'"),
        ("C:/x", "has a ':'"),
        ("c:x", "has a ':'"),
        ("a\\b", "has a '\\\\\\\\'"),
        ("a/b?", "has a '.'"),
        ("a./b", "ends in '.'"),
        ("a/b ", "ends in ' '"),
        ("CON", "device"),
        ("a/nul", "device"),
        ("Aux.json", "device"),
        ("com1 .x/y", "device"),
        ("LPT³", "device"),
        ("a\nb", "cannot be seen"),
        ("a\0", "cannot be seen"),
        ("a\u202eb", "cannot be seen"),
    ],
)
def test_a_path_that_not_every_system_can_have_inside_a_folder_is_refused(
    path: str, reason: str
) -> None:
    with pytest.raises(
        ValueError, match=f"is not a plain path inside the repository: .*{reason}"
    ):
        releases.check_inside(path)


@pytest.mark.parametrize(
    "path",
    [
        "blocks.0.hook_resid_pre",
        "model.layers.11/meta/cfg.json",
        "console/com/lpt10/a b/.x",
        "größe",
    ],
)
def test_a_path_inside_a_folder_is_taken_as_it_is(path: str) -> None:
    assert releases.check_inside(path) == path


@pytest.mark.parametrize("name", ["nul", "con.v2", "tiny."])
def test_a_release_has_a_name_that_a_folder_can_have(name: str) -> None:
    with pytest.raises(ValueError, match="no name for a release: .* Windows"):
        releases.check_release_name(name)


def test_files_must_be_safetensors_of_the_sae_with_a_sha256(
    saved: Path, tmp_path: Path
) -> None:
    good = entry(saved)
    files = good["saes"][0]["files"]
    weights = f"{FOLDER}/sae_weights.safetensors"
    cases = {
        "is no file of the SAEs": files | {f"{FOLDER}/sae_weights.pt": "0" * 64},
        "is no file of the SAEs in": files | {"elsewhere/cfg.json": "0" * 64},
        "not a sha256": files | {weights: "abc"},
        f"no sha256 of '{weights}'": {k: v for k, v in files.items() if k != weights},
    }
    for message, wrong in cases.items():
        path = tmp_path / "zoo.yaml"
        sae = good["saes"][0] | {"files": wrong}
        path.write_text(yaml.safe_dump({"releases": [good | {"saes": [sae]}]}))
        with pytest.raises(ValueError, match=message):
            releases.load_zoo(path)
    twice = yaml.safe_dump({"releases": [good, copy.deepcopy(good)]})
    (tmp_path / "zoo.yaml").write_text(twice)
    lines = enumerate(twice.splitlines(), 1)
    _, second = (i for i, line in lines if line.startswith("- "))
    with pytest.raises(ValueError, match=f"line {second}: 'metasae-tiny' stands twice"):
        releases.load_zoo(tmp_path / "zoo.yaml")
    assert (
        json.loads((saved / FOLDER / "cfg.json").read_text())["architecture"]
        == "jumprelu"
    )
