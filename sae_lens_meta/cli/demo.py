"""The main job: a joint and a solo SAE side by side, measured, saved and looked at."""

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from pydantic import TypeAdapter
from rich.console import Console
from rich.text import Text
from sae_lens import SAE
from sae_lens.load_model import load_model
from transformer_lens.HookedTransformer import HookedRootModule
from transformers.utils.logging import disable_progress_bar

from sae_lens_meta.activations.language_model import (
    SMOLLM2,
    model_metadata,
    model_path,
)
from sae_lens_meta.activations.measured_on import MeasuredOn, SourceConfig
from sae_lens_meta.activations.source import (
    ActivationSource,
    load_source,
    without_advice,
)
from sae_lens_meta.activations.stream import ActivationBatch
from sae_lens_meta.activations.text import (
    PYDOC,
    check_left_to_train,
    load_text,
    text_identity,
)
from sae_lens_meta.cli.options import parse
from sae_lens_meta.cli.said import say
from sae_lens_meta.comparison.members import JOINT, SOLO
from sae_lens_meta.destination import check_same, held, write_whole
from sae_lens_meta.measures.evaluate import read_once
from sae_lens_meta.measures.figures import RECONSTRUCTION, Figure, figures_table
from sae_lens_meta.measures.meta_structure import meta_explained_variance
from sae_lens_meta.measures.model_cost import ModelCost
from sae_lens_meta.measures.reconstruction import Reconstruction
from sae_lens_meta.measures.top_contexts import TopContexts
from sae_lens_meta.reproduce.trained_on import text_metadata, text_store, together
from sae_lens_meta.reproduce.training import train_together
from sae_lens_meta.saved import SavedSAE, check_device
from sae_lens_meta.training.checks import hook_width
from sae_lens_meta.training.joint import MetaTrainingSAEConfig

RECORD = "demo.json"
CHECKPOINTS = "checkpoints"
MAX_CE_TOKENS = 2048


@dataclass
class DemoConfig:
    """
    Settings of the side-by-side run.

    The cycle and `meta_lr` are not the paper's, with which the meta SAE is slow
    beside its primary: docs/training.md.

    Args:
        model (str): `smollm2`, the path of a GGUF file, or a model that SAELens loads.
        model_class (str): AutoModelForCausalLM or HookedTransformer.
        hook (str): Hook whose activations are trained on.
        dataset (str): `pydoc`, the path of a file or folder, or a dataset on the Hub.
        tokens (int): Training tokens; a text with fewer is read again from its start.
        held_out_documents (int): Documents kept for measuring.
        eval_tokens (int): Tokens of them that every measure reads, as far as they go.
        output (Path): Folder that receives joint/, joint/meta/ and solo/; it holds one run, which
            the same call goes on with where it was stopped.
        context_size (int): Tokens of one context of the language model.
        d_sae (int): Number of latents.
        k (float): Average number of active latents per token.
        batch_size (int): Tokens per step.
        lr (float): Learning rate of the primary SAEs.
        decomposability_coefficient (float): lambda_2 of the joint SAE.
        decomposability_bandwidth (float): sigma^2 of the joint SAE.
        primary_steps_per_cycle (int): Primary steps in one cycle of the joint SAE.
        meta_steps_per_cycle (int): Meta steps in one cycle of the joint SAE.
        meta_lr (float): Learning rate of the meta SAE.
        device (str): Device of the model and the SAEs.
        seed (int): Seed of the initial weights and of the order of activations.
        text_seed (int): Seed of the order of documents: which are held out, and the order of
            the others.
    """

    model: str = SMOLLM2
    model_class: str = "AutoModelForCausalLM"
    hook: str = "model.layers.11"
    dataset: str = PYDOC
    tokens: int = 200_000
    held_out_documents: int = 12
    eval_tokens: int = 20_000
    output: Path = Path("demo_out")
    context_size: int = 128
    d_sae: int = 1536
    k: float = 32
    batch_size: int = 1024
    lr: float = 1e-3
    decomposability_coefficient: float = 0.3
    decomposability_bandwidth: float = 1.0
    primary_steps_per_cycle: int = 5
    meta_steps_per_cycle: int = 5
    meta_lr: float = 3e-3
    device: str = "cpu"
    seed: int = 42
    text_seed: int = 42


@dataclass
class DemoRow:
    """Figures of one SAE in the demo's table."""

    reconstruction: Reconstruction
    model_cost: ModelCost
    meta_explained_variance: float
    weights_sha256: str


FIGURES: tuple[Figure[DemoRow], ...] = (
    *RECONSTRUCTION,
    Figure(
        "meta_explained_variance",
        "decoder variance a fresh meta SAE explains",
        lambda row: row.meta_explained_variance,
        ".4f",
        "lower",
    ),
)


def run(args: list[str]) -> None:
    """Runs the demo with its options."""
    run_demo(parse(DemoConfig, "demo", args), Console())


def run_demo(cfg: DemoConfig, console: Console) -> dict[str, DemoRow]:
    """
    Trains a joint and a solo SAE side by side, measures, saves and shows them.

    A call that was stopped is gone on from by the same call, with the weights, the optimizers and
    the place in the text of its last checkpoint; what was being mixed is read no more. One that
    was finished shows its figures again.

    Raises:
        ValueError: if the folder holds anything else, another run is writing to it, the text or
            the hook cannot be used, or no documents are left to train on.
        OSError: if nothing can be written to the folder, or a path does not exist.
        Interrupted: if a signal stopped the training.
    """
    if cfg.tokens < cfg.batch_size:
        raise ValueError(
            f"--tokens {cfg.tokens} is less than a batch of {cfg.batch_size}. Give more."
        )
    check_device(cfg.device)
    with held(cfg.output):
        settings = _settings(cfg)
        rows, source = _claimed(cfg.output, settings)
        if not rows:
            rows = _run(cfg, settings, console)
        else:
            console.print(f"{cfg.output} holds this run, which is finished:")
            if source is not None:
                say(source.notes, source.warnings, console)
            console.print(figures_table(FIGURES, rows, source.said if source else ""))
            say([], _changed_since(cfg.output, rows), console)
        console.print(
            f"\nSaved: {cfg.output / JOINT} (its meta SAE in meta/), {cfg.output / SOLO}"
        )
    return rows


def _run(
    cfg: DemoConfig, settings: dict[str, Any], console: Console
) -> dict[str, DemoRow]:
    text, _ = load_text(cfg.dataset, cfg.held_out_documents, cfg.text_seed)
    check_left_to_train(text, cfg.dataset, cfg.held_out_documents)
    path = model_path(cfg.model)
    console.print(f"Model: {path}")
    if Path(path).exists():  # nothing is downloaded, and small weights are read at once
        disable_progress_bar()
    model = load_model(cfg.model_class, path, device=cfg.device)
    configs = _sae_configs(cfg, hook_width(model, cfg.hook))
    _record(cfg.output, settings, {}, None)
    _train(cfg, path, model, text, configs)

    saved = {name: SavedSAE.read(cfg.output / name) for name in configs}
    saes = {name: one.load(cfg.device) for name, one in saved.items()}
    contexts = TopContexts(saes[JOINT], _some_latents(cfg))
    source, measured_on = load_source(
        _source_config(cfg), list(saved.values()), model=model
    )
    say(measured_on.notes, measured_on.warnings, console)
    rows = _measured(cfg, saes, source, contexts)
    console.print(figures_table(FIGURES, rows, measured_on.said))
    show_latents(contexts, model.tokenizer, console)
    _record(cfg.output, settings, rows, measured_on)
    shutil.rmtree(cfg.output / CHECKPOINTS)
    return rows


def _train(
    cfg: DemoConfig,
    path: str,
    model: HookedRootModule,
    text: Dataset | IterableDataset,
    saes: dict[str, MetaTrainingSAEConfig],
) -> None:
    """Trains all `saes` on the same activations in one pass and saves them for inference."""
    runner = together(
        saes,
        hook_names=cfg.hook,
        model_name=path,
        model_class_name=cfg.model_class,
        dataset_path=cfg.dataset,
        context_size=cfg.context_size,
        training_tokens=cfg.tokens,
        train_batch_size_tokens=cfg.batch_size,
        store_batch_size_prompts=16,
        n_batches_in_buffer=128,
        lr=cfg.lr,
        adam_beta2=0.99,
        dead_feature_window=50,
        device=cfg.device,
        n_checkpoints=9,
    )
    of_text = text_metadata(
        cfg.dataset, cfg.held_out_documents, cfg.text_seed, cfg.seed
    )
    store = text_store(runner, model, text)
    torch.manual_seed(cfg.seed)  # orders the activations
    with without_advice():
        train_together(
            runner,
            store,
            cfg.output / CHECKPOINTS,
            cfg.output,
            of_text | model_metadata(cfg.model),
        )


def _measured(
    cfg: DemoConfig,
    saes: dict[str, SAE[Any]],
    source: ActivationSource,
    contexts: TopContexts,
) -> dict[str, DemoRow]:
    """Figures of each SAE on `source` and of its decoder; fills `contexts` of the joint one."""

    def look(name: str, _: torch.Tensor, batch: ActivationBatch) -> None:
        if name == JOINT:
            contexts.update(batch)

    found = read_once(saes, source, cfg.eval_tokens, MAX_CE_TOKENS, look)
    return {
        name: DemoRow(
            meter.result(),
            cost,
            _meta_explained_variance(saes[name]),
            SavedSAE.read(cfg.output / name).weights_sha256,
        )
        for name, (meter, cost) in found.items()
    }


def show_latents(
    contexts: TopContexts, tokenizer: Any, console: Console, n_latents: int = 5
) -> None:
    """Prints the tokens that activate some latents most, the peak itself highlighted."""
    firing = [i for i, peaks in contexts.peaks.items() if len(peaks) == contexts.n_top]
    for latent in firing[:n_latents]:
        console.print(f"\n[bold]Latent {latent} of the joint SAE[/bold]")
        for peak in contexts.peaks[latent]:
            before = repr(tokenizer.decode(peak.tokens[: peak.place]))[1:-1]
            token = repr(tokenizer.decode(peak.tokens[peak.place]))[1:-1]
            console.print(
                Text(f"  {peak.activation:6.2f}  {before}").append(token, "reverse")
            )


def _settings(cfg: DemoConfig) -> dict[str, Any]:
    """Everything that the figures depend on, the text by what it holds."""
    settings = {k: v for k, v in asdict(cfg).items() if k != "output"}
    return settings | {"text_sha256": text_identity(cfg.dataset).sha256}


def _source_config(cfg: DemoConfig) -> SourceConfig:
    """The documents that were held out; the SAEs record the rest."""
    return SourceConfig(
        dataset=cfg.dataset,
        held_out_documents=cfg.held_out_documents,
        first_document=0,
        text_seed=cfg.text_seed,
        tokens=cfg.eval_tokens,
        device=cfg.device,
    )


def _claimed(
    folder: Path, settings: dict[str, Any]
) -> tuple[dict[str, DemoRow], MeasuredOn | None]:
    """
    The figures of the finished run with `settings` in `folder`, and what they were taken on.

    There are none of it if it is not finished.

    Raises:
        ValueError: if the folder holds SAEs of anything else.
    """
    if not (folder / RECORD).is_file():
        for name in (JOINT, SOLO, CHECKPOINTS):
            if (folder / name).exists():
                raise ValueError(
                    f"{folder / name} exists, and {folder} has no {RECORD}: it is of another "
                    "run. Give another --output, or delete it."
                )
        return {}, None
    found = json.loads((folder / RECORD).read_text())
    check_same(folder, found["settings"], settings)
    rows = TypeAdapter(dict[str, DemoRow]).validate_python(found["figures"])
    source = found.get("source")
    return rows, TypeAdapter(MeasuredOn).validate_python(source) if source else None


def _changed_since(folder: Path, rows: dict[str, DemoRow]) -> list[str]:
    """A sentence for each SAE whose weights are not those that its figures are of."""
    return [
        f"The weights in {folder / name} were changed since, for instance calibrated: these "
        "figures are not theirs. `sae-lens-meta evaluate` takes new ones."
        for name, row in rows.items()
        if SavedSAE.read(folder / name).weights_sha256 != row.weights_sha256
    ]


def _record(
    folder: Path,
    settings: dict[str, Any],
    figures: dict[str, DemoRow],
    source: MeasuredOn | None,
) -> None:
    plain = {name: asdict(row) for name, row in figures.items()}
    measured_on = asdict(source) if source else None
    record = {"settings": settings, "source": measured_on, "figures": plain}
    write_whole(folder / RECORD, json.dumps(record, indent=1))


def _meta_explained_variance(sae: SAE[Any]) -> float:
    trained_with = sae.cfg.metadata.training_architecture_details
    return meta_explained_variance(
        sae.W_dec, trained_with["meta_d_sae"], trained_with["meta_k"]
    )


def _some_latents(cfg: DemoConfig) -> list[int]:
    generator = torch.Generator().manual_seed(cfg.seed)
    return torch.randperm(cfg.d_sae, generator=generator)[:100].tolist()


def _sae_configs(cfg: DemoConfig, d_in: int) -> dict[str, MetaTrainingSAEConfig]:
    joint = MetaTrainingSAEConfig(
        d_in=d_in,
        d_sae=cfg.d_sae,
        k=cfg.k,
        device=cfg.device,
        decomposability_coefficient=cfg.decomposability_coefficient,
        decomposability_bandwidth=cfg.decomposability_bandwidth,
        primary_steps_per_cycle=cfg.primary_steps_per_cycle,
        meta_steps_per_cycle=cfg.meta_steps_per_cycle,
        meta_lr=cfg.meta_lr,
        init_seed=cfg.seed,
    )
    return {JOINT: joint, SOLO: replace(joint, decomposability_coefficient=0)}
