"""One run of a recipe: where its files lie, and what its stages share."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from sae_lens import ActivationsStore, MultiSAETrainingRunnerConfig
from sae_lens.load_model import load_model
from transformer_lens.HookedTransformer import HookedRootModule

from sae_lens_meta.activations.cache import (
    SHARD_TOKENS,
    SHARDS_MIXED,
    CachedActivations,
    claim_cache,
    fill_caches,
)
from sae_lens_meta.activations.language_model import model_metadata, model_path
from sae_lens_meta.activations.measured_on import SourceConfig
from sae_lens_meta.activations.part import WHOLE, Part
from sae_lens_meta.activations.text import (
    check_left_to_train,
    load_text,
    order_of,
    text_identity,
)
from sae_lens_meta.comparison.members import EQUAL_L2, JOINT, SOLO
from sae_lens_meta.reproduce.executor import (
    Executor,
    InThisProcess,
    Piece,
    raise_failed,
)
from sae_lens_meta.reproduce.recipe import Recipe
from sae_lens_meta.reproduce.rehearsal import random_model
from sae_lens_meta.reproduce.trained_on import text_metadata, text_store
from sae_lens_meta.reproduce.training import Store

FINISHED = "finished"  # in a folder of activations


@dataclass
class Run:
    """
    A recipe, a folder, and what is loaded once for all stages.

    Attributes:
        recipe: as it is run; of a rehearsal, the shortened one.
        folder: that receives everything.
        device: of the SAEs, and of the model but for
        llm_device: of the model, where it has one of its own.
        is_rehearsal: whether the language model has random weights.
        groups: names of the SAEs that are trained in one pass.
        judge_url, judge_model: of autointerp.
        repo: on the Hub, to publish to; None prepares only.
        executor: that has its pieces done.
        training_gb, comparing_gb: memory of the host that a training and a comparison take, by our
            estimate.
        beside: runs whose activations are read in the same pass, at hooks of their own.
    """

    recipe: Recipe
    folder: Path
    device: str
    is_rehearsal: bool = False
    groups: list[list[str]] = field(default_factory=list)
    judge_url: str | None = None
    judge_model: str | None = None
    repo: str | None = None
    llm_device: str | None = None
    executor: Executor = field(default_factory=InThisProcess)
    training_gb: float = 0.0
    comparing_gb: float = 0.0
    beside: "list[Run]" = field(default_factory=list)

    def each(self, pieces: Sequence[Piece]) -> list[Any]:
        """
        What the pieces come to, in their order, each done by one process.

        Raises:
            Exception: as `raise_failed`.
        """
        found = self.executor.attempt(self, pieces, keep_going=False)
        raise_failed(pieces, found)
        return found

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: neither the model, which it loads, nor who placed it there."""
        state = {k: v for k, v in vars(self).items() if k != "model"}
        return state | {"executor": InThisProcess()}

    @cached_property
    def model(self) -> HookedRootModule:
        """The language model."""
        device = self.llm_device or self.device
        if self.is_rehearsal:
            return random_model(self.recipe, device)
        return load_model(
            self.recipe.model_class,
            model_path(self.recipe.model),
            device,
            self.recipe.training.model_from_pretrained_kwargs,
        )

    @property
    def model_name(self) -> str:
        """What the SAEs record as their model."""
        return self.recipe.model if self.is_rehearsal else model_path(self.recipe.model)

    @property
    def has_activations(self) -> bool:
        """Whether everything that trainings read is on disk."""
        return (self.folder / "activations" / "train" / FINISHED).is_file()

    @property
    def context_size(self) -> int:
        return self.recipe.training.context_size

    @property
    def saes(self) -> Path:
        """Folder of the exported SAEs."""
        return self.folder / "saes"

    @property
    def checkpoints(self) -> Path:
        """Folder of the trainings' checkpoints."""
        return self.folder / "checkpoints"

    def paths(self, kind: str) -> list[Path]:
        """Folders of the SAEs of one kind, `joint`, `solo` or `solo_equal_l2`, by seed."""
        return [self.saes / f"{kind}_{seed}" for seed in self.recipe.seeds]

    def controls(self) -> list[Path]:
        """Folders of the solo SAEs at equal L2, of the seeds that have one of its own."""
        return [path for path in self.paths(EQUAL_L2) if path.is_dir()]

    def all_paths(self) -> list[Path]:
        """Folders of all exported SAEs."""
        return [*self.paths(JOINT), *self.paths(SOLO), *self.controls()]

    def runner_config(
        self, names: list[str], n_tokens: int
    ) -> MultiSAETrainingRunnerConfig:
        """SAELens's config for training some of the SAEs up to `n_tokens` tokens."""
        saes = {n: cfg for n, cfg in self.recipe.saes().items() if n in names}
        cfg = self.recipe.runner_config(saes)
        cfg.device = self.device
        for sae in cfg.saes.values():
            sae.device = self.device
        cfg.model_name = self.model_name
        cfg.training_tokens = n_tokens
        return cfg

    def training_text(self) -> Dataset | IterableDataset:
        """
        What is left after the documents that are held out.

        Raises:
            ValueError: if nothing is.
        """
        held_out = self.recipe.held_out
        n = held_out.compare + held_out.select
        text, _ = load_text(self.recipe.dataset, n, self.recipe.text_seed)
        check_left_to_train(text, self.recipe.dataset, n)
        return text

    def store(
        self, text: Dataset | IterableDataset, beside: Mapping[str, int] | None = None
    ) -> ActivationsStore:
        """SAELens's store of the hook's activations, and others', from the start of `text`."""
        cfg = self.recipe.training
        cfg.device = self.device
        return text_store(cfg, self.model, text, beside)

    def measured_reading(self) -> float:
        """Seconds that reading the activations of one token takes, on a few contexts."""
        store = self.store(Dataset.from_list([{"text": "A word."}]))
        tokens = torch.zeros(
            (store.store_batch_size_prompts, store.context_size),
            dtype=torch.long,
            device=self.llm_device or self.device,
        )
        seconds = []
        for _ in range(2):  # the first warms up
            start = time.perf_counter()
            store.get_activations(tokens)[0, 0, 0].item()  # waits for a GPU
            seconds.append(time.perf_counter() - start)
        return seconds[-1] / tokens.numel()

    def training_store(self, seed: int) -> Store:
        """The training text's activations, in the order of `seed`."""
        if self.recipe.cache_activations:
            return self.cached("train", self.recipe.n_tokens, None, seed)
        torch.manual_seed(seed)  # mixes SAELens's buffer
        return self.store(self.training_text())

    def cached(
        self, name: str, n_tokens: int, first: int | None, seed: int = 0
    ) -> CachedActivations:
        """
        The activations of `n_tokens` tokens or more, from disk; written there unless they are.

        Args:
            name: of the folder.
            n_tokens: to have, in whole batches.
            first: of the held-out documents for selection, or None for the training text.
            seed: of their order.

        Raises:
            ValueError: if the text is too short.
        """
        folder = self.folder / "activations" / name
        hook = {"hook": self.recipe.hook}
        claim_cache(folder, self._made_of(n_tokens) | hook)
        if not (folder / FINISHED).is_file():
            self.fill(name, n_tokens, first)
        batch = self.recipe.training.train_batch_size_tokens
        cached = CachedActivations(folder, self.recipe.hook, batch, seed)
        if cached.n_in_batches < n_tokens:
            raise ValueError(
                f"The text for {name!r} ended after {cached.n_tokens:,} tokens; {n_tokens:,} are "
                "needed. Give more text, hold out other numbers of documents, or lower the "
                f"recipe's tokens, and delete {folder}."
            )
        return cached

    def fill(
        self, name: str, n_tokens: int, first: int | None, part: Part = WHOLE
    ) -> None:
        """
        Writes the activations that `cached` reads, or a part of them, and those of the runs beside.

        Raises:
            ValueError: as `fill_caches`.
        """
        batch = self.recipe.training.train_batch_size_tokens
        text = self.training_text() if first is None else self.held_out(first)
        # what fills no batch is left out, of every few shards that are mixed
        n_spare = batch * (n_tokens // (SHARDS_MIXED * SHARD_TOKENS) + 2)
        runs = [self, *self.beside]
        folders = {run.recipe.hook: run.folder / "activations" / name for run in runs}
        widths = {run.recipe.hook: run.recipe.joint.d_in for run in self.beside}
        store, made_of = self.store(text, widths), self._made_of(n_tokens)
        if fill_caches(folders, store, n_tokens + n_spare, made_of, part):
            for folder in folders.values():
                (folder / FINISHED).touch()

    def _made_of(self, n_tokens: int) -> dict[str, Any]:
        """What activations on disk depend on beside their hook."""
        return {
            "model": self.recipe.model,
            "text_sha256": text_identity(self.recipe.dataset).sha256,
            "text_seed": self.recipe.text_seed,
            "held_out": self.recipe.held_out.model_dump(),
            "context_size": self.context_size,
            "autocast_lm": self.recipe.training.autocast_lm,
            "model_kwargs": self.recipe.training.model_from_pretrained_kwargs,
            "n_tokens": n_tokens,
        }

    def selection(self) -> Iterator[torch.Tensor]:
        """Batches of activations that thresholds and equal L2 are taken on, as in training."""
        n_tokens = self.recipe.calibrate_tokens
        first = self.recipe.held_out.compare
        cached = self.cached("select", n_tokens, first)
        n_batches = n_tokens // cached.batch_size
        loader = cached.get_multi_hook_data_loader()
        for _ in range(n_batches):
            yield next(loader)[self.recipe.hook].to(self.device)

    def held_out(self, first: int) -> Dataset:
        """Held-out documents: from `first` on, those to compare on or those to select on."""
        held_out = self.recipe.held_out
        n = held_out.select if first else held_out.compare
        return load_text(self.recipe.dataset, n, self.recipe.text_seed, first)[1]

    def source_config(self) -> SourceConfig:
        """The text that the final figures are taken on; the SAEs record the rest."""
        return SourceConfig(
            dataset=self.recipe.dataset,
            held_out_documents=self.recipe.held_out.compare,
            first_document=0,
            text_seed=self.recipe.text_seed,
            tokens=self.recipe.compare_tokens,
            device=self.device,
        )

    def selection_text(self) -> dict[str, Any]:
        """What `selection` is read from, as thresholds record it (`MeasuredOn.text`)."""
        return {
            "name": Path(self.recipe.dataset).name,
            "sha256": text_identity(self.recipe.dataset).sha256,
            "first_document": self.recipe.held_out.compare,
            "documents": self.recipe.held_out.select,
            "text_seed": order_of(self.recipe.dataset, self.recipe.text_seed),
        }

    def metadata(self, data_seed: int) -> dict[str, Any]:
        """
        What an SAE records beside what SAELens has it record: its text and its model.

        Args:
            data_seed: of the order that its training reads activations in.
        """
        held_out = self.recipe.held_out
        documents = held_out.compare + held_out.select
        dataset, text_seed = self.recipe.dataset, self.recipe.text_seed
        return {
            **text_metadata(dataset, documents, text_seed, data_seed),
            "autocast_lm": self.recipe.training.autocast_lm,
            **({} if self.is_rehearsal else model_metadata(self.recipe.model)),
        }
