"""A baseline that is not ours: SAELens's Matryoshka SAE beside solo and joint ones, end to end."""

import json
from pathlib import Path
from typing import Any

import pytest
from sae_lens import (
    LoggingConfig,
    MatryoshkaBatchTopKTrainingSAEConfig,
    MultiSAETrainingRunner,
    MultiSAETrainingRunnerConfig,
)

from sae_lens_meta import MetaTrainingSAEConfig
from sae_lens_meta.activations.text import PYDOC, load_text
from sae_lens_meta.cli import main
from sae_lens_meta.comparison.result import Comparison

SHAPE: dict[str, Any] = {"d_in": 576, "d_sae": 512, "k": 16}
KINDS = ("solo", "joint", "matryoshka")
SEEDS = (1, 2)
TOKENS, COMPARED = 60_000, 10_000


def sae_configs() -> dict[str, Any]:
    """Two seeds of each kind; SAELens's own draws its weights from torch's generator."""
    joint = {**SHAPE, "meta_k": 4, "decomposability_coefficient": 1.0}
    solo = {**joint, "decomposability_coefficient": 0.0}
    widths = [64, 128, 256, 512]
    made = {
        "solo": lambda seed: MetaTrainingSAEConfig(**solo, init_seed=seed),
        "joint": lambda seed: MetaTrainingSAEConfig(**joint, init_seed=seed),
        "matryoshka": lambda _: MatryoshkaBatchTopKTrainingSAEConfig(
            **SHAPE, matryoshka_widths=widths, normalize_activations="layer_norm"
        ),
    }
    return {f"{kind}_{seed}": made[kind](seed) for kind in KINDS for seed in SEEDS}


@pytest.mark.slow
def test_a_matryoshka_baseline_is_compared_on_the_real_model(
    smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training, held_out = load_text(PYDOC, 12)
    unseen = tmp_path / "held_out.jsonl"
    unseen.write_text("".join(json.dumps(document) + "\n" for document in held_out))
    cfg = MultiSAETrainingRunnerConfig(
        saes=sae_configs(),
        hook_names="model.layers.11",
        model_name=str(smollm2),
        model_class_name="AutoModelForCausalLM",
        dataset_path=PYDOC,
        training_tokens=TOKENS,
        train_batch_size_tokens=1024,
        store_batch_size_prompts=16,
        lr=1e-3,
        checkpoint_path=None,
        output_path=str(tmp_path / "saes"),
        logger=LoggingConfig(log_to_wandb=False),
    )
    MultiSAETrainingRunner(cfg, override_dataset=training).run()
    folders = {k: [str(tmp_path / "saes" / f"{k}_{s}") for s in SEEDS] for k in KINDS}
    groups = [["--sae", f"{kind}={a}", b] for kind, (a, b) in folders.items()]
    options = [option for group in groups for option in group]
    options += ["--baseline", "solo", "--dataset", str(unseen)]
    options += ["--tokens", str(COMPARED), "--ce_tokens", "1024", "--meta_steps", "50"]
    main(["compare", *options, "--output", str(tmp_path / "comparison")])

    found = Comparison.load(tmp_path / "comparison" / "comparison.json")
    (tmp_path / "said.txt").write_text(capsys.readouterr().out)
    assert found.n_tokens == pytest.approx(COMPARED, abs=128)
