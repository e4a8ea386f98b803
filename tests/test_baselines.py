"""A baseline that is not ours: SAELens's Matryoshka and BatchTopK SAEs beside joint ones, end to end."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sae_lens import (
    SAE,
    BatchTopKTrainingSAEConfig,
    LoggingConfig,
    MatryoshkaBatchTopKTrainingSAEConfig,
    MultiSAETrainingRunner,
    MultiSAETrainingRunnerConfig,
)

from sae_lens_meta import MetaTrainingSAEConfig
from sae_lens_meta.activations.text import PYDOC, load_text
from sae_lens_meta.cli import main
from sae_lens_meta.comparison.figures import L2
from sae_lens_meta.comparison.result import Comparison

SHAPE: dict[str, Any] = {"d_in": 576, "d_sae": 512, "k": 16}
GROUPS = ("batchtopk", "joint", "matryoshka")
SEEDS = (1, 2)
TOKENS, COMPARED = 30_000, 8_000


def sae_configs() -> dict[str, Any]:
    """Two of each kind; SAELens's own draw their weights from torch's generator, one after another."""
    plain = {**SHAPE, "normalize_activations": "none"}
    widths = [64, 128, 256, 512]
    made = {
        "batchtopk": lambda _: BatchTopKTrainingSAEConfig(**plain),
        "joint": lambda seed: MetaTrainingSAEConfig(
            **SHAPE, meta_k=4, decomposability_coefficient=1.0, init_seed=seed
        ),
        "matryoshka": lambda _: MatryoshkaBatchTopKTrainingSAEConfig(
            **plain, matryoshka_widths=widths
        ),
    }
    return {f"{kind}_{seed}": made[kind](seed) for kind in GROUPS for seed in SEEDS}


@pytest.mark.slow
def test_saes_of_saelens_are_baselines_on_the_real_model(
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
    paths = {k: [tmp_path / "saes" / f"{k}_{s}" for s in SEEDS] for k in GROUPS}
    given = [("--sae", f"{k}={first}", str(second)) for k, (first, second) in paths.items()]  # fmt: skip
    options = [option for group in given for option in group]
    options += ["--baseline", "matryoshka", "--dataset", str(unseen)]
    options += ["--tokens", str(COMPARED), "--ce_tokens", "1024", "--meta_steps", "50"]
    main(["compare", *options, "--output", str(tmp_path / "comparison")])

    found = Comparison.load(tmp_path / "comparison" / "comparison.json")
    variants = {saes[0].group: name for name, saes in found.variants().items()}
    assert set(variants) == set(GROUPS) and len(found.saes) == len(GROUPS) * len(SEEDS)
    architectures = {path.name: SAE.load_from_disk(path).cfg.architecture() for ps in paths.values() for path in ps}  # fmt: skip
    assert set(architectures.values()) == {"jumprelu"}
    l2 = {g: np.mean([L2.of(s) for s in found.variants()[v]]) for g, v in variants.items()}  # fmt: skip
    for group in ("batchtopk", "joint"):
        difference = found.difference(variants[group], "matryoshka", L2.id)
        assert difference is not None and difference.percent is not None
        wanted = 100 * (l2[group] / l2["matryoshka"] - 1)
        assert difference.percent == pytest.approx(wanted)
        assert any(sentence.startswith(group) for sentence in found.verdict)
    assert all("against 2 matryoshka" in sentence for sentence in found.verdict)
    printed = " ".join(capsys.readouterr().out.split())
    report = (tmp_path / "comparison" / "report.html").read_text()
    for shown in (printed, report):
        assert "matryoshka" in shown and "batchtopk" in shown
