"""Streaming passes that count for several SAEs at once, and go on where they were killed."""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens import SAE
from safetensors.numpy import load_file, save_file

from sae_lens_meta.activations.part import WHOLE, Part
from sae_lens_meta.activations.source import ActivationSource
from sae_lens_meta.activations.stream import ActivationBatch, encode
from sae_lens_meta.destination import write_whole
from sae_lens_meta.measures.cooccurrence import CooccurrenceCounter
from sae_lens_meta.measures.phi_blocks import PhiBlocks
from sae_lens_meta.measures.reconstruction import ReconstructionMeter

N_BLOCKS = 40
SAVE_EVERY_SECONDS = 300
BYTES_PER_PAIR = 4
METER = "meter.safetensors"
DONE = "done"


class Tally:
    """
    Everything that one SAE's figures are made of, over the blocks of a stream.

    Attributes:
        meter: reconstruction, by block.
        blocks: pair counts of some latents, by block.
        counter: pair counts of all latents.
    """

    def __init__(self, sae: SAE[Any]):
        self.meter = ReconstructionMeter(sae, N_BLOCKS)
        self.blocks = PhiBlocks(sae.cfg.d_sae, N_BLOCKS)
        self.counter = CooccurrenceCounter(sae.cfg.d_sae)

    def update(self, activations: torch.Tensor, block: int) -> torch.Tensor:
        """Adds activations to a block; returns the codes `[n, d_sae]`."""
        acts = self.meter.update(activations, block)
        self.blocks.update(acts, block)
        self.counter.update(acts)
        return acts

    def merge(self, other: "Tally") -> None:
        """Adds what another tally has counted of other blocks."""
        self.counter.merge(other.counter)
        for mine, theirs in zip(
            self.blocks.counters, other.blocks.counters, strict=True
        ):
            mine.merge(theirs)
        self.meter.fired += other.meter.fired
        for name, sums in self.meter.sums.items():
            sums += other.meter.sums[name]

    def save(self, folder: Path) -> None:
        """Writes the tally to `folder`."""
        self.counter.save(folder / "counter")
        for block, counter in enumerate(self.blocks.counters):
            counter.save(folder / f"block_{block}")
        save_file({"fired": self.meter.fired, **self.meter.sums}, folder / METER)

    @classmethod
    def load(cls, folder: Path, sae: SAE[Any]) -> "Tally":
        """The tally of `sae` as it was saved."""
        tally = cls(sae)
        tally.counter = CooccurrenceCounter.load(folder / "counter")
        tally.blocks.counters = [
            CooccurrenceCounter.load(folder / f"block_{block}")
            for block in range(N_BLOCKS)
        ]
        sums = load_file(folder / METER)
        tally.meter.fired = sums.pop("fired")
        tally.meter.sums = sums
        return tally

    @staticmethod
    def load_fired(folder: Path) -> tuple[np.ndarray, int]:
        """`[d_sae]`, tokens that each latent of a saved tally fired on, and all tokens."""
        sums = load_file(folder / METER)
        return sums["fired"], int(sums["n_tokens"].sum())


@dataclass(frozen=True)
class Job:
    """What a pass counts: the pairs within one SAE, or between it and another."""

    sae: str
    other: str | None = None

    @property
    def name(self) -> str:
        """Of the folder that keeps the counts."""
        return self.sae if self.other is None else f"{self.sae} x {self.other}"

    def n_bytes(self, saes: dict[str, SAE[Any]]) -> int:
        """Memory that its counts take."""
        d = saes[self.sae].cfg.d_sae
        pairs = d * d // 2 if self.other is None else d * saes[self.other].cfg.d_sae
        return pairs * BYTES_PER_PAIR


def plan_passes(
    jobs: list[Job], saes: dict[str, SAE[Any]], max_gb: float
) -> list[list[Job]]:
    """
    Jobs that count at the same time without exceeding `max_gb` of counts.

    Raises:
        ValueError: if a job alone exceeds it.
    """
    passes: list[list[Job]] = []
    room = 0.0
    for job in jobs:
        size = job.n_bytes(saes) / 1e9
        if size > max_gb:
            raise ValueError(
                f"Counting the pairs of {job.name!r} takes {size:.1f} GB, more than "
                f"max_memory_gb={max_gb:g}. Raise it where the machine has the memory."
            )
        if size > room:
            passes.append([])
            room = max_gb
        passes[-1].append(job)
        room -= size
    return passes


def run_passes(
    passes: list[list[Job]],
    saes: dict[str, SAE[Any]],
    source: ActivationSource,
    n_tokens: int,
    folder: Path,
    part: Part = WHOLE,
) -> None:
    """
    Counts `n_tokens` tokens of `source`, or a part of them, for every job, into
    `folder / <job's name>`.

    What is done is saved every five minutes and after every pass, and is not done again. Parts are of
    whole blocks: those of all parts, merged, are to the bit what one call counts.
    """
    blocks, batch = part.range(N_BLOCKS), source.tokens_per_batch
    begin, end = (_first_token(b, n_tokens, batch) for b in (blocks.start, blocks.stop))
    for number, jobs in enumerate(passes):
        if all((folder / job.name / DONE).exists() for job in jobs):
            continue
        state = _PassState.restore(folder / f"pass_{number}", jobs, saes, begin)
        if begin < end:  # a short text has fewer batches than blocks
            for tokens in source.stream(end, n_skipped=state.n_seen):
                state.update(tokens, n_tokens)
                state.save_now_and_then()
        state.finish(folder)


def _first_token(block: int, n_tokens: int, batch: int) -> int:
    """Where the first batch begins whose first token is of `block` or a later one."""
    n_batches = -(-block * n_tokens // (N_BLOCKS * batch))
    return min(n_batches * batch, n_tokens)


def merge_parts(
    passes: list[list[Job]], saes: dict[str, SAE[Any]], folder: Path, of: list[Part]
) -> bool:
    """
    Makes of the counts of all parts those of the whole, where all are there.

    Args:
        passes: that counted them.
        saes: by name.
        folder: with a folder of each part.
        of: all parts.
    """
    folders = [folder / part_folder(part) for part in of]
    jobs = [job for jobs in passes for job in jobs]
    if not all((f / job.name / DONE).exists() for f in folders for job in jobs):
        return False
    for job in jobs:
        merged: Any = _counted(folders[0], job, saes)
        for each in folders[1:]:
            merged.merge(_counted(each, job, saes))
        merged.save(folder / job.name)
        (folder / job.name / DONE).touch()
    for each in folders:
        shutil.rmtree(each)
    return True


def part_folder(part: Part) -> str:
    """Name of the folder that keeps the counts of a part."""
    return f"part_{part.id}"


def _counted(
    folder: Path, job: Job, saes: dict[str, SAE[Any]]
) -> Tally | CooccurrenceCounter:
    if job.other is None:
        return Tally.load(folder / job.name, saes[job.sae])
    return load_counter(folder, job)


def load_counter(folder: Path, job: Job) -> CooccurrenceCounter:
    """The finished counts between two SAEs."""
    return CooccurrenceCounter.load(folder / job.name)


class _PassState:
    def __init__(
        self,
        folder: Path,
        tallies: dict[str, Tally],
        counters: dict[Job, CooccurrenceCounter],
        saes: dict[str, SAE[Any]],
        n_seen: int,
    ):
        self.folder, self.tallies, self.counters = folder, tallies, counters
        self.saes, self.n_seen = saes, n_seen
        self._saved_at = time.monotonic()

    @classmethod
    def restore(
        cls, folder: Path, jobs: list[Job], saes: dict[str, SAE[Any]], begin: int
    ) -> "_PassState":
        """The state last saved in `folder`, or a fresh one before the token `begin`."""
        within = [job.sae for job in jobs if job.other is None]
        between = [job for job in jobs if job.other is not None]
        pointer = folder / "state.json"
        if not pointer.exists():
            tallies = {name: Tally(saes[name]) for name in within}
            counters = {job: _counter_between(job, saes) for job in between}
            return cls(folder, tallies, counters, saes, begin)
        n_seen = json.loads(pointer.read_text())["n_seen"]
        saved = folder / str(n_seen)
        tallies = {name: Tally.load(saved / name, saes[name]) for name in within}
        counters = {job: load_counter(saved, job) for job in between}
        return cls(folder, tallies, counters, saes, n_seen)

    def update(self, batch: ActivationBatch, n_tokens: int) -> None:
        x = batch.rows
        block = min(self.n_seen * N_BLOCKS // n_tokens, N_BLOCKS - 1)
        acts = {name: tally.update(x, block) for name, tally in self.tallies.items()}
        for job, counter in self.counters.items():
            for name in (job.sae, job.other):
                if name is not None and name not in acts:
                    acts[name] = encode(self.saes[name], x)
            counter.update(acts[job.sae], acts[job.other or job.sae])
        self.n_seen += batch.n_read

    def save_now_and_then(self) -> None:
        if time.monotonic() - self._saved_at > SAVE_EVERY_SECONDS:
            self._save(self.folder / str(self.n_seen))
            state = json.dumps({"n_seen": self.n_seen})
            write_whole(self.folder / "state.json", state)
            for old in self.folder.iterdir():
                if old.is_dir() and old.name != str(self.n_seen):
                    shutil.rmtree(old)
            self._saved_at = time.monotonic()

    def finish(self, folder: Path) -> None:
        self._save(folder)
        for name in [*self.tallies, *(job.name for job in self.counters)]:
            (folder / name / DONE).touch()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _save(self, folder: Path) -> None:
        for name, tally in self.tallies.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            tally.save(folder / name)
        for job, counter in self.counters.items():
            counter.save(folder / job.name)


def _counter_between(job: Job, saes: dict[str, SAE[Any]]) -> CooccurrenceCounter:
    assert job.other is not None
    return CooccurrenceCounter(saes[job.sae].cfg.d_sae, saes[job.other].cfg.d_sae)
