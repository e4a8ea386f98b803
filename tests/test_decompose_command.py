"""`sae-lens-meta decompose`: which SAE it is given, what it refuses, what it writes and says."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE
from sae_lens.loading.pretrained_saes_directory import PretrainedSAELookup
from sae_lens.registry import get_sae_class

from sae_lens_meta.cli import main
from sae_lens_meta.decomposition import decompose
from sae_lens_meta.decomposition.decompose import decomposition
from sae_lens_meta.decomposition.given import given_sae
from sae_lens_meta.zoo import names
from tests.helpers import meta_config, train
from tests.hub_server import HubServer

ARCHITECTURES = ("standard", "jumprelu", "gated", "topk", "matching_pursuit", "transcoder")  # fmt: skip
EXTRA: dict[str, dict[str, Any]] = {
    "topk": {"k": 4},
    "transcoder": {"d_out": 12, "apply_b_dec_to_input": False},
}
QUICK = ("--meta_d_sae", "6", "--meta_k", "2", "--steps", "8")


def saved(folder: Path, architecture: str = "standard", **changes: Any) -> SAE[Any]:
    """A random SAE that SAELens has written to `folder`."""
    sae_class, cfg_class = get_sae_class(architecture)
    settings: dict[str, Any] = (
        {"d_in": 16, "d_sae": 48} | EXTRA.get(architecture, {}) | changes
    )
    torch.manual_seed(0)
    sae = sae_class(cfg_class(**settings))
    sae.W_dec.data = torch.randn(sae.W_dec.shape)
    sae.save_model(folder)
    return sae


def decompose_command(*args: object) -> None:
    main(["decompose", *map(str, args), *QUICK])


@pytest.fixture
def stock_release(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, SAE[Any]]:
    """A release in SAELens's own list, its files on a Hub of the test's own."""
    saes = {name: saved(tmp_path / "up" / name, name) for name in ARCHITECTURES}
    files = {
        str(path.relative_to(tmp_path / "up")): path.read_bytes()
        for path in (tmp_path / "up").rglob("*.*")
    }
    hub.new_repo("tests/stock").commit(files, set())
    for release, ids in (("stock-res", ARCHITECTURES), ("stock-one", ("gated",))):
        entry = PretrainedSAELookup(
            release=release,
            repo_id="tests/stock",
            model="gpt2",
            conversion_func=None,
            saes_map={f"{name}-id": name for name in ids},
            expected_var_explained={},
            expected_l0={},
            neuronpedia_id={},
            norm_scaling_factor={},
            config_overrides=None,
        )
        monkeypatch.setitem(names._directory(), release, entry)
    return saes


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_decoder_is_read_from_a_folder_a_release_and_memory_alike(
    architecture: str, tmp_path: Path, stock_release: dict[str, SAE[Any]]
) -> None:
    sae = stock_release[architecture]
    sae.save_model(tmp_path / "folder")
    given = [
        given_sae(tmp_path / "folder"),
        given_sae(str(tmp_path / "folder")),
        given_sae("stock-res", f"{architecture}-id"),
        given_sae("tests/stock", architecture),
        given_sae(sae),
    ]
    for one in given:
        assert torch.equal(one.W_dec, sae.W_dec)
        assert one.sha256 == given[0].sha256 and one.joint is None


def test_half_precision_is_read_in_float32(tmp_path: Path) -> None:
    sae = saved(tmp_path, dtype="bfloat16").to(torch.bfloat16)
    sae.save_model(tmp_path)
    given = given_sae(tmp_path)
    assert given.W_dec.dtype == torch.float32
    assert torch.equal(given.W_dec, sae.W_dec.float())


@pytest.mark.usefixtures("stock_release")
def test_a_release_of_several_saes_names_their_ids() -> None:
    for sae_id in (None, "gatd-id"):
        with pytest.raises(ValueError, match="has several SAEs") as said:
            given_sae("stock-res", sae_id)
        assert all(f"{name}-id" in str(said.value) for name in ARCHITECTURES)
    assert "They are: gated-id, " in str(said.value)  # what was meant, first
    assert given_sae("stock-one").name == "stock-one"
    with pytest.raises(ValueError, match="has no list of this repository's"):
        given_sae("tests/stock")
    with pytest.raises(
        ValueError, match="no folder and no release 'stock-re'.*stock-res"
    ):
        given_sae("stock-re")
    with pytest.raises(ValueError, match="There is no folder"):
        given_sae(Path("stock-res"))


def test_the_ids_of_a_large_release_are_not_all_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = names._directory()["gemma-scope-2b-pt-res"]
    assert len(known.saes_map) > names.MAX_LISTED
    monkeypatch.setattr(SAE, "from_pretrained", None)  # no download is begun
    with pytest.raises(ValueError, match=r"and \d+ more") as said:
        given_sae("gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_72")
    assert "layer_20/width_16k/average_l0_71" in str(said.value)


def test_what_the_command_writes_is_read_by_saelens_and_from_python(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "sae")
    decompose_command(tmp_path / "sae")
    folder = tmp_path / "sae" / "decomposition"
    shown = capsys.readouterr().out
    record = json.loads((folder / "decomposition.json").read_text())
    figures = (
        record["explained_variance"],
        record["nulls"]["same_covariance"],
        record["nulls"]["turned"],
        record["stability"]["explained_variance"],
    )
    assert all(f"{figure:.3f}" in shown for figure in figures)
    assert "meta latents that come back" in shown and str(folder) in shown
    assert SAE.load_from_disk(folder).cfg.d_sae == 6
    assert (folder / "decomposition.svg").read_text().lstrip().startswith("<?xml")
    found = decomposition(tmp_path / "sae")
    assert found.explained_variance == pytest.approx(record["explained_variance"])
    assert found.stability and len(found.stability.cosine) == 6


def test_nothing_is_overwritten_and_another_folder_can_be_given(tmp_path: Path) -> None:
    saved(tmp_path / "sae")
    decompose_command(tmp_path / "sae", "--output", tmp_path / "out")
    first = (tmp_path / "out" / "decomposition.json").read_bytes()
    with pytest.raises(
        SystemExit, match="exists. Write elsewhere, or give --overwrite"
    ):
        decompose_command(tmp_path / "sae", "--output", tmp_path / "out", "--seed", 1)
    assert (tmp_path / "out" / "decomposition.json").read_bytes() == first
    options = ("--overwrite", "--seed", 1)
    decompose_command(tmp_path / "sae", "--output", tmp_path / "out", *options)
    assert (tmp_path / "out" / "decomposition.json").read_bytes() != first
    assert not (tmp_path / "sae" / "decomposition").exists()


def test_a_release_is_written_here_and_a_joint_one_is_opened(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stock_release: dict[str, SAE[Any]],  # noqa: ARG001
) -> None:
    monkeypatch.chdir(tmp_path)
    decompose_command("--release", "stock-res", "--sae_id", "jumprelu-id")
    assert "fitted to the SAE" in capsys.readouterr().out
    record = json.loads((tmp_path / "decomposition" / "decomposition.json").read_text())
    assert record["origin"] == "fitted" and record["sae"]["name"] == "stock-res"
    train(meta_config(), 60).save_inference_model(tmp_path / "joint")
    main(["decompose", str(tmp_path / "joint"), "--steps", "8"])
    assert "trained with the SAE" in capsys.readouterr().out
    decompose_command(tmp_path / "joint", "--refit", "--overwrite")
    assert "fitted to the SAE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "Give one SAE"),
        (("sae", "--release", "stock-res"), "Give one SAE"),
        (
            ("sae", "--meta_d_sae", "49"),
            "48 decoder rows, fewer than the 49 meta latents",
        ),
        (("sae", "--meta_k", "0"), "meta_k must be above 0"),
        (("sae", "--output", "sae/cfg.json"), "cannot|Nothing can be written"),
        (("nowhere",), "no folder and no release 'nowhere'"),
    ],
)
def test_bad_input_is_one_line_before_any_work(
    args: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("work was begun")

    saved(tmp_path / "sae")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(decompose, "fit", refused)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit, match=message) as ended:
        main(["decompose", *args])
    assert "\n" not in str(ended.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_damaged_folders_and_checkpoints_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "cut")
    weights = tmp_path / "cut" / "sae_weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="truncated or damaged"):
        given_sae(tmp_path / "cut")
    weights.write_bytes(whole)
    cfg = json.loads((tmp_path / "cut" / "cfg.json").read_text())
    (tmp_path / "cut" / "cfg.json").write_text(json.dumps(cfg | {"d_sae": 47}))
    with pytest.raises(ValueError, match=r"to have 47 rows of width 16.*\(48, 16\)"):
        given_sae(tmp_path / "cut")
    train(meta_config(), 3).save_model(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="is a checkpoint of a training"):
        given_sae(tmp_path / "checkpoint")
