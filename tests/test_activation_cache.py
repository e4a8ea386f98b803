"""Activations on disk: the model's, each served once, in an order that can be gone on with."""

from pathlib import Path

import pytest
import torch
from sae_lens import ActivationsStore
from sae_lens.constants import ACTIVATIONS_STORE_STATE_FILENAME
from safetensors.torch import load_file, save_file

from sae_lens_meta.activations import cache
from sae_lens_meta.activations.cache import CachedActivations, fill_caches
from sae_lens_meta.activations.part import WHOLE, Part, parts
from sae_lens_meta.activations.source import ActivationSource
from tests.tiny_llama import CONTEXT, HOOK, WIDTH, save_tiny_llama, tiny_source

BATCH, SHARD = 64, 512
OTHER = "model.layers.1"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ActivationSource:
    return tiny_source(save_tiny_llama(tmp_path_factory.mktemp("model")), n_held_out=60)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SHARD_TOKENS", SHARD)


def read(source: ActivationSource, n_tokens: int, *hooks: str) -> ActivationsStore:
    """SAELens's store of several hooks, which reads as `source` does."""
    store = source.store(n_tokens)
    store._hook_names = list(hooks or (HOOK,))
    store._hook_d_ins = dict.fromkeys(store._hook_names, WIDTH)
    store._hook_head_indices = {}
    return store


def fill(
    folder: Path, store: ActivationsStore, n_tokens: int, part: Part = WHOLE
) -> bool:
    return fill_caches({HOOK: folder}, store, n_tokens, {}, part)


def all_rows(cached: CachedActivations, n_batches: int) -> torch.Tensor:
    loader = cached.get_multi_hook_data_loader()
    return torch.cat([next(loader)[HOOK] for _ in range(n_batches)])


def sorted_rows(rows: torch.Tensor) -> list[list[float]]:
    return sorted(rows.tolist())


def test_the_cache_holds_what_the_model_gives(
    source: ActivationSource, tmp_path: Path
) -> None:
    n_tokens = 10 * SHARD
    fill(tmp_path, read(source, n_tokens), n_tokens)
    batches = [b.activations.flatten(0, 1) for b in source.stream(n_tokens)]
    wanted = torch.cat(batches).bfloat16().float()
    cached = CachedActivations(tmp_path, HOOK, BATCH, seed=0)
    assert cached.n_tokens == len(wanted) == n_tokens
    served = all_rows(cached, n_tokens // BATCH)
    assert not torch.equal(served, wanted)
    # each row once, and none but those
    assert sorted_rows(served) == sorted_rows(wanted)
    with pytest.raises(ValueError, match="5,120 cached tokens that fill batches are"):
        all_rows(cached, 1)


@pytest.mark.parametrize("shard", [SHARD, 5 * 32 + 16])
def test_a_cache_that_was_killed_is_filled_up(
    source: ActivationSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shard: int,
) -> None:
    monkeypatch.setattr(cache, "SHARD_TOKENS", shard)
    n_tokens = 5 * SHARD + 160
    fill(tmp_path / "whole", read(source, n_tokens), n_tokens)
    n_read: list[int] = []

    def fill_up() -> None:
        store = read(source, n_tokens)
        get, write = store.get_multi_hook_activations, cache._write

        def counted(tokens: torch.Tensor) -> dict[str, torch.Tensor]:
            n_read.append(tokens.numel())
            return get(tokens)

        def killed(path: Path, rows: torch.Tensor) -> None:
            if path.name == "00003.safetensors" and not (tmp_path / "once").exists():
                (tmp_path / "once").touch()
                path.with_suffix(".unfinished").write_bytes(b"half of it")
                raise KeyboardInterrupt
            write(path, rows)

        monkeypatch.setattr(store, "get_multi_hook_activations", counted)
        monkeypatch.setattr(cache, "_write", killed)
        try:
            fill(tmp_path / "killed", store, n_tokens)
        finally:
            monkeypatch.setattr(cache, "_write", write)

    with pytest.raises(KeyboardInterrupt):
        fill_up()
    n_read.clear()
    fill_up()
    # what was there was not read again, but for a batch that was half there
    assert n_tokens - 3 * shard <= sum(n_read) < n_tokens - 3 * shard + 8 * CONTEXT
    whole, killed = (
        CachedActivations(tmp_path / name, HOOK, BATCH, seed=0)
        for name in ("whole", "killed")
    )
    assert whole.n_tokens == killed.n_tokens == n_tokens
    n_batches = whole.n_in_batches // BATCH
    assert torch.equal(all_rows(whole, n_batches), all_rows(killed, n_batches))


def test_the_order_depends_on_the_seed_and_goes_on_where_it_was(
    source: ActivationSource, tmp_path: Path
) -> None:
    n_tokens = 9 * SHARD
    fill(tmp_path, read(source, n_tokens), n_tokens)
    whole = all_rows(CachedActivations(tmp_path, HOOK, BATCH, seed=1), 72)
    other = all_rows(CachedActivations(tmp_path, HOOK, BATCH, seed=2), 72)
    # not the tokens alone, the shards too come in another order
    assert sorted_rows(whole[: 32 * BATCH]) != sorted_rows(other[: 32 * BATCH])
    for n_before in (1, 31, 32, 33, 70):  # 32 batches are shuffled together
        first = CachedActivations(tmp_path, HOOK, BATCH, seed=1)
        all_rows(first, n_before)
        first.save_to_checkpoint(tmp_path)
        later = CachedActivations(tmp_path, HOOK, BATCH, seed=1)
        later.load_from_checkpoint(tmp_path)
        rest = all_rows(later, 72 - n_before)
        assert torch.equal(rest, whole[n_before * BATCH :])


def test_a_place_in_another_order_is_refused(
    source: ActivationSource, tmp_path: Path
) -> None:
    fill(tmp_path, read(source, SHARD), SHARD)
    checkpoint = tmp_path / "training" / "64"
    checkpoint.mkdir(parents=True)
    CachedActivations(tmp_path, HOOK, BATCH, seed=1).save_to_checkpoint(checkpoint)
    other = CachedActivations(tmp_path, HOOK, BATCH, seed=2)
    with pytest.raises(ValueError, match="training reads .* seed 1, this run in .* 2"):
        other.load_from_checkpoint(checkpoint)
    # as earlier versions wrote it, whose order was that of seed 0
    place = {"n_served": torch.tensor(64)}
    save_file(place, checkpoint / ACTIVATIONS_STORE_STATE_FILENAME)
    with pytest.raises(ValueError, match="training reads .* seed 0, this run in .* 2"):
        other.load_from_checkpoint(checkpoint)
    assert other.n_served == 0


def test_a_folder_of_other_activations_is_refused(
    source: ActivationSource, tmp_path: Path
) -> None:
    folders = {HOOK: tmp_path}
    fill_caches(folders, read(source, SHARD), SHARD, {"model": "a"})
    with pytest.raises(ValueError, match="else: model a. This run needs model b"):
        fill_caches(folders, read(source, SHARD), SHARD, {"model": "b"})
    store = read(source, SHARD, OTHER)
    with pytest.raises(ValueError, match=f"hook {HOOK}. This run needs hook {OTHER}"):
        fill_caches({OTHER: tmp_path}, store, SHARD, {"model": "a"})
    with pytest.raises(FileNotFoundError, match="no cached activations"):
        CachedActivations(tmp_path / "none", HOOK, BATCH, 0)


@pytest.mark.parametrize("n_parts", [2, 3, 7])
def test_parts_together_are_the_whole_bit_for_bit(
    source: ActivationSource, tmp_path: Path, n_parts: int
) -> None:
    n_tokens = 5 * SHARD + 160  # 7 parts are more than there are shards
    assert fill(tmp_path / "whole", read(source, n_tokens), n_tokens)
    n_read: list[int] = []
    n_shards = 6
    # in any order; the last one to end finds all there
    for part in reversed(parts(n_parts)):
        store, before = read(source, n_tokens), len(n_read)
        get = store.get_multi_hook_activations
        store.get_multi_hook_activations = lambda t, get=get: (
            n_read.append(t.numel()) or get(t)
        )  # type: ignore[method-assign]
        is_all = fill(tmp_path / "parts", store, n_tokens, part)
        to_come = [Part(i, n_parts).range(n_shards) for i in range(1, part.number)]
        assert is_all == (not any(to_come))
        assert sum(n_read[before:]) <= len(part.range(n_shards)) * SHARD + 8 * CONTEXT
    names = sorted(path.name for path in (tmp_path / "whole").glob("*.safetensors"))
    assert len(names) == n_shards
    for name in names:
        whole, apart = (
            load_file(tmp_path / folder / name)["activations"]
            for folder in ("whole", "parts")
        )
        assert torch.equal(whole, apart)


def test_hooks_that_are_read_in_one_pass_are_as_if_each_were_read_alone(
    source: ActivationSource, tmp_path: Path
) -> None:
    n_tokens, hooks = 3 * SHARD + 160, (HOOK, OTHER)
    alone, together = (
        {h: tmp_path / n / h for h in hooks} for n in ("alone", "together")
    )
    for hook, folder in alone.items():
        fill_caches({hook: folder}, read(source, n_tokens, hook), n_tokens, {})
    for part in reversed(parts(2)):
        store = read(source, n_tokens, *hooks)
        is_all = fill_caches(together, store, n_tokens, {}, part)
        assert is_all == (part.number == 1)
    for hook in hooks:
        shards = sorted(alone[hook].glob("*.safetensors"))
        assert len(shards) == 4
        for shard in shards:
            one = load_file(shard)["activations"]
            assert torch.equal(
                one, load_file(together[hook] / shard.name)["activations"]
            )
    # one that lacks a shard is written with the others
    (together[OTHER] / "00001.safetensors").unlink()
    assert fill_caches(together, read(source, n_tokens, *hooks), n_tokens, {})
    assert (together[OTHER] / "00001.safetensors").is_file()


def test_a_part_that_is_missing_is_not_read_over_the_later_ones(
    source: ActivationSource, tmp_path: Path
) -> None:
    n_tokens = 4 * SHARD
    fill(tmp_path, read(source, n_tokens), n_tokens, Part(2, 2))
    assert not fill(tmp_path, read(source, n_tokens), n_tokens, Part(2, 2))
    (tmp_path / "00003.safetensors").unlink()
    with pytest.raises(ValueError, match="later shards .* than shard 0, which is missing"):  # fmt: skip
        fill(tmp_path, read(source, n_tokens), n_tokens)


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/2"])
def test_a_part_that_is_none_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=f"takes I/N.*got '{text}'"):
        Part.parse(text)
