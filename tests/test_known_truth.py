"""A study on known truth: its data, its figures against brute force, and that it goes on."""

import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from sae_lens import SAE, BatchTopKTrainingSAEConfig

from sae_lens_meta.known_truth import data as kinds
from sae_lens_meta.known_truth import study as studies
from sae_lens_meta.known_truth.absorption import absorption
from sae_lens_meta.known_truth.data import KINDS, KnownTruth, Samples
from sae_lens_meta.known_truth.figures import premise, truth_figures
from sae_lens_meta.known_truth.objective import parse_objective
from sae_lens_meta.known_truth.plot import plot_study
from sae_lens_meta.known_truth.study import RESULTS, StudyConfig, planned, run_study
from sae_lens_meta.known_truth.table import (
    COLUMNS,
    _at_equal_l2,
    changes,
    groups,
    print_study,
    shown,
)
from sae_lens_meta.known_truth.training import Trained, exported

SMALL = [name for name in KINDS if name != "synthsaebench_16k"]
SAES = (
    "solo={architecture: meta, decomposability_coefficient: 0, normalize_activations: none}",
    "stock={architecture: batchtopk, lr: 0.001}",
)


@pytest.fixture(autouse=True)
def quick_meta_sae(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a study's figures only the meta SAE's takes seconds."""
    monkeypatch.setattr("sae_lens_meta.known_truth.figures.META_STEPS", 3)


def config(folder: Path, **changes: Any) -> StudyConfig:
    settings: dict[str, Any] = {"sae": SAES, "data": ("hierarchy_1",), "seeds": (0, 1)}
    settings |= {"steps": 30, "batch_size": 128, "test_samples": 3000}
    return StudyConfig(**settings | changes, output=folder)


@pytest.mark.parametrize("kind", SMALL)
def test_activations_are_the_true_features_and_of_unit_scale(kind: str) -> None:
    truth = KnownTruth(kind, seed=3)
    test = truth.test_samples(6_000)
    made = truth.scale * test.features @ truth.directions
    torch.testing.assert_close(test.activations, made, rtol=1e-4, atol=1e-4)
    assert abs(test.activations.pow(2).mean() - 1) < 0.05
    l0 = (test.features > 0).sum(1).float().mean()
    assert 3 < l0 < 5
    fires = test.features > 0
    if kind in ("independent", "correlated"):
        assert len(truth.pairs) == 0
    else:
        assert len(truth.pairs) > 300
        parents, children = truth.pairs.t()
        assert not (fires[:, children] & ~fires[:, parents]).any()
    if kind.startswith("exclusive"):
        for parent in truth.pairs[:, 0].unique():
            siblings = truth.pairs[truth.pairs[:, 0] == parent, 1]
            assert fires[:, siblings].sum(1).max() <= 1


def test_what_is_drawn_at_once_is_batches_and_fits() -> None:
    assert kinds.samples_at_once(512, 512) == 32 * 512
    # values of so many features, and never less than a batch
    assert kinds.samples_at_once(16_384, 256) == 2 * 256
    assert kinds.samples_at_once(16_384, 1024) == 1024


def test_batches_depend_on_the_seed_alone() -> None:
    def first(seed: int, n: int, size: int) -> torch.Tensor:
        batches = KnownTruth("correlated", seed).batches(size)
        return torch.stack([next(batches) for _ in range(n)])

    torch.manual_seed(0)
    one = first(0, kinds.BATCHES_AT_ONCE + 1, 16)
    torch.manual_seed(9)
    torch.testing.assert_close(first(0, len(one), 16), one, rtol=0, atol=0)
    assert not torch.equal(first(1, 1, 16), one[:1])
    samples = one.flatten(0, 1)
    samples = samples[samples.norm(dim=1) > 0]  # some have no feature
    assert len(samples.unique(dim=0)) == len(samples)


def planted(codes: torch.Tensor, truth: Any) -> SAE[Any]:
    """An SAE whose rows are the true directions and whose codes are given."""
    cfg = BatchTopKTrainingSAEConfig(d_in=truth.d_in, d_sae=len(truth.directions), k=4)
    from sae_lens import BatchTopKTrainingSAE

    sae: Any = BatchTopKTrainingSAE(cfg)
    sae.W_dec.data = truth.directions.clone()
    sae.encode = lambda _: codes
    sae.decode = lambda acts: acts @ truth.directions
    return sae


def test_the_truth_itself_scores_as_the_truth() -> None:
    truth = KnownTruth("hierarchy_2", 0)
    test = truth.test_samples(4000)
    sae = planted(truth.scale * test.features, truth)
    found = truth_figures(sae, truth, test, with_premise=False)
    assert found.l2 < 1e-6 and found.mcc > 0.9999 and found.uniqueness == 1
    assert found.phi_error == 0 and found.f1 > 0.9  # features that never fire have none
    assert found.recall_with_child == 1 and found.absorption_gap == 0
    assert found.excess_cosine == pytest.approx(0, abs=1e-6)
    assert found.phi == pytest.approx(premise(truth, test, 512).phi)


def test_absorption_is_found_where_a_parent_goes_silent_with_its_child() -> None:
    torch.manual_seed(0)
    fires = torch.rand(2000, 3) < 0.5
    fires[:, 1] &= fires[:, 0]  # 1 is a child of 0
    directions = torch.eye(3, 8)
    codes = fires.float()
    codes[fires[:, 1] & (torch.arange(2000) % 4 != 0), 0] = 0
    W_dec = directions.clone()
    W_dec[1] = torch.nn.functional.normalize(directions[0] + directions[1], dim=0)
    pairs = torch.tensor([[0, 1]])
    found = absorption(W_dec, codes, directions, fires.float(), pairs)
    assert found is not None and found.n_pairs == 1
    with_child = codes[fires[:, 1], 0].mean().item()
    assert found.recall_alone == 1 and found.recall_with_child == pytest.approx(
        with_child
    )
    assert found.gap == pytest.approx(1 - with_child)
    assert found.excess_cosine == pytest.approx(2**-0.5)
    none = absorption(directions, fires.float(), directions, fires.float(), pairs)
    assert none is not None and none.gap == 0
    assert absorption(W_dec, codes, directions, fires.float(), pairs[:0]) is None


def test_the_error_of_phi_is_that_of_a_brute_force() -> None:
    truth: Any = SimpleNamespace(d_in=6, directions=torch.eye(4, 6), scale=1.0)
    truth.pairs = torch.empty(0, 2, dtype=torch.long)
    torch.manual_seed(0)
    features = (torch.rand(500, 4) < 0.3).float()
    codes = features.clone()
    codes[:100, 1] = codes[:100, 0]
    test = Samples(features @ truth.directions, features)
    found = truth_figures(planted(codes, truth), truth, test, with_premise=False)

    def phi(x: torch.Tensor) -> np.ndarray:
        return np.abs(np.corrcoef(x.numpy().astype(float), rowvar=False))

    off = np.abs(phi(codes) - phi(features))[np.triu_indices(4, 1)]
    assert found.phi_error == pytest.approx(off.mean(), rel=1e-5)
    assert found.recall_with_child is None


def test_a_study_goes_on_and_takes_what_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_study(config(tmp_path / "whole"))
    assert len(whole.trained) == 4
    part = config(tmp_path / "part", sae=SAES[:1], seeds=(0,))
    run_study(part)
    taken: list[Any] = []
    train = studies.train

    def counted(*work: Any) -> Any:
        taken.append([objective.name for objective in work[1]])
        return train(*work)

    monkeypatch.setattr(studies, "train", counted)
    study = run_study(config(tmp_path / "part"))
    assert taken == [["stock"], ["solo", "stock"]]
    for key, trained in whole.trained.items():
        assert study.trained[key].result == trained.result
    assert run_study(config(tmp_path / "part")).trained == study.trained
    assert len(taken) == 2
    # another setting under an old name is another SAE
    other = (SAES[0], SAES[1].replace("0.001", "0.002"))
    assert len(run_study(config(tmp_path / "part", sae=other)).trained) == 4
    assert len(taken) == 4


def test_processes_beyond_the_cells_share_them_on_the_same_batches(
    tmp_path: Path,
) -> None:
    whole = run_study(config(tmp_path, seeds=(0,)))
    shared = planned(config(tmp_path, seeds=(0,), processes=3))
    parts = studies._missing(shared)
    assert [[o.name for o in work[1]] for work in parts] == [["solo"], ["stock"]]
    for work in parts:
        for trained in studies._train(work):
            assert isinstance(trained, Trained)
            key = trained.cell, trained.objective.name
            assert trained.result == whole.trained[key].result


def test_lines_are_read_as_they_were_written(tmp_path: Path) -> None:
    study = run_study(config(tmp_path, seeds=(0,)))
    lines = (tmp_path / RESULTS).read_text().splitlines()
    read = [Trained.from_dict(json.loads(line)) for line in lines]
    assert read == list(study.trained.values())
    solo = read[0]
    assert [steps for steps, _ in solo.path] == [1, 2, 4, 7, 14, 30]
    assert [f.explained is None for _, f in solo.path] == [True] * 5 + [False]
    assert len(read[1].path) == 1


def test_changes_are_by_seed_and_the_control_is_between_the_steps(
    tmp_path: Path,
) -> None:
    study = run_study(config(tmp_path))
    (group,) = groups(study)
    l2 = next(c for c in COLUMNS if c.field == "l2")
    found = changes(study, group, "stock", l2)
    of_seed = {
        (cell.seed, name): t.result.l2 for (cell, name), t in study.trained.items()
    }
    expected = [100 * (of_seed[s, "stock"] / of_seed[s, "solo"] - 1) for s in (0, 1)]
    assert found == pytest.approx(expected)
    mcc = next(c for c in COLUMNS if c.field == "mcc")
    control = changes(study, group, "stock", mcc, at_equal_l2=True)
    assert control == []  # both reconstruct better than solo ever did
    solo = next(t for (_, name), t in study.trained.items() if name == "solo")
    (low, mcc_low), (high, mcc_high) = sorted((f.l2, f.mcc) for _, f in solo.path)[:2]
    between = _at_equal_l2(solo, (low + high) / 2, "mcc")
    assert between == pytest.approx((mcc_low + mcc_high) / 2)
    assert _at_equal_l2(solo, 0.99 * low, "mcc") is None
    console = Console(record=True, width=80, file=io.StringIO())
    print_study(study, console)
    text = console.export_text()
    assert "hierarchy_1, 512 latents, k 4, 30 steps of 128, 2 seeds" in text
    assert "at equal L2" in text and "true features" in text
    # in eighty columns, nothing is cut
    assert all(column.label in text for column in COLUMNS)
    (line,) = [line for line in text.splitlines() if "MCC %" in line]
    assert shown(changes(study, group, "stock", mcc)) in line
    plot_study(study, tmp_path / "study.png")
    assert (tmp_path / "study.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": ("trees",)}, "no kind of data 'trees'. Give one of independent"),
        ({"sae": ("solo",)}, "takes NAME=.*got 'solo'"),
        ({"sae": ("solo={architecture: bathtopk}",)}, "no architecture 'bathtopk'"),
        (
            {"sae": ("solo={architecture: batchtopk, meta_k: 3}",)},
            "no setting 'meta_k'",
        ),
        ({"sae": ("solo={meta_k: -1}",)}, "SAE 'solo': meta_k must be above 0"),
        ({"sae": (SAES[0], SAES[0])}, "Two SAEs are called 'solo'"),
        ({"baseline": "joint"}, "no SAE 'joint' to hold the others against"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"seeds": ()}, r"--seeds takes one or more values, each once, got \[\]"),
        ({"seeds": (1, 1)}, r"--seeds .* each once, got \[1, 1\]"),
        ({"sae": ()}, "--sae takes one or more"),
        ({"sae": ("solo={times: 0}",)}, "SAE 'solo': times must be .* above 0, got 0"),
        ({"sae": ("solo={times: abc}",)}, "times must be a number, .* got 'abc'"),
        ({"sae": ("solo={times: 0.01}",)}, "times 0.01 leaves it 0 of 30 steps"),
        ({"sae": ("solo={lr: -1}",)}, "lr must be a number, above 0, got -1"),
        ({"sae": ("solo={lr_decay_steps: 31}",)}, "take 31 steps, and it has 30"),
        ({"sae": ("solo={d_sae: 100}",)}, "d_sae is the same .*: give --dictionary"),
        (
            {"sae": ("solo={architecture: topk}",), "k": (4.5,)},
            "topk takes a whole k, got 4.5",
        ),
        (
            {"sae": ("solo={k_start: 16, k_anneal_steps: 31}",)},
            "SAE 'solo': k_anneal_steps=31 is more than the 30 steps",
        ),
        ({"dictionary": (0.001,)}, "leaves 0.512 latents"),
        ({"k": (float("nan"),)}, "--k must be above 0, got nan"),
        ({"dictionary": (float("nan"),)}, "--dictionary nan leaves nan latents"),
        ({"dictionary": (1000.0,)}, "512,000 latents and .* takes .* GB"),
        (
            # few latents: it is the features that are many
            {"dictionary": (0.01,), "data": ("synthsaebench_16k",), "processes": 100}
            | {"seeds": tuple(range(100))},
            "16,384 features .* in 100 processes",
        ),
    ],
)
def test_what_cannot_be_used_is_said_before_any_work(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run_study(config(tmp_path / "out", **changed))
    assert not (tmp_path / "out").exists()


def test_a_line_that_was_cut_off_is_named(tmp_path: Path) -> None:
    (tmp_path / RESULTS).write_text('{"cell": {"kind": "hier')
    with pytest.raises(ValueError, match=f"Line 1 of .*{RESULTS} is no result"):
        run_study(config(tmp_path))


def test_an_sae_of_default_settings_is_measured_by_what_it_gives_back(
    tmp_path: Path,
) -> None:
    """`meta` takes each sample's own mean and norm off, and TopK an integer."""
    saes = ("solo={}", "topk={architecture: topk}")
    study = run_study(config(tmp_path, sae=saes, seeds=(0,), k=(4.0,)))
    assert {name for _, name in study.trained} == {"solo", "topk"}
    truth, objective = KnownTruth("hierarchy_1", 0), study.objectives["solo"]
    test = truth.test_samples(500)
    sae = exported(objective.new_sae(truth.d_in, 512, 4.0, 0))
    assert sae.cfg.normalize_activations == "layer_norm"
    with torch.no_grad():
        error = (sae(test.activations) - test.activations).double()
    around = (test.activations - test.activations.mean(0)).double()
    expected = float(error.pow(2).sum() / around.pow(2).sum())
    found = truth_figures(sae, truth, test, with_premise=False)
    assert found.l2 == pytest.approx(expected, rel=1e-6)


def test_help_names_every_kind_of_data() -> None:
    said = str(StudyConfig.__doc__)
    # hierarchy_2 lies between two that are named
    assert all(kind in said for kind in KINDS if kind != "hierarchy_2")


def test_a_new_baseline_is_measured_on_the_way_though_it_was_trained_before(
    tmp_path: Path,
) -> None:
    run_study(config(tmp_path, seeds=(0,)))
    study = run_study(config(tmp_path, seeds=(0,), baseline="stock"))
    (path,) = [t.path for (_, name), t in study.trained.items() if name == "stock"]
    assert [steps for steps, _ in path] == [1, 2, 4, 7, 14, 30]


def test_widths_of_one_dictionary_are_not_those_of_the_next(tmp_path: Path) -> None:
    matryoshka = (
        "solo={architecture: matryoshka_batchtopk, matryoshka_widths: [32, 128]}"
    )
    study = planned(config(tmp_path, sae=(matryoshka,), dictionary=(0.5, 1)))
    objective = study.objectives["solo"]
    assert objective.settings["matryoshka_widths"] == [32, 128]
    for d_sae in (256, 512):
        cfg: Any = objective.new_sae(64, d_sae, 4, 0).cfg
        assert cfg.matryoshka_widths == [32, 128, d_sae]


def test_one_that_diverges_is_left_out_and_named_and_the_others_kept(
    tmp_path: Path,
) -> None:
    saes = (*SAES, "wild={decomposability_coefficient: 0, lr: 1.0e+25}")
    study = run_study(config(tmp_path, sae=saes, seeds=(0,)))
    assert {name for _, name in study.trained} == {"solo", "stock"}
    console = Console(record=True, width=80, file=io.StringIO())
    print_study(study, console)
    assert "Left out: wild, hierarchy_1, seed 0" in console.export_text()
    with pytest.raises(ValueError, match="No training came to its end. .*NaN or inf"):
        alone = (saes[2].replace("wild", "solo"),)
        run_study(config(tmp_path / "alone", sae=alone, seeds=(0,)))


def test_a_mean_over_some_of_the_seeds_says_over_how_many() -> None:
    assert shown([1.0], of=2) == "+1.0 (1 of 2)"
    assert shown([1.0], of=1) == shown([1.0]) == "+1.0"
    assert shown([], of=2) == ""


def test_every_architecture_and_the_trainer_s_settings_are_taken() -> None:
    objective = parse_objective(
        "a={architecture: topk, lr: 0.1, adam_beta1: 0, times: 2}"
    )
    assert (objective.times, objective.settings) == (2, {})
    cfg = objective.trainer_config(100, 8, lr=1e-3)
    assert (cfg.lr, cfg.lr_end, cfg.adam_beta1) == (0.1, 0.1, 0)
    assert parse_objective("b={}").architecture == "meta"


def test_the_published_benchmark_is_described_and_not_made_before_it_is_asked_for(
    tmp_path: Path,
) -> None:
    study = planned(
        config(tmp_path, data=("synthsaebench_16k",), dictionary=(0.01,), seeds=(0,))
    )
    assert study.cells[0].d_sae == 164


@pytest.mark.slow
def test_the_published_benchmark_is_as_described(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = KINDS["synthsaebench_16k"]
    # 100 steps of it take many minutes of a processor
    assert settings["orthogonalization"].num_steps == 100
    short = replace(settings["orthogonalization"], num_steps=1)
    changed = settings | {"orthogonalization": short}
    monkeypatch.setitem(KINDS, "synthsaebench_16k", changed)
    truth = KnownTruth("synthsaebench_16k", 0)
    assert truth.directions.shape == (16_384, 768)
    # 128 trees of 1 + 4 + 16 + 64
    assert len(truth.pairs) == 128 * 84
    test = truth.test_samples(500)
    fires = test.features > 0
    parents, children = truth.pairs.t()
    assert not (fires[:, children] & ~fires[:, parents]).any()
    # what is published of it: "~34 active features per sample", "~25" of the first 4,096
    assert 32 < fires.sum(1).float().mean() < 37
    assert 23 < fires[:, :4096].sum(1).float().mean() < 28


def test_a_training_takes_one_core_and_leaves_the_threads_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        monkeypatch.setattr(
            studies, "train", lambda *_: iter([torch.get_num_threads()])
        )
        work: Any = [((), [], "", "")]
        assert list(studies._results(work, processes=1)) == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
