"""What decoder rows are made of: the object, where it comes from, and what is said beside it."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, StandardSAE, StandardSAEConfig

from sae_lens_meta.decomposition import decompose as decompose_module
from sae_lens_meta.decomposition.decompose import checked, decomposition
from sae_lens_meta.decomposition.decomposition import Decomposition
from sae_lens_meta.decomposition.fit import FitSettings, fit, stock
from sae_lens_meta.decomposition.folder import RECORD, write
from sae_lens_meta.decomposition.given import given_sae
from sae_lens_meta.decomposition.nulls import covariance_rows, turned_rows
from sae_lens_meta.training.penalty import unit_rows
from tests.helpers import meta_config, train

BUNDLED = "metasae-smollm2-135m-instruct-l11"
D_IN, N_PARTS, D_SAE = 32, 24, 512
SETTINGS = FitSettings(N_PARTS, 3, steps=200, rows_per_step=512, lr=2e-2)


def made_of_parts(seed: int = 0) -> torch.Tensor:
    """Rows of any norm, each the sum of three of 24 directions."""
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randn(N_PARTS, D_IN, generator=generator)
    chosen = torch.rand(D_SAE, N_PARTS, generator=generator).topk(3).indices
    norms = 0.5 + torch.rand(D_SAE, 1, generator=generator)
    return unit_rows(unit_rows(parts)[chosen].sum(dim=1)) * norms


def sae_of(W_dec: torch.Tensor, **changes: Any) -> SAE[Any]:
    cfg = StandardSAEConfig(d_in=W_dec.shape[1], d_sae=W_dec.shape[0], **changes)
    sae = StandardSAE(cfg)
    sae.W_dec.data = W_dec.clone()
    sae.W_enc.data = W_dec.t().contiguous()
    return sae


@pytest.fixture(scope="module")
def sae() -> SAE[Any]:
    return sae_of(made_of_parts())


@pytest.fixture(scope="module")
def found(sae: SAE[Any]) -> Decomposition:
    return decomposition(sae, settings=SETTINGS)


@pytest.fixture(scope="module")
def with_evidence(found: Decomposition) -> Decomposition:
    return checked(found, SETTINGS)


@pytest.fixture(scope="module")
def bundled() -> Decomposition:
    return decomposition(BUNDLED)


def brute_force(found: Decomposition) -> tuple[torch.Tensor, torch.Tensor]:
    """Reconstructions of all rows by the stock SAE, and the parts in float64, densely."""
    dense = found.coefficients.to_dense().double()
    constant = found.constant.weights.double() @ found.constant.rows.double()
    with torch.no_grad():
        stock = found.meta_sae(found.rows)
    return stock.double(), dense @ found.directions.double() + constant


def test_the_parts_are_what_the_stock_sae_reconstructs(
    found: Decomposition, bundled: Decomposition
) -> None:
    for one in (found, bundled):
        stock, of_parts = brute_force(one)
        assert torch.allclose(stock, of_parts, atol=1e-5)
        latents = torch.tensor([7, 3, 3, one.d_sae - 1])
        assert torch.allclose(
            one.reconstructed(latents).double(), stock[latents], atol=1e-5
        )
        rows = one.rows.double()
        left = (rows - stock).pow(2).sum() / (rows - rows.mean(0)).pow(2).sum()
        assert one.explained_variance == pytest.approx(1 - float(left), abs=1e-5)


def test_shares_are_signed_strongest_first_and_add_up_to_one(
    bundled: Decomposition,
) -> None:
    _, of_parts = brute_force(bundled)
    dense, cosines = (
        bundled.coefficients.to_dense(),
        bundled.rows @ bundled.directions.t(),
    )
    for latent in (0, 7, 1234, 4095):
        parts = bundled.parts_of(latent)
        wanted = dense[latent] * cosines[latent]
        assert torch.allclose(parts.weights, wanted[parts.latents], atol=1e-6)
        assert set(parts.latents.tolist()) == set(
            dense[latent].nonzero()[:, 0].tolist()
        )
        assert (parts.weights.abs().diff() <= 0).all()
        unexplained = 1 - of_parts[latent] @ bundled.rows[latent].double()
        assert float(bundled.unexplained[latent]) == pytest.approx(
            float(unexplained), abs=1e-5
        )
        total = parts.weights.sum() + bundled.constant_shares[latent]
        assert float(total + bundled.unexplained[latent]) == pytest.approx(1, abs=1e-5)
    assert (bundled.shares.values() < 0).any()


def test_latents_of_a_meta_latent_are_the_column_of_its_coefficients(
    bundled: Decomposition,
) -> None:
    dense = bundled.coefficients.to_dense()
    for meta_latent in (0, 3, 367):
        made = bundled.latents_of(meta_latent)
        assert torch.equal(made.weights, dense[made.latents, meta_latent])
        assert len(made.latents) == (dense[:, meta_latent] > 0).sum()
        assert len(made.latents) == bundled.use[meta_latent]
        assert (made.weights.diff() <= 0).all()
    for call in (bundled.latents_of, bundled.parts_of):
        with pytest.raises(IndexError, match="There is no .*latent -1: they are 0 to"):
            call(-1)


def test_true_parts_are_found_come_back_and_are_beyond_both_nulls(
    with_evidence: Decomposition,
) -> None:
    nulls, stability = with_evidence.nulls, with_evidence.stability
    assert nulls and stability
    assert with_evidence.explained_variance > nulls.same_covariance + 0.1
    assert with_evidence.parts_per_row == pytest.approx(3, abs=0.1)
    assert stability.cosine.mean() > stability.null.mean() + 0.1
    assert stability.comes_back.float().mean() > 0.5
    assert (stability.seed, nulls.seed) == (1, 2)


def test_no_fit_begins_at_the_weights_of_one_that_it_is_held_against(
    sae: SAE[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first_rows: list[torch.Tensor] = []

    def without_steps(rows: torch.Tensor, settings: FitSettings, what: str) -> Any:
        meta_sae = fit(rows, replace(settings, steps=1, lr=1e-9), what)
        first_rows.append(unit_rows(meta_sae.W_dec.detach()))
        return meta_sae

    monkeypatch.setattr(decompose_module, "fit", without_steps)
    checked(decomposition(sae, settings=SETTINGS), SETTINGS)
    found, again, null, _ = first_rows
    for one, other in ((found, again), (found, null), (again, null)):
        assert (one * other).sum(dim=1).mean().abs() < 0.2


@pytest.mark.slow
def test_rows_without_parts_are_no_better_than_their_null_and_do_not_come_back() -> (
    None
):
    rows = covariance_rows(unit_rows(made_of_parts()), seed=5)
    found = checked(decomposition(sae_of(rows), settings=SETTINGS), SETTINGS)
    assert found.nulls and found.stability
    assert abs(found.explained_variance - found.nulls.same_covariance) < 0.05
    assert found.stability.comes_back.float().mean() < 0.3


def test_the_nulls_keep_what_they_say_and_nothing_else() -> None:
    rows = unit_rows(made_of_parts() + torch.linspace(1, 2, D_IN))
    many = rows.repeat(40, 1)
    turned, drawn = turned_rows(many, seed=0), covariance_rows(rows, 0, len(many))
    for null in (turned, drawn):
        assert torch.allclose(null.norm(dim=1), torch.ones(len(many)), atol=1e-5)
    axis = torch.nn.functional.normalize(rows.mean(0), dim=0)
    assert torch.allclose(turned @ axis, many @ axis, atol=1e-5)
    rest = turned - (turned @ axis)[:, None] * axis
    energies = torch.linalg.eigvalsh(rest.t() @ rest)[1:]
    assert energies.max() / energies.min() < 1.3  # the rest points anywhere
    true = torch.linalg.eigvalsh(torch.cov(rows.t()))
    assert true[-1] > 3 * true.mean()  # as those of the decoder do not
    of_drawn = torch.cov(drawn.t())
    assert (of_drawn - torch.cov(rows.t())).norm() < 0.25 * torch.cov(rows.t()).norm()
    assert torch.allclose(drawn.mean(0), rows.mean(0), atol=0.02)
    # no two rows lie as near as two of the decoder that share their parts
    assert not torch.equal(turned[:D_SAE], turned[D_SAE : 2 * D_SAE])


def test_what_is_saved_is_not_given_for_other_settings(
    found: Decomposition, sae: SAE[Any], tmp_path: Path
) -> None:
    sae.save_model(tmp_path)
    write(found, tmp_path / "decomposition", "here")
    same = decomposition(tmp_path, settings=SETTINGS)
    assert torch.equal(same.directions, found.directions)
    other = replace(SETTINGS, meta_k=2, seed=9)
    with pytest.raises(ValueError, match="with meta_k 3, seed 0, and meta_k 2, seed 9"):
        decomposition(tmp_path, settings=other)


def test_a_joint_meta_sae_is_opened_unless_asked_otherwise(tmp_path: Path) -> None:
    joint = train(meta_config(meta_d_sae=12), 60)
    joint.save_inference_model(tmp_path)
    opened = decomposition(tmp_path)
    assert opened.origin == "joint" and opened.settings["k"] == 2
    directions = unit_rows(joint.meta_sae.W_dec.detach())  # type: ignore[union-attr]
    assert torch.allclose(opened.directions, directions, atol=1e-5)
    refit = decomposition(tmp_path, settings=FitSettings(8, 2, steps=20), refit=True)
    assert refit.origin == "fitted" and refit.n_meta == 8
    with pytest.raises(
        ValueError, match="comes with a meta SAE of 12 latents.*--refit"
    ):
        decomposition(tmp_path, settings=FitSettings(meta_d_sae=8))
    joint.W_dec.data = joint.W_dec.data.flip(dims=[1])
    stock(joint.meta_sae).save_model(tmp_path / "kept")  # type: ignore[arg-type]
    joint.save_inference_model(tmp_path)
    shutil.copytree(tmp_path / "kept", tmp_path / "meta", dirs_exist_ok=True)
    with pytest.raises(ValueError, match="it is another's"):
        decomposition(tmp_path)


def test_a_solo_export_has_no_joint_meta_sae(tmp_path: Path) -> None:
    for coefficient in (0.3, 0):  # what the first left is taken away by the second
        sae = train(meta_config(decomposability_coefficient=coefficient), 3)
        sae.save_inference_model(tmp_path)
    assert given_sae(tmp_path).joint is None


def test_what_is_saved_is_a_stock_sae_and_is_read_again(
    with_evidence: Decomposition, sae: SAE[Any], tmp_path: Path
) -> None:
    sae.save_model(tmp_path)
    write(with_evidence, tmp_path / "decomposition", "here")
    stock = SAE.load_from_disk(tmp_path / "decomposition")
    assert type(stock).__module__.startswith("sae_lens.") and stock.cfg.d_sae == N_PARTS
    again = decomposition(tmp_path)
    assert torch.equal(
        again.coefficients.to_dense(), with_evidence.coefficients.to_dense()
    )
    assert (
        again.nulls == with_evidence.nulls and again.settings == with_evidence.settings
    )
    assert again.stability and with_evidence.stability
    assert torch.allclose(
        again.stability.cosine, with_evidence.stability.cosine, atol=1e-5
    )
    assert again.stability.seed == 1 and again.origin == "fitted"


def test_a_saved_decomposition_is_refused_for_another_sae_and_where_damaged(
    found: Decomposition, sae: SAE[Any], tmp_path: Path
) -> None:
    folder = tmp_path / "decomposition"
    sae.save_model(tmp_path)
    write(found, folder, "here")
    other = sae_of(made_of_parts())
    other.W_dec.data[5, 5] += 1e-3
    other.save_model(tmp_path)
    with pytest.raises(ValueError, match="decomposition of another SAE.*of here"):
        decomposition(tmp_path)
    sae.save_model(tmp_path)
    record = (folder / RECORD).read_text()
    for broken, message in (
        (record[:40], "is damaged"),
        (record.replace('"format": 1', '"format": 99'), "is of format 99"),
    ):
        (folder / RECORD).write_text(broken)
        with pytest.raises(ValueError, match=message):
            decomposition(tmp_path)
    (folder / RECORD).write_text(record)
    with (folder / "sae_weights.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match="missing or not the file"):
        decomposition(tmp_path)


def test_an_equal_seed_gives_an_equal_decomposition_and_another_another(
    found: Decomposition, sae: SAE[Any]
) -> None:
    again = decomposition(sae, settings=SETTINGS)
    assert torch.equal(found.directions, again.directions)
    other = decomposition(sae, settings=FitSettings(N_PARTS, 3, steps=5, seed=1))
    assert not torch.allclose(found.directions, other.directions, atol=1e-2)


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_rows_without_direction_are_refused_before_work(
    bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    W_dec = made_of_parts()
    W_dec[9] = bad
    _refuse_work(monkeypatch)
    with pytest.raises(ValueError, match=r"1 decoder rows.*first: row 9"):
        decomposition(sae_of(W_dec))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            FitSettings(meta_d_sae=D_SAE + 1),
            "512 decoder rows, fewer than the 513 meta",
        ),
        (
            FitSettings(meta_d_sae=4, meta_k=5),
            "meta_k must be above 0 and at most the 4",
        ),
        (FitSettings(meta_k=0), "meta_k must be above 0"),
        (FitSettings(steps=0), "steps must be above 0"),
        (FitSettings(lr=float("nan")), "lr must be above 0"),
        (FitSettings(device="cuda:7"), "There is no device 'cuda:7' here"),
    ],
)
def test_settings_out_of_range_are_refused_before_work(
    settings: FitSettings, message: str, sae: SAE[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _refuse_work(monkeypatch)
    with pytest.raises(ValueError, match=message):
        decomposition(sae, settings=settings)


def _refuse_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr("sae_lens_meta.decomposition.fit.fitted_meta_sae", refused)


def test_the_default_width_is_the_published_proportion() -> None:
    for d_sae, width in ((49_152, 2_304), (16_384, 768), (65_536, 3_072)):
        complete = FitSettings().for_rows(d_sae)
        assert (complete.meta_d_sae, complete.meta_k) == (width, 4)
