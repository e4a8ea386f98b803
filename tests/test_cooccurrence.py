"""Counts and phi against brute force in float64, numpy's corrcoef, and known answers."""

from pathlib import Path

import numpy as np
import pytest
import torch

import sae_lens_meta.measures.cooccurrence as cooccurrence
from sae_lens_meta.measures.cooccurrence import CooccurrenceCounter
from sae_lens_meta.measures.phi import (
    measurable,
    phi_histogram,
    phi_rows,
    summarize_phi,
    top_partners,
)

N, D = 3000, 60


def random_firing(n: int = N, d: int = D, seed: int = 0) -> torch.Tensor:
    """Indicators `[n, d]` at rates from 0 to 0.4, some of them dependent."""
    generator = torch.Generator().manual_seed(seed)
    rates = 0.4 * torch.rand(d, generator=torch.Generator().manual_seed(5)) ** 3
    firing = torch.rand(n, d, generator=generator) < rates
    firing[:, 1] = firing[:, 0] & (torch.rand(n, generator=generator) < 0.7)
    firing[:, 2] = False
    return firing


def counted(
    firing: torch.Tensor, other: torch.Tensor | None = None
) -> CooccurrenceCounter:
    counter = CooccurrenceCounter(
        firing.shape[1], None if other is None else other.shape[1]
    )
    counter.update(firing, other)
    return counter


def brute_force(firing: torch.Tensor, other: torch.Tensor | None = None) -> np.ndarray:
    other = firing if other is None else other
    return (firing.double().T @ other.double()).numpy()


def corrcoef(firing: torch.Tensor) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        matrix = np.corrcoef(firing.numpy().T.astype(np.float64))
    return np.nan_to_num(np.asarray(matrix))


def upper(matrix: np.ndarray) -> np.ndarray:
    return matrix[np.triu_indices(len(matrix), 1)]


def as_lists(firing: torch.Tensor) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in firing]


def test_counts_are_those_of_brute_force_within_and_between() -> None:
    firing, other = random_firing(), random_firing(d=25, seed=1)
    counter = counted(firing)
    assert np.array_equal(counter.rows(0, D), brute_force(firing))
    assert np.array_equal(counter.together, upper(brute_force(firing)))
    assert np.array_equal(counter.fired_a, firing.sum(0).numpy())
    between = counted(firing, other)
    assert np.array_equal(between.together, brute_force(firing, other))
    assert np.array_equal(between.rows(10, 20), brute_force(firing, other)[10:20])
    assert between.n_tokens == counter.n_tokens == N


def test_every_form_of_firing_counts_the_same() -> None:
    firing = random_firing()
    shuffled = [latents[::-1] + latents[:1] for latents in as_lists(firing)]
    forms = [
        firing,
        firing.to_sparse(),
        firing * torch.rand(N, D),  # activations
        firing.view(30, 100, D),  # by prompt and position
        shuffled,  # any order, named twice
    ]
    for form in forms:
        counter = CooccurrenceCounter(D)
        counter.update(form)
        assert np.array_equal(counter.rows(0, D), brute_force(firing))
        assert counter.n_tokens == N


def test_a_negative_value_fires_and_a_stored_zero_does_not() -> None:
    # both directions of a latent of an abstopk SAE
    acts = torch.tensor([[0.5, -1.0, 0.0]])
    places = torch.tensor([[0, 0, 0], [0, 1, 2]])
    sparse = torch.sparse_coo_tensor(places, acts[0], (1, 3), check_invariants=True)
    for form in (acts, sparse):
        assert counted(form).fired_a.tolist() == [1, 1, 0]


def test_splitting_the_stream_merging_and_flushing_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    firing = random_firing()
    whole = counted(firing)
    monkeypatch.setattr(cooccurrence, "FLUSH_AT", 500)
    shards = []
    for shard in firing.split(1100):
        shards.append(CooccurrenceCounter(D))
        for part in shard.split(37):
            shards[-1].update(part)
    for other in shards[1:]:
        shards[0].merge(other)
    assert np.array_equal(shards[0].together, whole.together)
    assert np.array_equal(shards[0].fired_a, whole.fired_a)
    assert shards[0].n_tokens == N


def test_permuting_tokens_changes_nothing_and_latents_only_the_order() -> None:
    firing = random_firing()
    tokens, latents = torch.randperm(N), torch.randperm(D)
    assert np.array_equal(counted(firing[tokens]).together, counted(firing).together)
    permuted = counted(firing[:, latents])
    rows = counted(firing).rows(0, D)
    assert np.array_equal(permuted.rows(0, D), rows[latents][:, latents])
    mean_abs = summarize_phi(counted(firing)).mean_abs
    assert summarize_phi(permuted).mean_abs == pytest.approx(mean_abs, rel=1e-12)


@pytest.mark.parametrize("d_other", [None, 25])
def test_a_saved_counter_goes_on_where_it_was(
    tmp_path: Path, d_other: int | None
) -> None:
    firing = random_firing()
    other = None if d_other is None else random_firing(d=d_other, seed=1)
    first, rest = slice(0, 1234), slice(1234, N)
    counter = CooccurrenceCounter(D, d_other)
    counter.update(firing[first], None if other is None else other[first])
    counter.save(tmp_path)
    loaded = CooccurrenceCounter.load(tmp_path)
    loaded.update(firing[rest], None if other is None else other[rest])
    loaded.save(tmp_path)
    final = CooccurrenceCounter.load(tmp_path)
    whole = counted(firing, other)
    assert np.array_equal(final.together, whole.together)
    assert np.array_equal(final.fired_b, whole.fired_b)
    assert final.n_tokens == N
    assert len(list(tmp_path.iterdir())) == 2, "the earlier counts are gone"


def test_a_kill_while_saving_leaves_the_earlier_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    firing = random_firing()
    counter = counted(firing[:1000])
    counter.save(tmp_path)
    counter.update(firing[1000:])

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        counter.save(tmp_path)
    loaded = CooccurrenceCounter.load(tmp_path)
    assert loaded.n_tokens == 1000
    assert np.array_equal(loaded.together, counted(firing[:1000]).together)


def test_phi_is_numpys_correlation_of_the_indicators() -> None:
    firing = random_firing()
    counter = counted(firing)
    expected = corrcoef(firing)
    ours = phi_rows(counter, 0, D)
    defined = measurable(counter)
    assert defined.sum() < D, "a silent latent is part of the test"
    np.testing.assert_allclose(
        ours[np.ix_(defined, defined)], expected[np.ix_(defined, defined)], atol=1e-6
    )
    assert not ours[~defined].any()
    summary = summarize_phi(counter)
    pairs = np.abs(upper(expected[np.ix_(defined, defined)]))
    assert summary.mean_abs == pytest.approx(pairs.mean(), rel=1e-9)
    assert summary.n_latents == defined.sum()
    all_pairs = D * (D - 1) / 2
    assert summary.mean_abs_with_silent == pytest.approx(pairs.sum() / all_pairs)
    some = np.arange(D) % 3 == 0
    chosen = np.ix_(defined & some, defined & some)
    assert summarize_phi(counter, some).mean_abs == pytest.approx(
        np.abs(upper(expected[chosen])).mean(), rel=1e-9
    )


def test_histogram_holds_every_pair_where_it_belongs() -> None:
    firing = random_firing()
    counter = counted(firing)
    defined = measurable(counter)
    edges, bins = phi_histogram(counter)
    pairs = upper(corrcoef(firing)[np.ix_(defined, defined)])
    assert bins.sum() == len(pairs)
    # a pair on an edge may fall to either side: compare the counts below each edge
    below = np.searchsorted(np.sort(pairs), edges[1:-1])
    assert np.abs(np.cumsum(bins)[:-1] - below).max() <= 2


def test_chance_is_what_shuffled_firings_show() -> None:
    """200 shuffles of every latent over the tokens keep the counts and nothing else."""
    firing = random_firing(n=400)
    firing[:, :8] = False
    for latent in range(8):
        firing[: latent + 1, latent] = True  # rare ones: the Poisson end
    expected = summarize_phi(counted(firing)).expected_by_chance
    generator, means = np.random.default_rng(0), []
    for _ in range(200):
        shuffled = generator.permuted(firing.numpy(), axis=0)
        means.append(summarize_phi(counted(torch.from_numpy(shuffled))).mean_abs)
    standard_error = np.std(means) / len(means) ** 0.5
    assert abs(np.mean(means) - expected) < 4 * standard_error
    assert standard_error < 0.01 * expected


def test_independent_latents_have_no_corrected_phi() -> None:
    generator = torch.Generator().manual_seed(3)
    rates = 0.002 + 0.2 * torch.rand(150, generator=generator)
    summaries = [
        summarize_phi(counted(torch.rand(4000, 150, generator=generator) < rates))
        for _ in range(8)
    ]
    estimates = [summary.corrected for summary in summaries]
    assert all(s.mean_abs > 20 * abs(s.corrected) for s in summaries)
    standard_error = np.std(estimates, ddof=1) / len(estimates) ** 0.5
    assert abs(np.mean(estimates)) < 4 * standard_error
    gaussian = (2 / (np.pi * 4000)) ** 0.5
    assert summaries[0].expected_by_chance == pytest.approx(gaussian, rel=0.05)


def test_known_answers_identical_exclusive_and_complementary_latents() -> None:
    firing = torch.zeros(1000, 5, dtype=torch.bool)
    firing[:200, 0] = True
    firing[:200, 1] = True  # identical to 0
    firing[:100, 2] = True  # 0 split into two exclusive halves
    firing[100:200, 3] = True
    firing[200:, 4] = True  # fires exactly where 0 does not
    phi = phi_rows(counted(firing), 0, 5)
    assert phi[0, 1] == pytest.approx(1)
    assert phi[0, 4] == pytest.approx(-1)
    half = (1000 * 100 - 200 * 100) / (200 * 800 * 100 * 900) ** 0.5
    assert phi[0, 2] == pytest.approx(half) == phi[0, 3]
    assert phi[2, 3] == pytest.approx(-100 * 100 / (100 * 900))
    partners, none = top_partners(counted(firing), 3)
    assert none is None
    assert partners.latents[0, 0] == 1
    assert set(partners.latents[0, 1:].tolist()) == {2, 3}


def test_partners_between_two_saes_are_the_sorted_rows_and_columns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sae_lens_meta.measures.phi.BLOCK_ROWS", 7)
    counter = counted(random_firing(), random_firing(d=25, seed=0))
    phi = phi_rows(counter, 0, D)
    of_a, of_b = top_partners(counter, 4)
    assert of_b is not None
    np.testing.assert_array_equal(of_a.phi, -np.sort(-phi, axis=1)[:, :4])
    np.testing.assert_array_equal(of_b.phi, -np.sort(-phi.T, axis=1)[:, :4])
    np.testing.assert_array_equal(
        np.take_along_axis(phi.T, of_b.latents, axis=1), of_b.phi
    )


def test_a_latent_on_every_token_has_no_phi_and_no_nan() -> None:
    firing = random_firing()
    firing[:, 7] = True
    counter = counted(firing)
    assert not phi_rows(counter, 7, 8).any()
    assert not measurable(counter)[7]
    assert np.isfinite(summarize_phi(counter).mean_abs)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="at least one latent, got 0"):
        CooccurrenceCounter(0)
    counter = CooccurrenceCounter(5)
    with pytest.raises(ValueError, match="Firings of 6 latents for a counter of 5"):
        counter.update(torch.ones(3, 6))
    with pytest.raises(ValueError, match="Latent 5 on token 1, of 5 latents"):
        counter.update([[0], [2, 5]])
    with pytest.raises(ValueError, match="Latent -1 on token 0"):
        counter.update([[-1]])
    with pytest.raises(ValueError, match="pairs of one SAE"):
        counter.update([[0]], [[0]])
    with pytest.raises(ValueError, match="pairs of two SAEs"):
        CooccurrenceCounter(5, 5).update([[0]])
    with pytest.raises(ValueError, match="2 tokens of the first SAE, 1 of the other"):
        CooccurrenceCounter(5, 5).update([[0], [1]], [[0]])
    with pytest.raises(ValueError, match="do not add"):
        counter.merge(CooccurrenceCounter(6))
    with pytest.raises(
        ValueError, match="0 of 5 latents fire on some but not all of 0"
    ):
        summarize_phi(counter)
    with pytest.raises(ValueError, match="this counter is of two"):
        summarize_phi(CooccurrenceCounter(5, 5))
