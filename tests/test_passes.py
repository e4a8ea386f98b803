"""Passes that are cut into several, or killed, count what one undisturbed pass counts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

from sae_lens_meta.activations.part import parts
from sae_lens_meta.activations.stream import ActivationBatch
from sae_lens_meta.comparison import counting as passes
from sae_lens_meta.comparison.counting import (
    Job,
    Tally,
    load_counter,
    merge_parts,
    part_folder,
    plan_passes,
    run_passes,
)

N_TOKENS, PER_BATCH, D_IN = 4000, 100, 16
JOBS = [Job("a", "b"), Job("a"), Job("b")]


class Stream:
    """Activations in order, from which a killed pass goes on; dies after `dies_after` batches."""

    def __init__(self, dies_after: int | None = None):
        self.dies_after, self.n_read = dies_after, 0

    tokens_per_batch = PER_BATCH

    def stream(self, n_tokens: int, n_skipped: int = 0) -> Iterator[ActivationBatch]:
        x = torch.randn(n_tokens, D_IN, generator=torch.Generator().manual_seed(0))
        for batch in x[n_skipped:].split(PER_BATCH):
            if self.n_read == self.dies_after:
                raise KeyboardInterrupt
            self.n_read += 1
            yield ActivationBatch(
                torch.zeros(1, PER_BATCH), batch[None], n_read=PER_BATCH
            )


def random_sae(d_sae: int, seed: int) -> JumpReLUSAE:
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=D_IN, d_sae=d_sae))
    generator = torch.Generator().manual_seed(seed)
    sae.W_enc.data = torch.randn(D_IN, d_sae, generator=generator)
    sae.W_dec.data = sae.W_enc.data.T / D_IN
    sae.threshold.data.fill_(5.0)
    return sae


@pytest.fixture
def saes() -> dict[str, Any]:
    return {"a": random_sae(40, 1), "b": random_sae(30, 2)}


def count(
    plan: list[list[Job]], saes: dict[str, Any], folder: Path, stream: Stream
) -> None:
    run_passes(plan, saes, stream, N_TOKENS, folder)  # type: ignore[arg-type]


def assert_counted_by_hand(saes: dict[str, Any], folder: Path) -> None:
    x = torch.randn(N_TOKENS, D_IN, generator=torch.Generator().manual_seed(0))
    fires = {name: (sae.encode(x) > 0).long() for name, sae in saes.items()}
    between = load_counter(folder, Job("a", "b"))
    assert np.array_equal(between.together, (fires["a"].T @ fires["b"]).numpy())
    for name, sae in saes.items():
        tally = Tally.load(folder / name, sae)
        together = (fires[name].T @ fires[name]).numpy()
        assert np.array_equal(tally.counter.rows(0, sae.cfg.d_sae), together)
        fired, n_tokens = Tally.load_fired(folder / name)
        assert np.array_equal(fired, fires[name].sum(0).numpy())
        assert n_tokens == N_TOKENS
        assert tally.meter.result().n_tokens == N_TOKENS
        by_block = fires[name].view(passes.N_BLOCKS, -1, sae.cfg.d_sae)
        for block, counter in enumerate(tally.blocks.counters):
            assert np.array_equal(counter.fired_a, by_block[block].sum(0).numpy())
            assert tally.meter.sums["n_active"][block] == by_block[block].sum()


def test_one_pass_and_a_pass_for_each_job_count_the_same(
    saes: dict[str, Any], tmp_path: Path
) -> None:
    count([JOBS], saes, tmp_path / "one", Stream())
    count([[job] for job in JOBS], saes, tmp_path / "three", Stream())
    assert_counted_by_hand(saes, tmp_path / "one")
    assert_counted_by_hand(saes, tmp_path / "three")


@pytest.mark.parametrize("n_parts", [2, 3, 7, 50])
def test_parts_merged_are_to_the_bit_what_one_pass_counts(
    saes: dict[str, Any], tmp_path: Path, n_parts: int
) -> None:
    count([JOBS], saes, tmp_path / "one", Stream())
    of, folder, n_read = parts(n_parts), tmp_path / "parts", 0
    for part in reversed(of):
        assert not merge_parts([JOBS], saes, folder, of)
        stream: Any = Stream()
        target = folder / part_folder(part)
        run_passes([JOBS], saes, stream, N_TOKENS, target, part)
        n_read += stream.n_read
    assert n_read == N_TOKENS / PER_BATCH, "no batch is read twice"
    assert merge_parts([JOBS], saes, folder, of)
    assert_counted_by_hand(saes, folder)
    for name, sae in saes.items():
        one, merged = (
            Tally.load(f / name, sae).meter.sums for f in (tmp_path / "one", folder)
        )
        assert all(np.array_equal(sums, merged[key]) for key, sums in one.items())
    again = Stream(dies_after=0)
    count([JOBS], saes, folder, again)
    assert again.n_read == 0


@pytest.mark.slow
def test_a_killed_pass_goes_on_where_it_was_saved(
    saes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "SAVE_EVERY_SECONDS", 0)
    plan = [JOBS[:2], JOBS[2:]]
    for dies_after in (7, 20):
        with pytest.raises(KeyboardInterrupt):
            count(plan, saes, tmp_path, Stream(dies_after))
    rest = Stream()
    count(plan, saes, tmp_path, rest)
    assert rest.n_read == 2 * 40 - 27, "no batch is read again"
    assert_counted_by_hand(saes, tmp_path)
    again = Stream(dies_after=0)
    count(plan, saes, tmp_path, again)
    assert again.n_read == 0


def test_a_plan_keeps_every_pass_within_the_memory(saes: dict[str, Any]) -> None:
    gb = 1e-9 * 4
    assert plan_passes(JOBS, saes, 1) == [JOBS]
    by_memory = plan_passes(JOBS, saes, gb * 1300)
    assert by_memory == [[JOBS[0]], JOBS[1:]]
    with pytest.raises(
        ValueError, match=r"'a x b' takes 0.0 GB, more than max_memory_gb="
    ):
        plan_passes(JOBS, saes, gb * 1100)
