"""`sae-lens-meta compare` from the command line to its files, on a small model."""

import itertools
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import SAE

from sae_lens_meta.activations.measured_on import SourceConfig
from sae_lens_meta.activations.source import load_source
from sae_lens_meta.cli import main
from sae_lens_meta.comparison.figures import PHI
from sae_lens_meta.comparison.result import Comparison
from sae_lens_meta.measures.matching import match_latents
from sae_lens_meta.saved import SavedSAE
from tests.helpers import phi_by_chance
from tests.tiny_llama import save_tiny_llama, save_trained

TOKENS, MIN_FIRED = 8192, 30
SOURCE = ["--tokens", str(TOKENS)]
# what meta SAEs explain is tested elsewhere, and here they would take most of the time
FAST = ["--ce_tokens", "2048", "--n_candidates", "5", "--meta_steps", "20"]

JOINT = {"training_architecture_details": {"decomposability_coefficient": 0.3}}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def saes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("saes")
    model = save_tiny_llama(root / "model")
    solo = {"decomposability_coefficient": 0}
    settings: dict[str, dict[str, Any]] = {
        "solo_0": {**solo, "init_seed": 0},
        "solo_1": {**solo, "init_seed": 1},
        "weak": {**solo, "init_seed": 2, "k": 3},
        "joint": {"decomposability_coefficient": 1.0, "init_seed": 0},
    }
    return {
        name: save_trained(model, root / name, **chosen)
        for name, chosen in settings.items()
    }


def arguments(saes: dict[str, Path], output: Path) -> list[str]:
    solos = ["--solo", str(saes["solo_0"]), "--solo", str(saes["solo_1"])]
    control = ["--solo_equal_l2", str(saes["weak"])]
    joint = ["--joint", str(saes["joint"])]
    return [
        "compare",
        *joint,
        *solos,
        *control,
        "--output",
        str(output),
        *SOURCE,
        *FAST,
    ]


@pytest.fixture(scope="module")
def output(saes: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    main(arguments(saes, folder))
    return folder


@pytest.fixture(scope="module")
def found(output: Path) -> Comparison:
    return Comparison.load(output / "comparison.json")


@pytest.fixture(scope="module")
def fires(saes: dict[str, Path]) -> dict[str, np.ndarray]:
    """Which latents fire on each token, `[n_tokens, d_sae]`."""
    loaded = {name: SAE.load_from_disk(path) for name, path in saes.items()}
    source, _ = load_source(SourceConfig(), [SavedSAE.read(saes["solo_0"])])
    x = torch.cat([batch.rows for batch in source.stream(TOKENS)])
    return {name: (sae.encode(x) > 0).numpy() for name, sae in loaded.items()}


def test_the_headline_is_numpys_over_latents_with_partners_alive_everywhere(
    found: Comparison, saes: dict[str, Path], fires: dict[str, np.ndarray]
) -> None:
    decoders = {n: SAE.load_from_disk(p).W_dec.detach() for n, p in saes.items()}
    reference = decoders["solo_0"]
    partner = {n: match_latents(reference, W).partner for n, W in decoders.items()}
    alive = np.all([fires[n][:, partner[n]].sum(0) >= MIN_FIRED for n in saes], axis=0)
    assert 2 < alive.sum() < len(reference), "the criterion must leave some out"
    assert {sae.name for sae in found.saes} == set(saes)
    rates, matrices = {}, {}
    for sae in found.saes:
        chosen = fires[sae.name][:, partner[sae.name][alive]].astype(np.float64)
        matrix = np.asarray(np.corrcoef(chosen.T))
        phi = matrix[np.triu_indices(int(alive.sum()), 1)]
        assert sae.phi_compared.n_latents == alive.sum()
        assert sae.phi_compared.mean_abs == pytest.approx(np.abs(phi).mean(), rel=1e-6)
        rates[sae.name] = chosen.mean(axis=0)
        fired, n = chosen.sum(axis=0).astype(int), len(chosen)
        chance = [[phi_by_chance(a, b, n) for a in fired] for b in fired]
        matrices[sae.name] = np.abs(matrix) - chance
        counts, _ = np.histogram(phi, bins=sae.phi.edges)
        assert np.abs(counts - sae.phi.counts).sum() <= 4  # phi on an edge
        assert sae.evaluation.reconstruction.l0 == pytest.approx(
            fires[sae.name].sum(1).mean()
        )
        assert sum(sae.log_firing_rate.counts) == fires[sae.name].any(0).sum()
    for sae in found.saes:
        ratio = ratio_in_cells(
            matrices[sae.name], rates[sae.name], matrices["solo_0"], rates["solo_0"]
        )
        corrected = found.saes[0].phi_compared.corrected
        assert sae.phi_at_equal_rates == pytest.approx(ratio * corrected, rel=1e-4)


def ratio_in_cells(
    phi: np.ndarray, rate: np.ndarray, base: np.ndarray, base_rate: np.ndarray
) -> float:
    """Mean of a matrix over another's, cell by cell of the two latents' firing rates."""

    def cells(matrix: np.ndarray, rates: np.ndarray) -> dict[tuple[int, int], Any]:
        found: dict[tuple[int, int], list[float]] = {}
        octave = np.floor(-4 * np.log2(rates)).astype(int)
        for i, j in itertools.permutations(range(len(rates)), 2):
            found.setdefault((octave[i], octave[j]), []).append(matrix[i, j])
        return found

    mine, theirs = cells(phi, rate), cells(base, base_rate)
    both = {
        cell: min(len(mine[cell]), len(theirs[cell]))
        for cell in mine.keys() & theirs.keys()
    }
    sums = [
        sum(n * np.mean(one[cell]) for cell, n in both.items())
        for one in (mine, theirs)
    ]
    return sums[0] / sums[1]


def test_differences_are_those_of_the_means_with_intervals_around_them(
    found: Comparison,
) -> None:
    values = {sae.name: sae.phi_compared.corrected for sae in found.saes}
    joint = next(sae.variant for sae in found.saes if sae.group == "joint")
    for baseline, of in (
        ("solo", (values["solo_0"] + values["solo_1"]) / 2),
        ("solo_equal_l2", values["weak"]),
    ):
        difference = found.difference(joint, baseline, PHI.id)
        assert difference is not None and difference.percent is not None
        assert difference.percent == pytest.approx(100 * (values["joint"] / of - 1))
        assert difference.over_tokens is not None
        low, high = difference.over_tokens.low, difference.over_tokens.high
        assert low < difference.percent < high < low + 60
    assert found.difference("solo", "solo_equal_l2", PHI.id) is None
    (sentence,) = found.verdict
    assert "it takes 3 solo seeds" in sentence


def test_splitting_contexts_show_where_the_latents_fire(
    found: Comparison, fires: dict[str, np.ndarray]
) -> None:
    assert len(found.splitting) == 5
    scores = [entry.candidate.score for entry in found.splitting]
    assert scores == sorted(split_scores(fires["solo_0"], fires["joint"]))[:-6:-1]
    for entry in found.splitting:
        latent = entry.candidate.latent
        assert fires["solo_0"][:, latent].sum() == entry.candidate.fired
        for part in entry.candidate.parts:
            both = fires["solo_0"][:, latent] & fires["joint"][:, part.latent]
            assert part.covers == pytest.approx(both.sum() / entry.candidate.fired)
        a, b = (fires["joint"][:, p.latent] for p in entry.candidate.parts[:2])
        assert entry.candidate.parts_phi == pytest.approx(np.corrcoef(a, b)[0, 1])
        for contexts in (entry.contexts, *entry.part_contexts):
            assert contexts.peaks
            for peak in contexts.peaks:
                assert peak.activations[peak.place] == peak.activation > 0
                assert all(token in found.vocabulary for token in peak.tokens)


def split_scores(solo: np.ndarray, other: np.ndarray) -> list[float]:
    """Of each latent seen often enough, by brute force over tokens."""
    with np.errstate(invalid="ignore"):
        phi = np.nan_to_num(
            np.corrcoef(solo.T, other.T)[: solo.shape[1], solo.shape[1] :]
        )
    scores = []
    for latent, row in zip(solo.T, phi, strict=True):
        partners = [other[:, j] for j in np.argsort(-row, kind="stable")[:6]]
        if latent.sum() < MIN_FIRED:
            continue
        alone = max((latent & p).sum() / (latent | p).sum() for p in partners)
        best = -1.0
        for p, q in itertools.combinations(partners, 2):
            shared = min((latent & p).sum(), (latent & q).sum(), (p & q).sum())
            covered = (latent & p).sum() + (latent & q).sum() - shared
            best = max(best, covered / (latent.sum() + (p | q).sum() - covered))
        scores.append(best - alone)
    return scores


def test_splits_are_counted_beside_those_of_a_second_solo(
    found: Comparison,
    fires: dict[str, np.ndarray],
    saes: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    by_joint, by_solo = (
        split_scores(fires["solo_0"], fires[name]) for name in ("joint", "solo_1")
    )
    counts = found.split_counts
    assert counts is not None and counts.n_latents == len(by_joint) > 5
    assert counts.n_split == sum(score > 0.2 for score in by_joint)
    assert counts.n_split_by_seed == sum(score > 0.2 for score in by_solo)
    one_solo = ["--joint", str(saes["joint"]), "--solo", str(saes["solo_0"])]
    main(["compare", *one_solo, "--output", str(tmp_path), *SOURCE, *FAST])
    alone = Comparison.load(tmp_path / "comparison.json").split_counts
    assert alone is not None and alone == replace(counts, n_split_by_seed=None)
    printed = " ".join(capsys.readouterr().out.split())
    assert alone.sentence() in printed and "takes a second solo" in printed
    none = ["--output", str(tmp_path / "none"), "--n_candidates", "0"]
    main(["compare", *one_solo, *SOURCE, *FAST, *none])
    assert Comparison.load(tmp_path / "none" / "comparison.json").split_counts is None


def test_the_json_has_a_schema_and_the_report_is_beside_it(output: Path) -> None:
    schema = json.loads((output / "comparison.schema.json").read_text())
    written = json.loads((output / "comparison.json").read_text())
    assert set(schema["required"]) <= set(written) == set(schema["properties"])
    assert (output / "report.html").stat().st_size > 50_000
    assert not (output / "progress").exists()
    assert "NaN" not in (output / "comparison.json").read_text()


KILLED = """
import os, signal, sys
from sae_lens_meta.cli import main
from sae_lens_meta.comparison import counting as passes
passes.SAVE_EVERY_SECONDS = 0
update, n = passes.Tally.update, 0
def dying(*args):
    global n
    n += 1
    if n == 40:
        os.kill(os.getpid(), signal.SIGKILL)
    return update(*args)
passes.Tally.update = dying
main(sys.argv[1:])
"""


def test_a_killed_comparison_goes_on_and_finds_the_same(
    saes: dict[str, Path], found: Comparison, tmp_path: Path
) -> None:
    args = arguments(saes, tmp_path)
    killed = subprocess.run([sys.executable, "-c", KILLED, *args], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list((tmp_path / "progress").glob("pass_*/state.json"))
    assert not (tmp_path / "comparison.json").exists()
    other = [*args[:-1], "6"]  # another number of candidates
    with pytest.raises(SystemExit, match="progress of a comparison of other SAEs"):
        main(other)
    with pytest.raises(SystemExit, match="Lower min_fired, give more tokens"):
        main([*args, "--min_fired", "8000"])
    main(args)
    resumed = Comparison.load(tmp_path / "comparison.json")
    assert [s.phi_compared for s in resumed.saes] == [
        s.phi_compared for s in found.saes
    ]
    assert resumed.splitting == found.splitting
    assert [s.evaluation.reconstruction for s in resumed.saes] == [
        s.evaluation.reconstruction for s in found.saes
    ]


def test_the_same_sae_twice_is_refused_and_its_latents_in_another_order_differ_in_nothing(
    saes: dict[str, Path], tmp_path: Path
) -> None:
    copy = changed(saes["solo_0"], tmp_path / "copy", **JOINT)
    pair = ["--joint", str(copy), "--solo", str(saes["solo_0"])]
    with pytest.raises(SystemExit, match="have the same weights"):
        main(["compare", *pair, "--output", str(tmp_path), *SOURCE, *FAST])
    sae: Any = SAE.load_from_disk(copy)
    order = torch.randperm(96, generator=torch.Generator().manual_seed(0))
    sae.W_enc.data = sae.W_enc.data[:, order]
    for name in ("W_dec", "b_enc", "threshold"):
        getattr(sae, name).data = getattr(sae, name).data[order]
    sae.save_model(copy)
    main(["compare", *pair, "--output", str(tmp_path), *SOURCE, *FAST])
    found = Comparison.load(tmp_path / "comparison.json")
    assert found.saes[1].matching is not None
    assert found.saes[1].matching.mean_cosine == pytest.approx(1, abs=1e-6)
    assert found.saes[1].matching.random_cosine < 0.9
    for difference in found.differences:
        if difference.figure in ("normalised_l2", "l0", PHI.id):
            assert difference.percent == pytest.approx(0, abs=1e-4)


def changed(path: Path, target: Path, **metadata: Any) -> Path:
    """A copy of a saved SAE that says something else about itself."""
    shutil.copytree(path, target)
    cfg = json.loads((target / "cfg.json").read_text())
    cfg["metadata"] |= metadata
    (target / "cfg.json").write_text(json.dumps(cfg))
    return target


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"hook_name": "model.layers.1"}, "their hook are 'blocks.1.hook_resid_post'"),
        ({"model_name": "another"}, "their model are 'another'"),
    ],
)
def test_saes_of_other_activations_are_refused(
    saes: dict[str, Path], tmp_path: Path, metadata: dict[str, Any], message: str
) -> None:
    other = changed(saes["joint"], tmp_path / "other", **metadata)
    args = ["compare", "--joint", str(other), "--solo", str(saes["solo_0"]), *SOURCE]
    with pytest.raises(SystemExit, match=message):
        main([*args, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_bad_input_is_named_before_anything_is_read(
    saes: dict[str, Path], tmp_path: Path
) -> None:
    joint, solo = str(saes["joint"]), str(saes["solo_0"])
    weak = str(saes["weak"])
    output = ["--output", str(tmp_path / "out")]

    def message(*args: str) -> str:
        with pytest.raises(SystemExit) as error:
            main(["compare", *args, *output])
        return str(error.value)

    assert "more than once" in message("--joint", joint, "--solo", solo, joint)
    assert "solo SAEs are not seeds" in message("--joint", joint, "--solo", solo, weak)
    assert "no SAE folder" in message("--joint", joint, "--solo", str(tmp_path / "no"))
    few = message("--joint", joint, "--solo", solo, "--tokens", "20")
    assert "No activations for 20 tokens" in few
    memory = message("--joint", joint, "--solo", solo, "--max_memory_gb", "1e-5")
    assert "more than max_memory_gb=1e-05" in memory
    broken = tmp_path / "broken"
    shutil.copytree(saes["joint"], broken)
    weights = broken / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert "truncated or damaged" in message("--joint", str(broken), "--solo", solo)


def test_text_that_ends_early_is_said_and_a_latent_that_always_fires_left_out(
    saes: dict[str, Path], tmp_path: Path
) -> None:
    sae: Any = SAE.load_from_disk(saes["joint"])
    with torch.no_grad():
        sae.b_enc[0] = 1e3
    sae.save_model(tmp_path / "always")
    main(
        ["compare", "--joint", str(tmp_path / "always"), "--solo", str(saes["solo_0"])]
        + ["--output", str(tmp_path), "--held_out_documents", "3", *SOURCE, *FAST]
        + ["--ce_tokens", "9000"]
    )
    found = Comparison.load(tmp_path / "comparison.json")
    assert found.n_tokens < TOKENS
    assert f"ended after {found.n_tokens:,} of {TOKENS:,} tokens" in found.warnings[0]
    cost = found.saes[0].evaluation.model_cost
    assert cost.n_tokens <= found.n_tokens, "no token is run on twice"
    always = next(s for s in found.saes if s.group == "joint").evaluation
    assert always.phi.n_latents < 96
    assert np.isfinite(always.phi.mean_abs)
    assert len({sae.phi_compared.n_latents for sae in found.saes}) == 1


def test_a_training_that_was_repeated_forbids_a_claim(
    saes: dict[str, Path], tmp_path: Path
) -> None:
    """The same settings, seed and order, weights that differ by rounding."""
    again = Path(shutil.copytree(saes["solo_0"], tmp_path / "again"))
    sae = SAE.load_from_disk(again)
    sae.W_dec.data *= 1.0001  # type: ignore[union-attr]
    sae.save_model(again)
    solos = [
        argument
        for path in (saes["solo_0"], again)
        for argument in ("--solo", str(path))
    ]
    output = tmp_path / "out"
    main(
        [
            "compare",
            "--joint",
            str(saes["joint"]),
            *solos,
            "--output",
            str(output),
            *SOURCE,
            *FAST,
        ]
    )
    found = Comparison.load(output / "comparison.json")
    (objection,) = (
        said for said in found.objections if "not independent seeds" in said
    )
    assert "'solo_0' and 'again'" in objection
    assert "no claim" in " ".join(found.verdict)
