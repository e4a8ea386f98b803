"""What is saved for inference, as a SAELens that has never heard of this package sees it."""

import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, JumpReLUSAE, TrainingSAE
from safetensors.torch import load_file

from sae_lens_meta import MetaTrainingSAE
from sae_lens_meta.training.penalty import unit_rows
from tests.helpers import meta_config, sparse_batches, train, trainer_for
from tests.tiny_llama import HOOK, WIDTH, record_reading


@pytest.fixture(
    scope="module", params=["layer_norm", "none", "expected_average_only_in"]
)
def trained(request: pytest.FixtureRequest) -> MetaTrainingSAE:
    return train(
        meta_config(normalize_activations=request.param, decoder_init_norm=0.3),
        50,
        n_batches_for_norm_estimate=5,
    )


def held_out(n_batches: int = 20) -> torch.Tensor:
    batches = sparse_batches(seed=1)
    return torch.cat([next(batches) for _ in range(n_batches)])


def test_exported_sae_is_the_training_sae_gated_by_its_threshold(
    trained: MetaTrainingSAE, tmp_path: Path
) -> None:
    trained.save_inference_model(tmp_path)
    exported = SAE.load_from_disk(tmp_path)
    assert type(exported) is JumpReLUSAE
    x = held_out()
    _, hidden_pre = trained.encode_with_hidden_pre(x)
    gated = hidden_pre * (hidden_pre > exported.threshold[0])
    expected = trained.decode(gated)
    torch.testing.assert_close(exported.encode(x) > 0, gated > 0)
    torch.testing.assert_close(exported(x), expected, rtol=1e-4, atol=1e-4)


def test_an_exported_sae_acts_in_sae_lenss_models(model: Path, tmp_path: Path) -> None:
    """Trained on a module of transformers, which they do not attach to by that name."""
    pytest.importorskip("transformer_lens.model_bridge")
    from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

    cfg = meta_config(d_in=WIDTH)
    record_reading(cfg.metadata, model)
    MetaTrainingSAE(cfg).save_inference_model(tmp_path)
    assert cfg.metadata.hook_name == HOOK  # the training goes on by it
    sae: Any = SAE.load_from_disk(tmp_path)
    metadata = sae.cfg.metadata
    assert metadata.hook_name == "blocks.0.hook_resid_post"
    assert metadata.hf_hook_name == HOOK
    bridge: Any = SAETransformerBridge.boot_transformers(str(model), device="cpu")
    tokens = torch.arange(5, 13)[None]
    with torch.no_grad():
        plain, acted = bridge(tokens), bridge.run_with_saes(tokens, saes=[sae])
    assert (plain - acted).abs().max() > 1e-3


def test_held_out_l0_is_near_k_after_a_short_run(
    trained: MetaTrainingSAE, tmp_path: Path
) -> None:
    trained.save_inference_model(tmp_path)
    exported = SAE.load_from_disk(tmp_path)
    l0 = (exported.encode(held_out(100)) > 0).float().sum(1).mean().item()
    assert l0 == pytest.approx(4, rel=0.05)


def test_exported_meta_sae_reconstructs_the_decoder_rows_as_in_training(
    trained: MetaTrainingSAE, tmp_path: Path
) -> None:
    assert trained.meta_sae is not None
    trained.save_inference_model(tmp_path)
    meta = SAE.load_from_disk(tmp_path / "meta")
    assert type(meta) is JumpReLUSAE
    rows = unit_rows(trained.W_dec.detach())
    acts = meta.encode(rows)
    assert int((acts > 0).sum()) == 2 * len(rows)
    in_training = trained.meta_sae.reconstruct(rows)
    torch.testing.assert_close(meta.decode(acts), in_training, rtol=1e-4, atol=1e-5)


def test_both_folders_hold_plain_weights_and_carry_the_settings(tmp_path: Path) -> None:
    cfg = meta_config(decomposability_coefficient=0.25)
    train(cfg, 5).save_inference_model(tmp_path)
    for folder in (tmp_path, tmp_path / "meta"):
        config = json.loads((folder / "cfg.json").read_text())
        weights = load_file(folder / "sae_weights.safetensors")
        assert set(weights) == {"W_enc", "b_enc", "W_dec", "b_dec", "threshold"}
        assert config["architecture"] == "jumprelu"
        assert config["metadata"]["training_architecture"] == "meta"
        assert config["normalize_activations"] == "layer_norm"
    details = json.loads((tmp_path / "cfg.json").read_text())["metadata"]
    details = details["training_architecture_details"]
    assert details["decomposability_coefficient"] == 0.25
    assert (details["meta_d_sae"], details["meta_k"]) == (12, 2)


def test_solo_is_exported_without_a_meta_sae_also_over_a_joint_one(
    tmp_path: Path,
) -> None:
    train(meta_config(), 5).save_inference_model(tmp_path)
    assert (tmp_path / "meta" / "cfg.json").exists()
    train(meta_config(decomposability_coefficient=0), 5).save_inference_model(tmp_path)
    assert not list((tmp_path / "meta").iterdir())
    assert isinstance(SAE.load_from_disk(tmp_path), JumpReLUSAE)


def test_a_checkpoint_whose_factor_is_not_folded_is_not_exported(
    tmp_path: Path,
) -> None:
    cfg = meta_config(normalize_activations="expected_average_only_in")
    sae = MetaTrainingSAE(cfg)
    batches = (5 * batch for batch in sparse_batches())
    trainer_for(
        sae,
        batches,
        60,
        n_batches_for_norm_estimate=5,
        n_checkpoints=1,
        checkpoint_path=str(tmp_path / "c"),
    ).fit()
    (checkpoint,) = (tmp_path / "c").iterdir()
    middle = TrainingSAE.load_from_disk(checkpoint)
    with pytest.raises(ValueError, match="call fold_activation_norm_scaling_factor"):
        middle.save_inference_model(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    scaler = json.loads((checkpoint / "activation_scaler.json").read_text())
    middle.fold_activation_norm_scaling_factor(scaler["scaling_factor"])
    middle.save_inference_model(tmp_path / "out")
    exported = SAE.load_from_disk(tmp_path / "out")
    l0 = (exported.encode(5 * held_out(100)) > 0).float().sum(1).mean().item()
    assert l0 == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("k", [0.01, 0.5, 1.0])
def test_threshold_of_very_few_inputs_lets_the_largest_value_through(k: float) -> None:
    sae = MetaTrainingSAE(meta_config(k=k))
    x = next(sparse_batches())[:1]
    sae.set_threshold(x)
    _, hidden_pre = sae.encode_with_hidden_pre(x)
    assert (hidden_pre > sae.topk_threshold).nonzero().tolist() == [
        [0, int(hidden_pre.argmax())]
    ]


def test_a_short_run_of_low_k_is_exported_near_k(tmp_path: Path) -> None:
    """One step of 256 inputs keeps 64 of them, of which BatchTopK at k 0.01 keeps none."""
    sae = MetaTrainingSAE(meta_config(k=0.01))
    batches = sparse_batches(n=256)
    trainer_for(sae, batches, 1, 256).fit()
    sae.save_inference_model(tmp_path)
    exported = SAE.load_from_disk(tmp_path)
    l0 = (exported.encode(held_out(100)) > 0).float().sum(1).mean().item()
    assert 0.001 < l0 < 0.1


def test_threshold_is_taken_from_many_steps_not_the_last_batch(tmp_path: Path) -> None:
    """Neighbouring batches come from one document; a threshold from one of them is off."""

    def uneven_batches():
        for step, batch in enumerate(sparse_batches()):
            # every other batch is a mixture of many directions, the others of few
            yield batch if step % 2 else batch + batch.roll(1, 0) + batch.roll(2, 0)

    cfg = meta_config(normalize_activations="none")
    sae = MetaTrainingSAE(cfg)
    trainer_for(sae, uneven_batches(), 61).fit()
    sae.save_inference_model(tmp_path)
    exported = SAE.load_from_disk(tmp_path)
    batches = uneven_batches()
    x = torch.cat([next(batches) for _ in range(60)])
    l0 = (exported.encode(x) > 0).float().sum(1).mean().item()
    assert l0 == pytest.approx(4, rel=0.05)


@pytest.mark.slow
def test_saelens_without_this_package_loads_both(tmp_path: Path) -> None:
    train(meta_config(), 5).save_inference_model(tmp_path / "sae")
    # a fresh environment that has the packages installed here, and so not the editable one
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    site = (
        tmp_path / "venv" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    )
    (site / "site-packages" / "stock.pth").write_text(sysconfig.get_paths()["purelib"])
    code = """
import importlib.util, sys, torch
assert importlib.util.find_spec("sae_lens_meta") is None
from sae_lens import SAE
for path in sys.argv[1:]:
    sae = SAE.load_from_disk(path)
    assert torch.isfinite(sae(torch.randn(3, 16))).all()
    print(type(sae).__name__, sae.cfg.d_sae)
"""
    folders = [str(tmp_path / "sae"), str(tmp_path / "sae" / "meta")]
    printed = subprocess.run(
        [python, "-c", code, *folders], cwd=tmp_path, capture_output=True, text=True
    )
    assert printed.stdout.split("\n")[:2] == ["JumpReLUSAE 64", "JumpReLUSAE 12"], (
        printed.stderr
    )
