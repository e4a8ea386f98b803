"""`sae-lens-meta calibrate` and `evaluate` on the real model, checked by hand."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import SAE, JumpReLUSAE
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_lens_meta import MetaTrainingSAE
from sae_lens_meta.activations.measured_on import SourceConfig
from sae_lens_meta.activations.source import MIXED, load_source, mixed
from sae_lens_meta.activations.stream import ActivationBatch
from sae_lens_meta.cli import main
from sae_lens_meta.measures.calibration import calibrate
from sae_lens_meta.saved import SavedSAE
from tests.helpers import meta_config, trainer_for
from tests.tiny_llama import record_defaults

pytestmark = pytest.mark.usefixtures("few_meta_steps")
TOKENS, HOOK, K = 4096, "model.layers.11", 16
CLASS = "AutoModelForCausalLM"


@pytest.fixture(scope="module")
def saved_sae(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A solo SAE trained for 60 steps on the real model's activations."""
    cfg = meta_config(d_in=576, d_sae=512, k=K, decomposability_coefficient=0)
    metadata = cfg.metadata
    metadata.model_name, metadata.model_class_name = str(smollm2), CLASS
    metadata.hook_name, metadata.context_size = HOOK, 128
    record_defaults(metadata)
    sae = MetaTrainingSAE(cfg)
    path = tmp_path_factory.mktemp("sae") / "solo"
    sae.save_inference_model(path)
    unknown = SourceConfig(held_out_documents=12, text_seed=1)
    source, _ = load_source(unknown, [SavedSAE.read(path)])
    x = torch.cat([batch.rows for batch in source.stream(8192)])
    batches = [x[torch.randperm(len(x))[:512]] for _ in range(60)]
    trainer = trainer_for(sae, iter(batches), 60, batch_size=512)
    trainer.fit()
    sae.save_inference_model(path)
    return path


def held_out(path: Path, to_calibrate: bool = False) -> list[ActivationBatch]:
    source, _ = load_source(SourceConfig(), [SavedSAE.read(path)], to_calibrate)
    return list(source.stream(TOKENS))


def cost_by_hand(
    path: Path, sae: SAE[Any], batch: ActivationBatch, without_special: bool = False
) -> tuple[float, float]:
    """
    CE overhead in percent and CE recovered, of the transformers model, on one batch.

    Its layer 11 is replaced by the reconstruction, and zeroed, on the tokens that count.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(path)
    special = torch.isin(
        batch.tokens, torch.tensor(AutoTokenizer.from_pretrained(path).all_special_ids)
    )
    assert special.any()
    counts = ~special if without_special else torch.ones_like(special)
    losses = []
    for replace in (
        lambda x: x,
        lambda x: torch.where(counts[..., None], sae(x), x),
        lambda x: torch.where(counts[..., None], 0.0, x),
    ):

        def hook(
            _module: Any, _inputs: Any, output: Any, replace: Any = replace
        ) -> Any:
            return replace(output)

        handle = model.model.layers[11].register_forward_hook(hook)
        with torch.no_grad():
            logits = model(batch.tokens).logits[:, :-1]
        handle.remove()
        targets = batch.tokens[:, 1:][counts[:, :-1]]
        loss = torch.nn.functional.cross_entropy(logits[counts[:, :-1]], targets)
        losses.append(loss.item())
    own, with_sae, zeroed = losses
    return 100 * (with_sae - own) / own, (zeroed - with_sae) / (zeroed - own)


@pytest.mark.slow
def test_evaluate_writes_the_figures_that_a_hand_finds(
    saved_sae: Path, smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "figures.json"
    args = ["--tokens", str(TOKENS), "--ce_tokens", "1024", "--output", str(output)]
    main(["evaluate", str(saved_sae), *args, "--shift_null"])
    figures = json.loads(output.read_text())
    printed = capsys.readouterr().out
    assert f"{figures['reconstruction']['normalized_l2']:.4f}" in printed
    assert figures["reconstruction"]["n_tokens"] == figures["phi"]["n_tokens"] == TOKENS
    assert figures["source"]["token_set"] == "every token"
    assert figures["source"]["model"] == str(smollm2)
    assert figures["source"]["seen"] == "not recorded"
    assert "whether training saw them is not recorded" in " ".join(printed.split())

    sae = SAE.load_from_disk(saved_sae)
    batches = held_out(saved_sae)
    x = torch.cat([batch.rows for batch in batches])
    fires = (sae.encode(x) > 0).numpy()
    assert figures["reconstruction"]["l0"] == pytest.approx(fires.sum(1).mean())
    alive = (fires.sum(0) > 0) & (fires.sum(0) < TOKENS)
    phi = np.asarray(np.corrcoef(fires[:, alive].T.astype(np.float64)))
    pairs = np.abs(phi[np.triu_indices(len(phi), 1)])
    assert figures["phi"]["mean_abs"] == pytest.approx(pairs.mean(), rel=1e-6)
    assert figures["phi"]["n_latents"] == alive.sum()
    overhead, recovered = cost_by_hand(smollm2, sae, batches[0])
    cost = figures["model_cost"]
    assert cost["ce_overhead_percent"] == pytest.approx(overhead, rel=0.01)
    assert cost["ce_loss_recovered"] == pytest.approx(recovered, abs=1e-3)
    assert cost["n_tokens"] == 1024
    chosen = fires[:, alive].astype(np.float64)
    # of 32 contexts each is held against the one half of them away
    other = np.roll(chosen, TOKENS // 2, axis=0)
    between = np.abs(np.corrcoef(chosen.T, other.T)[: alive.sum(), alive.sum() :])
    n_pairs = alive.sum() * (alive.sum() - 1)
    by_shift = (between.sum() - np.trace(between)) / n_pairs
    assert figures["phi"]["expected_by_shift"] == pytest.approx(by_shift, rel=1e-5)
    assert f"{by_shift:.3e}" in printed
    explained = figures["decoder"]["meta_explained_variance"]
    assert set(explained) == {"0.09", "0.25"}
    assert np.mean(explained["0.25"]) > np.mean(explained["0.09"])


@pytest.mark.slow
def test_all_figures_are_of_the_tokens_that_the_sae_was_trained_on(
    saved_sae: Path, smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sae = SAE.load_from_disk(saved_sae)
    sae.cfg.metadata.exclude_special_tokens = True
    sae.save_model(tmp_path / "sae")
    main(["evaluate", str(tmp_path / "sae"), "--tokens", "1024", "--ce_tokens", "1024"])
    figures = json.loads((tmp_path / "sae" / "evaluation.json").read_text())
    printed = " ".join(capsys.readouterr().out.split())
    assert "without special tokens" in printed

    batch = held_out(saved_sae)[0]
    special = torch.tensor(AutoTokenizer.from_pretrained(smollm2).all_special_ids)
    counts = ~torch.isin(batch.tokens, special)
    n = int(counts.sum())
    assert n < 1024
    for kind in ("reconstruction", "phi", "model_cost"):
        assert figures[kind]["n_tokens"] == n
    l0 = (sae.encode(batch.activations[counts]) > 0).float().sum(1).mean().item()
    assert figures["reconstruction"]["l0"] == pytest.approx(l0)
    overhead, recovered = cost_by_hand(smollm2, sae, batch, without_special=True)
    cost = figures["model_cost"]
    assert cost["ce_overhead_percent"] == pytest.approx(overhead, rel=0.01)
    assert cost["ce_loss_recovered"] == pytest.approx(recovered, abs=1e-3)


@pytest.mark.slow
def test_a_shift_of_fewer_than_two_contexts_is_refused_before_reading(
    saved_sae: Path,
) -> None:
    args = ["evaluate", str(saved_sae), "--shift_null", "--tokens", "255"]
    with pytest.raises(SystemExit, match="255 tokens are fewer than twice 128"):
        main(args)


@pytest.mark.slow
def test_calibrate_writes_thresholds_that_fire_as_batchtopk_selects(
    saved_sae: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = SAE.load_from_disk(saved_sae)
    main(["calibrate", str(saved_sae), "--tokens", str(TOKENS), "--batch", "2048"])
    sae = SAE.load_from_disk(saved_sae)
    assert isinstance(sae, JumpReLUSAE) and isinstance(before, JumpReLUSAE)
    assert len(before.threshold.unique()) == 1 < len(sae.threshold.unique())
    x = torch.cat([batch.rows for batch in held_out(saved_sae, to_calibrate=True)])
    l0 = (sae.encode(x) > 0).float().sum(1).mean().item()
    recorded: Any = sae.cfg.metadata.calibration
    assert recorded["text"]["first_document"] == recorded["text"]["documents"] == 6
    assert l0 == pytest.approx(K, rel=0.05)
    contexts = list(held_out(saved_sae, to_calibrate=True))
    for batches, is_it in ((mixed(iter(contexts), 2048), True), (x.split(2048), False)):
        calibrate(before, iter(batches))
        assert torch.equal(before.threshold, sae.threshold) == is_it
    assert recorded["n_tokens"] == TOKENS
    assert recorded["overridden"] == {}
    assert recorded["f1_after"] > 0.8
    shown = capsys.readouterr().out
    assert "L0 by the old and the new thresholds" in shown
    assert "Taken on documents 7 to 12 of 'pydoc'" in shown
    assert "text ended after" not in shown
    main(
        [
            "calibrate",
            str(saved_sae),
            *["--first_document", "6", "--held_out_documents", "4"],
            *["--context_size", "64"],
        ]
    )
    recorded = SAE.load_from_disk(saved_sae).cfg.metadata.calibration
    assert recorded["overridden"] == {"context_size": 64}
    shown = " ".join(capsys.readouterr().out.split())
    # which an earlier calibration read too, whose thresholds are gone now
    assert "Thresholds were taken on" not in shown
    assert re.search(
        r"Warning: The text ended after [\d,]+ of 20,000 tokens. Latents", shown
    )


@pytest.mark.slow
def test_an_sae_of_another_width_or_without_a_model_is_refused(
    saved_sae: Path, tmp_path: Path
) -> None:
    sae = SAE.load_from_disk(saved_sae)
    sae.cfg.metadata.hook_name = "lm_head"
    sae.save_model(tmp_path / "wrong")
    with pytest.raises(SystemExit, match="d_in=576, but 'lm_head' .* is 49152 wide"):
        main(["evaluate", str(tmp_path / "wrong")])
    sae.cfg.metadata.model_name = None
    sae.save_model(tmp_path / "unknown")
    with pytest.raises(SystemExit, match="does not record the model .* Give --model"):
        main(["evaluate", str(tmp_path / "unknown")])


def contexts(n: int) -> list[ActivationBatch]:
    """`n` contexts of ten tokens, which count on from one to the next."""
    activations = torch.arange(10.0 * n).view(n, 1, 10, 1)
    return [ActivationBatch(torch.zeros(1, 10), context) for context in activations]


def test_mixing_keeps_every_token_but_a_short_rest() -> None:
    whole = list(mixed(iter(contexts(7)), 20))
    assert [len(part) for part in whole] == [20, 20, 20, 10]
    assert torch.equal(torch.cat(whole).sort(dim=0).values, torch.arange(70.0)[:, None])
    assert [len(part) for part in mixed(iter(contexts(7)), 30)] == [30, 30]
    assert [len(part) for part in mixed(iter(contexts(1)), 30)] == [10]


def test_a_batch_has_tokens_from_many_contexts_as_in_training() -> None:
    n = 40
    many = list(mixed(iter(contexts(4 * MIXED * n // 10)), n))
    assert {len(part) for part in many} == {n}
    rows = torch.cat(many)[:, 0]
    assert torch.equal(rows.sort().values, torch.arange(4.0 * MIXED * n))
    for part in many:
        # four contexts hold as many neighbours
        assert len((part // 10).unique()) > n // 2
    # no more of the text is held than is mixed
    assert many[0].max() < MIXED * n
    assert torch.equal(
        torch.cat(list(mixed(iter(contexts(4 * MIXED * n // 10)), n)))[:, 0], rows
    )
