"""Kernels that hold one row against sums in float64: in Triton's interpreter, or on a GPU."""

from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest
import torch
from sae_lens.saes.sae import TrainStepOutput

from sae_lens_meta import MetaTrainingSAE
from sae_lens_meta.training import normalized_rows, sparse_product
from sae_lens_meta.training.backend import Sums, interface, starts_of
from sae_lens_meta.training.normalized_rows import LAYER_NORM_EPS, NormalizedRows
from tests.helpers import D_SAE, forward, meta_config, sparse_batches

by_row = pytest.importorskip("sae_lens_meta.training.backend.by_row")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float64]
CLOSE: dict[torch.dtype, Any] = {
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    # a float that a kernel is given has 32 bits
    torch.float64: {"rtol": 1e-9, "atol": 1e-9},
}
KERNELS = (
    "sampled_products",
    "differences",
    "normalized_rows",
    "norms_and_products",
    "sums_of_two",
)
# rows, latents, widths that fill a block and do not, and pairs, of which the first row has none
SHAPES = [(5, 7, 16, 9), (40, 30, 65, 200), (3, 4, 1500, 12), (6, 2, 2, 5)]
WHO_ASKS = (interface, sparse_product, normalized_rows)


def pairs(n: int, d_sae: int, n_pairs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and latents of distinct active pairs, row by row."""
    n_pairs = min(n_pairs, n * d_sae - d_sae)
    places = torch.randperm((n - 1) * d_sae)[:n_pairs].sort().values + d_sae
    return (places // d_sae).to(DEVICE), (places % d_sae).to(DEVICE)


def normal(*shape: int, dtype: torch.dtype, transposed: bool = False) -> torch.Tensor:
    if transposed:  # not contiguous
        return torch.randn(*shape[::-1], dtype=dtype, device=DEVICE).t()
    return torch.randn(*shape, dtype=dtype, device=DEVICE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_those_of_the_pairs(
    shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    n, d_sae, width, n_pairs = shape
    samples, latents = pairs(n, d_sae, n_pairs)
    left = normal(n, width, dtype=dtype, transposed=True)
    right = normal(d_sae, width, dtype=dtype)
    found = by_row.sampled_products(starts_of(samples, n), latents, left, right)
    wanted = (left.double() @ right.double().t())[samples, latents]
    torch.testing.assert_close(found.double(), wanted, **CLOSE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_differences_are_those_of_the_sums(
    shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    n, d_sae, width, n_pairs = shape
    samples, latents = pairs(n, d_sae, n_pairs)
    weights = normal(len(latents), dtype=dtype)
    rows = normal(d_sae, width, dtype=dtype)
    target = normal(n, width, dtype=dtype, transposed=True)
    sums = Sums(weights, latents, starts_of(samples, n))
    difference, squares, products = by_row.differences(sums, rows, target)
    codes = torch.zeros(n, d_sae, dtype=torch.float64, device=DEVICE)
    codes[samples, latents] = weights.double()
    wanted = codes @ rows.double() - target.double()
    torch.testing.assert_close(difference.double(), wanted, **CLOSE[dtype])
    torch.testing.assert_close(squares.double(), wanted.pow(2).sum(1), **CLOSE[dtype])
    of_pairs = (wanted @ rows.double().t())[samples, latents]
    torch.testing.assert_close(products.double(), of_pairs, **CLOSE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 16), (40, 65), (3, 1500)], ids=str)
def test_two_matrices_are_taken_row_by_row(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    left = normal(*shape, dtype=dtype, transposed=True)
    right = normal(*shape, dtype=dtype)
    a, b = normal(2, len(left), dtype=dtype)
    mine, theirs = left.double(), right.double()
    wanted = (mine.norm(dim=1), theirs.norm(dim=1), (mine * theirs).sum(1))
    found = by_row.norms_and_products(left, right)
    for ours, exact in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.double(), exact, **CLOSE[dtype])
    sums = by_row.sums_of_two(left, a, right, b)
    wanted_sums = a.double()[:, None] * mine + b.double()[:, None] * theirs
    torch.testing.assert_close(sums.double(), wanted_sums, **CLOSE[dtype])


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 16), (40, 65), (3, 1500)], ids=str)
def test_rows_are_normalized_as_without(
    shape: tuple[int, int], dtype: torch.dtype, layer_norm: bool
) -> None:
    W_dec = normal(*shape, dtype=dtype, transposed=True)
    shift = normal(shape[1], dtype=dtype)
    exact = NormalizedRows(W_dec.cpu().double(), layer_norm, shift.cpu().double())
    wanted = (exact.copy(), exact.mean, exact.std)
    eps = LAYER_NORM_EPS if layer_norm else None
    for ours, theirs in zip(
        by_row.normalized_rows(W_dec, shift, eps), wanted, strict=True
    ):
        torch.testing.assert_close(ours.cpu().double(), theirs, **CLOSE[dtype])


@pytest.mark.parametrize("selection", ["every_step", "cycle"])
@pytest.mark.parametrize("normalization", ["layer_norm", "none"])
def test_a_step_by_kernels_is_a_step_without(
    selection: str, normalization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and gradients, with dead latents and a meta phase before, and what is held after it."""
    called = Counter[str]()

    def counted(name: str) -> Callable[..., Any]:
        kernel = getattr(by_row, name)

        @wraps(kernel)
        def call(*args: Any) -> Any:
            called[name] += 1
            return kernel(*args)

        return call

    for name in KERNELS:
        monkeypatch.setattr(by_row, name, counted(name))
    dead = (torch.arange(D_SAE) % 9 == 0).to(DEVICE)
    steps: list[tuple[TrainStepOutput, MetaTrainingSAE]] = []
    for kernels in (None, by_row):
        assert not called
        for module in WHO_ASKS:
            monkeypatch.setattr(module, "kernels_for", lambda _, used=kernels: used)
        sae = MetaTrainingSAE(
            meta_config(
                dtype="float64",
                use_sparse_activations=True,
                device=DEVICE,
                meta_selection=selection,
                normalize_activations=normalization,
            )
        )
        sae.steps_in_cycle.fill_(sae.cfg.primary_steps_per_cycle)
        output = forward(sae, next(sparse_batches()).double().to(DEVICE), dead)
        output.loss.backward()
        steps.append((output, sae))
    wanted = set(KERNELS)
    if DEVICE == "cpu" and selection == "every_step":
        wanted.remove("sampled_products")  # whose search takes them itself
    assert set(called) == wanted
    (without, reference), (output, sae) = steps
    for name, loss in without.losses.items():
        torch.testing.assert_close(output.losses[name], loss, msg=name)
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(
            sae.get_parameter(name).grad, parameter.grad, msg=name
        )
    assert reference.meta_sae is not None and sae.meta_sae is not None
    for name, tensor in reference.meta_sae.state_dict().items():
        torch.testing.assert_close(sae.meta_sae.state_dict()[name], tensor, msg=name)


def test_what_is_not_finite_stays_in_its_place() -> None:
    """As torch has it, beside padding and in rows that are sound."""
    starts, latents = torch.tensor([[0, 1, 2], [0, 1, 0]], device=DEVICE)
    sums = Sums(torch.tensor([torch.inf, 1.0], device=DEVICE), latents[:2], starts)
    rows = torch.ones(2, 10, device=DEVICE)
    target = torch.zeros(2, 10, device=DEVICE)
    difference, squares, products = by_row.differences(sums, rows, target)
    assert difference[0].isinf().all() and (difference[1] == 1).all()
    assert squares.tolist() == products.tolist() == [torch.inf, 10]
    W_dec = torch.ones(2, 10, device=DEVICE)
    W_dec[0, 3] = torch.nan
    normal_rows, mean, std = by_row.normalized_rows(W_dec, target[0], None)
    assert normal_rows[0].isnan().all() and normal_rows[1].isfinite().all()
    assert (mean == 0).all() and (std == 1).all()


def test_where_kernels_cannot_be_compiled_torch_does_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_compiler(*_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("Failed to find C compiler.")

    interface._kernels.cache_clear()
    device = torch.device(DEVICE)
    assert interface._kernels(device) is by_row
    interface._kernels.cache_clear()
    monkeypatch.setattr(by_row, "sums_of_two", no_compiler)
    with pytest.warns(UserWarning, match=f"do not run on {DEVICE}: .* find C compiler"):
        assert interface._kernels(device) is None
    interface._kernels.cache_clear()


def test_a_processor_and_what_kernels_cannot_hold_do_without() -> None:
    assert interface.kernels_for(torch.zeros(2, 8)) is None
    if DEVICE == "cuda":
        on_gpu = torch.zeros(2, 8, device=DEVICE)
        assert interface.kernels_for(on_gpu) is by_row
        assert interface.kernels_for(on_gpu.bfloat16()) is None
        assert interface.kernels_for(on_gpu.requires_grad_()) is None
        wide = torch.zeros(2, by_row.WIDEST + 1, device=DEVICE)
        assert interface.kernels_for(wide) is None
