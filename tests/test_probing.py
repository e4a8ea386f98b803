"""What single latents, few latents and dense probes tell of labels, and what latents absorb."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig
from scipy.sparse import csc_matrix, csr_matrix

from sae_lens_meta.probing.absorption import (
    NONE,
    absorbed,
    child_of,
    main_latents,
)
from sae_lens_meta.probing.dense_probe import fit_dense_probes
from sae_lens_meta.probing.differences import differences
from sae_lens_meta.probing.figures import FIGURES
from sae_lens_meta.probing.labels import Labels
from sae_lens_meta.probing.logistic import best_threshold, fit_logistic
from sae_lens_meta.probing.measure import Task, measure
from sae_lens_meta.probing.result import LabelScore, ProbedSAE
from sae_lens_meta.probing.shared_labels import of_shared_labels
from sae_lens_meta.probing.sparse_probe import (
    SparseProbe,
    best_single_latents,
    k_sparse_probes,
)
from sae_lens_meta.probing.text import Part, encoded
from sae_lens_meta.statistics.intervals import HalfSampled
from sae_lens_meta.statistics.ratio import Estimate, Ratio, f1_ratio, mean_estimate

D, N, DOCUMENTS = 32, 3000, 12
PARENT, CHILD, OTHER, RARE = "p", "p/a", "p/b", "p/rare"


def f1(predicted: np.ndarray, holds: np.ndarray) -> float:
    """As a textbook has it: the harmonic mean of precision and recall."""
    right = sum(a and b for a, b in zip(predicted, holds, strict=True))
    if not right:
        return 0.0
    precision, recall = right / sum(predicted), right / sum(holds)
    return 2 * precision * recall / (precision + recall)


def planted_part(seed: int) -> Part:
    """A parent on a fifth of the tokens, in bursts; a common child, a rare one; a background."""
    generator = np.random.default_rng(seed)
    parent = np.repeat(generator.random(N // 5) < 0.2, 5)
    kind = generator.random(N)
    child, rare = parent & (kind < 0.3), parent & (kind > 0.96)
    background = generator.random((N, 20)) < 0.1
    active = np.column_stack([parent, child, rare, background]).astype(float)
    active *= generator.uniform(0.8, 1.2, active.shape)
    x = 3 * active @ np.eye(D)[: active.shape[1]]
    x += 0.05 * generator.standard_normal(x.shape)
    return Part(
        activations=torch.tensor(x, dtype=torch.float32),
        places=np.arange(N),
        documents=np.arange(N) * DOCUMENTS // N,
        holds=np.column_stack([parent, child, parent & ~child, rare]),
    )


def planted_sae(*absorbing: int, normalization: Any = "none") -> JumpReLUSAE:
    """
    A latent for each direction: 0 the parent's, 1 and 2 its children's, then the background's.

    On the directions of those that absorb the parent's latent is silent, and their rows have its
    direction too.
    """
    cfg = JumpReLUSAEConfig(
        d_in=D,
        d_sae=23,
        apply_b_dec_to_input=False,
        normalize_activations=normalization,
    )
    sae = JumpReLUSAE(cfg)
    W_enc, W_dec = torch.eye(D)[:, :23].clone(), torch.eye(D)[:23].clone()
    for latent in absorbing:
        W_enc[latent, 0] = -3.0
        W_dec[latent, 0] = 1.0
    sae.W_enc.data, sae.W_dec.data = W_enc, W_dec
    sae.b_enc.data.zero_()
    sae.b_dec.data.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.1)
    sae.threshold.data = torch.full((23,), 0.3 if normalization != "none" else 1.0)
    return sae


@pytest.fixture(scope="module")
def task() -> Task:
    names = [PARENT, CHILD, OTHER, RARE]
    labels = Labels(
        names=names,
        ancestors={name: {PARENT} - {name} for name in names},
        holds=np.empty((0, 4), bool),
        left_out={},
    )
    # a token id of its own for every token, so that words are no children here
    return Task(labels, planted_part(1), planted_part(2), np.arange(N), str, seed=0)


def scores_of(sae: Any, task: Task) -> dict[str, LabelScore]:
    return measure("planted", sae, task).scores


def share_of(task: Task, label: int) -> float:
    """Of the parent's tokens in the second part."""
    holds = task.second.holds
    return holds[:, label].sum() / holds[:, 0].sum()


def test_a_child_that_takes_its_parents_tokens_is_found_and_named(task: Task) -> None:
    found, expected = scores_of(planted_sae(1), task)[PARENT], share_of(task, 1)
    for share in (found.silent, found.taken, found.taken_by_child):
        assert share.value == pytest.approx(expected, abs=0.02)
        assert share.interval and share.interval.low < expected < share.interval.high
    (absorber,) = found.absorbers
    assert (absorber.latent, absorber.child) == (1, CHILD)
    second = task.second.holds
    fires = second[:, 0] & ~second[:, 1]
    assert found.latent == 0
    assert found.single.value == pytest.approx(f1(fires, second[:, 0]), abs=0.01)
    # as published, a latent that F1 takes so much from is a second one of the label
    assert found.main == [0, 1] and found.needed == 2
    assert found.absorption.value == 0.0


def test_a_rare_child_is_absorbed_as_published(task: Task) -> None:
    found, expected = scores_of(planted_sae(2), task)[PARENT], share_of(task, 3)
    assert found.main == [0] and expected > 0.02
    for share in (found.absorption, found.taken_by_child, found.absorption_fraction):
        assert share.value == pytest.approx(expected, abs=0.01)
    assert (found.absorbers[0].latent, found.absorbers[0].child) == (2, RARE)


def test_without_absorption_there_is_none(task: Task) -> None:
    found = scores_of(planted_sae(), task)[PARENT]
    for share in (found.silent, found.taken, found.taken_by_child, found.absorption):
        assert share.value == 0.0
    assert found.absorption_fraction.value == pytest.approx(0.0, abs=0.01)
    assert found.absorbers == [] and found.needed == 1
    assert found.single.value and found.single.value > 0.99


def test_a_latent_that_is_no_childs_takes_tokens_but_not_for_a_child(
    task: Task,
) -> None:
    # one of the background's features, on a tenth of the parent's tokens and of the others
    found = scores_of(planted_sae(3), task)[PARENT]
    assert found.taken.value and found.taken.value > 0.05
    assert found.taken_by_child.value == 0.0
    assert found.absorbers[0].latent == 3 and found.absorbers[0].child is None


def test_a_child_may_be_a_single_token(task: Task) -> None:
    rare = task.first.holds[:, 3]
    ids = np.where(rare, 7, 100 + np.arange(N))
    without_label = Labels([PARENT], {PARENT: set()}, np.empty((0, 1), bool), {})
    parts = [
        replace(part, holds=part.holds[:, :1]) for part in (task.first, task.second)
    ]
    alone = Task(
        without_label, parts[0], parts[1], ids, lambda token: f"word {token}", seed=0
    )
    found = scores_of(planted_sae(2), alone)[PARENT]
    assert found.taken_by_child.value == pytest.approx(share_of(task, 3), abs=0.01)
    assert found.absorbers[0].child == "'word 7'"


def test_shuffled_labels_give_chance_and_keep_their_bursts(task: Task) -> None:
    second, shuffled = task.second.holds, task.shuffled[1]
    assert (second.sum(axis=0) == shuffled.sum(axis=0)).all()
    runs = [len(list(groupby(labels[:, 0]))) for labels in (second, shuffled)]
    assert abs(runs[0] - runs[1]) <= 1, "turned, not drawn anew"
    assert (second != shuffled).any()
    found = scores_of(planted_sae(), task)
    for i, name in enumerate(task.labels.names):
        rate = second[:, i].mean()
        chance = 2 * rate / (1 + rate)  # of saying that it always holds
        for value in (
            found[name].shuffled_single,
            found[name].shuffled_few,
            task.shuffled_ceilings[i].value,
        ):
            assert value is not None and value < chance + 0.05
        ceiling = task.ceilings[i].value
        assert ceiling and ceiling > 0.9


@pytest.mark.parametrize(
    "normalization", ["none", "layer_norm", "constant_norm_rescale"]
)
def test_what_latents_add_is_what_the_sae_reconstructs(normalization: str) -> None:
    sae, part = planted_sae(1, normalization=normalization), planted_part(3)
    found = encoded(sae, part)
    direction = np.random.default_rng(0).standard_normal(D)
    direction -= direction.mean()
    W_dec, b_dec = (p.detach().double().numpy() for p in (sae.W_dec, sae.b_dec))
    added = found.scale * (found.acts @ (W_dec @ direction) + b_dec @ direction)
    with torch.no_grad():
        reconstructed = sae(part.activations).double().numpy()
    x = part.activations.double().numpy()
    assert np.allclose(added, reconstructed @ direction / x.std(axis=1), atol=1e-3)


def test_normalised_activations_have_mean_0_and_std_1() -> None:
    x = planted_part(0).normalised()
    assert np.allclose(x.mean(axis=1), 0, atol=1e-5) and np.allclose(
        x.std(axis=1), 1, atol=1e-4
    )


def sparse_codes(seed: int, n: int = 400, d_sae: int = 12) -> np.ndarray:
    generator = np.random.default_rng(seed)
    fires = generator.random((n, d_sae)) < generator.uniform(0.02, 0.4, d_sae)
    return fires * generator.exponential(size=(n, d_sae))


def test_the_best_single_latent_is_that_of_brute_force() -> None:
    codes, holds = sparse_codes(0), np.random.default_rng(1).random((400, 3)) < 0.2
    holds[:, 0] |= codes[:, 5] > 0
    found = best_single_latents(csc_matrix(codes), holds)
    for i in range(3):
        every = [f1(codes[:, j] > 0, holds[:, i]) for j in range(12)]
        assert found[i] == int(np.argmax(every))
    blocks = np.arange(400) // 40
    ratio = f1_ratio(codes[:, 5] > 0, holds[:, 0], blocks, 10)
    assert ratio.value == pytest.approx(f1(codes[:, 5] > 0, holds[:, 0]))
    within = [
        f1(codes[b, 5] > 0, holds[b, 0]) for b in (blocks == k for k in range(10))
    ]
    estimate = ratio.estimate()
    assert (
        estimate.interval
        and estimate.interval.low < np.mean(within) < estimate.interval.high
    )


def test_the_best_threshold_is_that_of_brute_force() -> None:
    generator = np.random.default_rng(2)
    for scores in (
        generator.standard_normal(60),
        generator.integers(0, 4, 60).astype(float),
    ):
        holds = generator.random(60) < 0.3
        tried = [-np.inf, *np.unique(scores)]
        best = max(f1(scores > t, holds) for t in tried)
        assert f1(scores > best_threshold(scores, holds), holds) == pytest.approx(best)


def test_logistic_weights_of_one_indicator_are_the_log_odds() -> None:
    # 30 of 100 with it, 20 of 200 without
    x = np.repeat([1.0, 0.0], [100, 200])[:, None]
    y = np.concatenate([np.arange(100) < 30, np.arange(200) < 20])
    weights, intercept = fit_logistic(x, np.column_stack([y, ~y]), 0.0)
    odds, base = np.log(30 / 70), np.log(20 / 180)
    assert weights[0] == pytest.approx([odds - base, base - odds], abs=1e-3)
    assert intercept == pytest.approx([base, -base], abs=1e-3)


def test_weights_are_where_the_loss_is_flat() -> None:
    generator = np.random.default_rng(3)
    x, l2 = generator.standard_normal((200, 4)), 0.01
    y = (x[:, 0] + generator.standard_normal(200) > 0.5)[:, None]
    weights, intercept = fit_logistic(x, y, l2)

    def loss(w: np.ndarray, b: float) -> float:
        probability = 1 / (1 + np.exp(-(x @ w + b)))
        right = np.where(y[:, 0], probability, 1 - probability)
        return float(-np.log(right).mean() + l2 / 2 * (w**2).sum())

    at = loss(weights[:, 0], intercept[0])
    for step in 1e-2 * np.vstack([np.eye(5), -np.eye(5)]):
        assert loss(weights[:, 0] + step[:4], intercept[0] + step[4]) > at


def test_a_sparse_probe_takes_no_latent_that_says_the_same() -> None:
    generator = np.random.default_rng(4)
    often, rare = (generator.random(2000) < rate for rate in (0.15, 0.05))
    noise = generator.random((2000, 6)) < 0.1
    copies = np.column_stack([often * (1 + 0.1 * i) for i in range(4)])
    codes = csc_matrix(np.column_stack([copies, rare, noise]).astype(float))
    found = k_sparse_probes(codes, often | rare, [1, 2, 5])
    assert (
        set(found[2].latents) > {4} and len(set(found[2].latents) & {0, 1, 2, 3}) == 1
    )
    assert f1(found[2].predict(codes), often | rare) == 1.0
    for smaller, larger in ((1, 2), (2, 5)):
        assert list(found[larger].latents[:smaller]) == list(found[smaller].latents)


def test_main_latents_stop_where_a_step_brings_little() -> None:
    latents, weights = np.array([7, 3, 9, 1]), np.array([1.0, -1.0, 2.0, 1.0])
    probes = {
        k: SparseProbe(latents[:k], weights[:k], weights[:k] > 0, 0.0)
        for k in (1, 2, 3, 4)
    }
    assert main_latents(probes, {1: 0.5, 2: 0.6, 3: 0.7, 4: 0.72}) == [7, 9]
    assert main_latents(probes, {1: 0.5, 2: 0.52, 3: 0.7, 4: 0.9}) == [7]
    against = {1: SparseProbe(latents[:1], -weights[:1], np.array([False]), 0.0)}
    assert main_latents(against, {1: 0.5}) == []


def brute_absorbed(
    codes: np.ndarray,
    scale: np.ndarray,
    projection: np.ndarray,
    rows: np.ndarray,
    direction: np.ndarray,
    main: list[int],
) -> Iterator[tuple[bool, int, float]]:
    """The published rules, token by token and latent by latent."""
    for code, s, whole in zip(codes, scale, projection, strict=True):
        added = {
            i: s * code[i] * (rows[i] @ direction)
            for i in range(len(rows))
            if code[i] > 0
        }
        cosine = {
            i: rows[i] @ direction / np.linalg.norm(rows[i]) / np.linalg.norm(direction)
            for i in added
        }
        silent = not set(main) & set(added)
        if whole <= 0 or not added:
            yield silent, NONE, 0.0
            continue
        top = max(added, key=lambda i: added[i])
        is_full = silent and cosine[top] >= 0.025 and added[top] / whole >= 0.4
        by_main = sum(added[i] for i in main if i in added)
        rest = sorted(
            added[i]
            for i in added
            if i not in main and added[i] > 0 and cosine[i] >= 0.1
        )
        others = sum(rest[-3:])
        if by_main >= whole or others / whole < 0.4:
            fraction = 0.0
        elif by_main <= 0:
            fraction = 1.0
        else:
            taken = min(others, whole - by_main)
            fraction = taken / (taken + by_main)
        yield silent, top if is_full else NONE, fraction


def test_absorption_is_that_of_the_published_rules() -> None:
    generator = np.random.default_rng(5)
    codes, rows = sparse_codes(6), generator.standard_normal((12, 8))
    direction = generator.standard_normal(8)
    scale, projection = generator.uniform(0.5, 2, 400), generator.normal(2, 2, 400)
    effects = rows @ direction
    cosines = effects / np.linalg.norm(rows, axis=1) / np.linalg.norm(direction)
    main = [int(np.argmax(effects)), 3]
    found = absorbed(csr_matrix(codes), scale, projection, effects, cosines, main)
    expected = list(brute_absorbed(codes, scale, projection, rows, direction, main))
    assert [bool(s) for s in found.silent] == [s for s, _, _ in expected]
    assert found.absorber.tolist() == [a for _, a, _ in expected]
    assert found.fraction == pytest.approx([f for _, _, f in expected])
    assert (found.absorber != NONE).sum() > 10 and (found.fraction % 1 > 0).sum() > 0


def test_a_latent_is_a_childs_from_halfway_to_all_of_it() -> None:
    codes = csc_matrix(np.repeat([1.0, 0.0], [10, 90])[:, None])
    kinds = {"few": np.arange(100) < 8, "most": np.arange(100) >= 2}
    # 8 of 10 are of a child of 8 %, and 8 of 10 of one of 98 %, which is less than its share
    assert child_of(0, codes, kinds) == "few"
    assert child_of(0, codes, {"most": kinds["most"]}) is None
    half = {"half": np.concatenate([np.arange(10) < 7, np.arange(90) < 43])}
    assert child_of(0, codes, half) is None, "7 of 10 of a child of 50 %"
    half["half"][:8] = True
    half["half"][10] = False
    assert child_of(0, codes, half) == "half", "8 of 10, and 75 % would be halfway"
    assert child_of(0, csc_matrix(np.eye(100)[:, :1]), kinds) is None, (
        "fires too rarely"
    )


def test_dense_probes_do_not_see_the_mean_over_dimensions() -> None:
    part = planted_part(1)
    x = part.normalised()
    probes = fit_dense_probes(x, part.holds)
    assert np.allclose(probes.directions.mean(axis=0), 0, atol=1e-6)
    assert np.allclose(probes.projections(x).mean(axis=0), 0, atol=1e-3)


def test_differences_are_percent_of_the_first_group_over_documents_and_seeds() -> None:
    generator = np.random.default_rng(0)
    shared = generator.standard_normal(400)

    def sae(name: str, group: str, value: float) -> ProbedSAE:
        means = {id_: Estimate(None) for id_ in FIGURES} | {"single": Estimate(value)}
        score: Any = type("Score", (), {"needed": None})
        return ProbedSAE(name, group, "", "", 8, 4.0, None, {"x": score}, means)

    groups = {
        "solo": [sae("s0", "solo", 0.50), sae("s1", "solo", 0.52)],
        "joint": [sae("j0", "joint", 0.60), sae("j1", "joint", 0.62)],
    }

    def value_of(sae: ProbedSAE) -> float:
        value = sae.means["single"].value
        assert value is not None
        return value

    drawn: Any = {
        s.name: {"single": HalfSampled(value_of(s) * (1 + 0.1 * shared), 20)}
        for saes in groups.values()
        for s in saes
    }
    found = {d.figure: d for d in differences(groups, drawn)}
    single = found["single"]
    assert single.percent == pytest.approx(100 * (0.61 / 0.51 - 1))
    assert single.over_documents and single.over_seeds
    width = single.over_documents.high - single.over_documents.low
    assert width == pytest.approx(0, abs=1e-6), "what all SAEs share falls out"
    assert single.percent is not None
    assert single.over_seeds.low < single.percent < single.over_seeds.high
    assert found["absorption"].percent is None and found["l0"].percent == 0


def test_means_are_over_labels_that_every_sae_has_a_latent_for() -> None:
    def ratio(value: float | None) -> Ratio:
        below = np.full(10, 0.0 if value is None else 10.0)
        return Ratio(below * (value or 0.0), below)

    honest = {"silent": [ratio(0.1), ratio(0.8)]}
    without = {"silent": [ratio(0.1), ratio(None)]}
    shared = of_shared_labels([honest, without])
    values = [mean_estimate(ratios["silent"]).value for ratios in shared]
    assert values == pytest.approx([0.1, 0.1])
    assert mean_estimate(honest["silent"]).value == pytest.approx(0.45)


def test_a_latent_that_fires_negatively_fires() -> None:
    generator = np.random.default_rng(0)
    holds = generator.random((400, 1)) < 0.2
    codes = np.zeros((400, 3))
    codes[:, 0] = -1.0 * holds[:, 0]
    codes[:, 1] = generator.random(400) < 0.3
    latents = csc_matrix(codes)
    assert best_single_latents(latents, holds).tolist() == [0]
    probes = k_sparse_probes(latents, holds[:, 0], (1,))
    assert main_latents(probes, {1: 1.0}) == [0]
    n = int(holds.sum())
    found = absorbed(
        csr_matrix(codes[holds[:, 0]]),
        np.ones(n),
        np.ones(n),
        np.array([-1.0, 0.0, 0.0]),
        np.array([-1.0, 0.0, 0.0]),
        [0],
    )
    assert not found.silent.any() and (found.fraction == 0).all()
    assert child_of(0, latents, {"it": holds[:, 0]}) == "it"


def test_no_interval_below_8_documents() -> None:
    right = np.ones(70, bool)
    ratio = f1_ratio(right, right, np.arange(70) // 10, 7)
    assert mean_estimate([ratio]) == Estimate(1.0, None)
