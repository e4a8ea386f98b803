"""Activations of hooks on disk: read from a language model once, trained on many times."""

import json
from collections.abc import Iterator, Mapping
from math import ceil
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from sae_lens import ActivationsStore
from sae_lens.constants import ACTIVATIONS_STORE_STATE_FILENAME
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sae_lens_meta.activations.part import WHOLE, Part
from sae_lens_meta.activations.stream import stream_tokens
from sae_lens_meta.destination import write_whole

SHARD_TOKENS = 131_072
SHARDS_MIXED = 4  # whose tokens are shuffled together
INDEX = "cache.json"


def fill_caches(
    folders: Mapping[str, Path],
    store: ActivationsStore,
    n_tokens: int,
    made_of: dict[str, Any],
    part: Part = WHOLE,
) -> bool:
    """
    Writes the activations of the next `n_tokens` tokens of `store`, in bfloat16, in one pass for all hooks.

    What is written is whole shards of 131,072 tokens, the last of which may be shorter; a
    call that was killed goes on after the last one that is complete. The shards are the same, whether one
    call writes all of them or several write parts: each reads the tokens of the others, and runs the model
    on its own.

    Args:
        folders: that receive the shards, by hook of the store.
        store: SAELens's of one or more hooks, from the start of its text.
        n_tokens: to write, as far as the text goes.
        made_of: what the activations of all hooks depend on: model, text and the like.
        part: that this call writes.

    Returns:
        Whether all parts are there now.

    Raises:
        ValueError: if a folder holds activations of something else, or later parts and not this
            one, of which another call may be at work.
    """
    for hook, folder in folders.items():
        claim_cache(folder, made_of | {"hook": hook})
    n_all = n_tokens
    missing = _missing(folders, part, n_all)
    if not missing:
        return not _missing(folders, WHOLE, n_all)
    first, end = missing[0], missing[-1] + 1
    if len(missing) < end - first:
        where = " or ".join(map(str, folders.values()))
        raise ValueError(
            f"{where} has later shards of {SHARD_TOKENS:,} tokens than shard {first}, which is "
            "missing: parts of it are still being written, or were killed. Run each of these "
            "parts to its end first."
        )
    n_done, n_tokens = first * SHARD_TOKENS, min(n_tokens, end * SHARD_TOKENS)
    # the model is run again for a batch of which only the first tokens were written
    n_read = store.store_batch_size_prompts * store.context_size
    n_skipped = n_done // n_read * n_read
    n_written_of_first, n_seen = n_done - n_skipped, 0
    writers = {hook: _Writer(folder, first) for hook, folder in folders.items()}
    for tokens in stream_tokens(store, n_tokens):
        if n_seen >= n_skipped:
            found = store.get_multi_hook_activations(tokens)
            for hook, writer in writers.items():
                rows = found[hook].flatten(0, 1).to("cpu", torch.bfloat16)
                writer.add(rows[n_written_of_first:])
            n_written_of_first = 0
        n_seen += tokens.numel()
    for writer in writers.values():
        writer.finish()
    # of a text that ends early, nobody but who has read all of it knows that this is all
    return part == WHOLE or not _missing(folders, WHOLE, n_all)


class _Writer:
    """Cuts the rows of one hook into shards, from the number `shard` on."""

    def __init__(self, folder: Path, shard: int):
        self.folder, self.shard = folder, shard
        self.gathered: list[torch.Tensor] = []
        self.n_gathered = 0

    def add(self, rows: torch.Tensor) -> None:
        self.gathered.append(rows)
        self.n_gathered += len(rows)
        while self.n_gathered >= SHARD_TOKENS:
            self._write(SHARD_TOKENS)

    def finish(self) -> None:
        if self.n_gathered:
            self._write(self.n_gathered)

    def _write(self, n: int) -> None:
        rows = torch.cat(self.gathered)
        _write(_shard(self.folder, self.shard), rows[:n])
        self.gathered, self.shard = [rows[n:].clone()], self.shard + 1
        self.n_gathered -= n


class CachedActivations:
    """
    The activations in a folder, shuffled, in the place of SAELens's ActivationsStore.

    Four shards are shuffled at a time, shards and tokens in an order that depends on `seed`
    alone, so that a training which is resumed reads what it would have read.

    Args:
        folder: that `fill_caches` has written.
        hook: whose activations they are.
        batch_size: tokens of a batch.
        seed: of the order.

    Attributes:
        n_tokens: there are.
        n_in_batches: of them, those that fill batches.
        n_served: tokens of the batches given out.

    Raises:
        FileNotFoundError: if the folder has no activations.
    """

    def __init__(self, folder: Path, hook: str, batch_size: int, seed: int):
        self.hook, self.batch_size, self.seed = hook, batch_size, seed
        self.shards = _shards(folder)
        if not self.shards:
            raise FileNotFoundError(f"There are no cached activations at {folder}.")
        self.n_tokens = sum(map(_n_tokens, self.shards))
        self.n_in_batches = sum(map(self._n_whole, self._groups()))
        self.n_served = 0

    def get_multi_hook_data_loader(self) -> Iterator[dict[str, torch.Tensor]]:
        """
        Batches `[batch_size, d_in]`, float32, by hook, from the place that was loaded.

        The tokens of four shards that fill no batch go into no batch.

        Raises:
            ValueError: when all are served, which a check before training should have said.
        """
        n_passed = 0
        for group in self._groups():
            n_whole = self._n_whole(group)
            if self.n_served < n_passed + n_whole:
                rows = _read(group)
                seed = self.seed * len(self.shards) + n_passed
                order = torch.randperm(len(rows), generator=_generator(seed))
                for start in range(self.n_served - n_passed, n_whole, self.batch_size):
                    self.n_served += self.batch_size
                    chosen = order[start : start + self.batch_size]
                    yield {self.hook: rows[chosen].float()}
                del rows  # before the next are read
            n_passed += n_whole
        raise ValueError(
            f"All {self.n_in_batches:,} cached tokens that fill batches are used up."
        )

    def _groups(self) -> Iterator[list[Path]]:
        order = torch.randperm(len(self.shards), generator=_generator(self.seed))
        for chosen in order.split(SHARDS_MIXED):
            yield [self.shards[i] for i in chosen.tolist()]

    def _n_whole(self, group: list[Path]) -> int:
        return sum(map(_n_tokens, group)) // self.batch_size * self.batch_size

    def save_to_checkpoint(self, checkpoint_path: Path) -> None:
        """Records the order and the place in it where SAELens's store records its own."""
        place = {
            "n_served": torch.tensor(self.n_served),
            "seed": torch.tensor(self.seed),
        }
        save_file(place, checkpoint_path / ACTIVATIONS_STORE_STATE_FILENAME)

    def load_from_checkpoint(self, checkpoint_path: Path) -> None:
        """
        Goes to the place that `save_to_checkpoint` recorded.

        Raises:
            ValueError: if it is a place in another order.
        """
        place = load_file(checkpoint_path / ACTIVATIONS_STORE_STATE_FILENAME)
        seed = int(place.get("seed", 0))  # earlier versions had one order for all
        if seed != self.seed:
            raise ValueError(
                f"The training in {checkpoint_path.parent} reads activations in the order of seed "
                f"{seed}, this run in that of seed {self.seed}. Delete the folder of its "
                "checkpoints to begin again."
            )
        self.n_served = int(place["n_served"])


def claim_cache(folder: Path, made_of: dict[str, Any]) -> None:
    """
    Raises:
        ValueError: if the folder holds activations of something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / INDEX
    with FileLock(index.with_suffix(".lock")):  # of parts that begin at once
        if not index.is_file():
            write_whole(index, json.dumps(made_of))
        found = json.loads(index.read_text())
    if found != made_of:
        differ = [key for key in found | made_of if found.get(key) != made_of.get(key)]
        raise ValueError(
            f"{folder} holds activations of something else: {_told(found, differ)}. This run "
            f"needs {_told(made_of, differ)}. Delete it or give another output."
        )


def _told(made_of: dict[str, Any], keys: list[str]) -> str:
    return ", ".join(f"{key} {made_of.get(key, 'not recorded')}" for key in keys)


def _shard(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.safetensors"


def _missing(folders: Mapping[str, Path], part: Part, n_tokens: int) -> list[int]:
    """Shards of a part that are not there, or shorter than they are to be, for one hook or more."""
    lengths = {
        shard: min(SHARD_TOKENS, n_tokens - shard * SHARD_TOKENS)
        for shard in part.range(ceil(n_tokens / SHARD_TOKENS))
    }
    return [
        shard
        for shard, length in lengths.items()
        if any(
            not _shard(folder, shard).is_file()
            or _n_tokens(_shard(folder, shard)) != length
            for folder in folders.values()
        )
    ]


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.safetensors"))


def _n_tokens(shard: Path) -> int:
    with safe_open(shard, framework="pt") as file:
        return file.get_slice("activations").get_shape()[0]


def _read(shards: list[Path]) -> torch.Tensor:
    """Their rows `[tokens, d_in]`, of which there are never two copies."""
    first = load_file(shards[0])["activations"]
    rows = first.new_empty(sum(map(_n_tokens, shards)), first.shape[1])
    start = 0
    for path in shards:
        part = load_file(path)["activations"]
        rows[start : start + len(part)] = part
        start += len(part)
    return rows


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _write(path: Path, rows: torch.Tensor) -> None:
    unfinished = path.with_suffix(".unfinished")
    save_file({"activations": rows.contiguous()}, unfinished)
    unfinished.rename(path)
