"""
The GPU's backend against the processor's, and what it asks of a device.

What needs no GPU runs its code on CPU tensors; what needs one is skipped where there is none.
"""

import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens.saes.sae import TrainStepInput
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sae_lens_meta import MetaTrainingSAE
from sae_lens_meta.training import backend
from sae_lens_meta.training.backend import Encoder, cuda
from sae_lens_meta.training.backend.cpu import CPU
from sae_lens_meta.training.backend.cuda import CUDA, width_of
from tests.helpers import (
    BATCH,
    D_IN,
    forward,
    meta_config,
    sparse_batches,
    trainer_for,
)

# sparse enough for a sparse pass on a GPU, of both SAEs
SHAPE: dict[str, Any] = {"d_sae": 256, "k": 4, "meta_d_sae": 96, "meta_k": 2}
MODES = ("every_step", "cycle")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def joint(**changes: Any) -> MetaTrainingSAE:
    return MetaTrainingSAE(meta_config(**SHAPE | changes))


class Asked(TorchDispatchMode):
    """
    What a step asks of the device.

    Attributes:
        reads: values that the host waited for.
        flops: of products of dense matrices.
        largest: number of values of the largest matrix that was made.
    """

    def __init__(self, sae: MetaTrainingSAE):
        super().__init__()
        self.reads: list[str] = []
        self.largest = self.flops = 0
        meta_sae = sae.meta_sae
        counts = [sae.steps_in_cycle, sae.n_recent_inputs]
        counts += [] if meta_sae is None else [meta_sae.adam_step]
        self.on_host = {count.data_ptr() for count in counts}

    def __enter__(self) -> "Asked":
        # what copies a whole tensor to the host is no operation of its own on a CPU
        self._patch = pytest.MonkeyPatch()
        tolist = torch.Tensor.tolist

        def read(tensor: torch.Tensor) -> Any:
            self.reads.append("tolist")
            return tolist(tensor)

        self._patch.setattr(torch.Tensor, "tolist", read)
        return super().__enter__()

    def __exit__(self, *args: Any) -> None:
        self._patch.undo()
        super().__exit__(*args)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = str(func)
        waits = (
            "_local_scalar_dense",
            "nonzero",
            "masked_select",
            "bincount",
            "unique",
        )
        by_mask = name == "aten.index.Tensor" and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if (any(word in name for word in waits) or by_mask) and not self._on_host(args):
            self.reads.append(name)
        if name in ("aten.mm.default", "aten.addmm.default", "aten.bmm.default"):
            *_, left, right = args
            if left.layout == right.layout == torch.strided:
                self.flops += 2 * left.numel() * right.shape[-1]
        result = func(*args, **kwargs or {})
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided:
                self.largest = max(self.largest, leaf.numel())
        return result

    def _on_host(self, args: Any) -> bool:
        # Adam's counts of steps are there too
        frames = {frame.filename for frame in traceback.extract_stack(limit=24)}
        is_adam = any("/optim/" in name for name in frames)
        return is_adam or args[0].data_ptr() in self.on_host


@pytest.mark.parametrize("mode", MODES)
def test_a_step_waits_for_the_device_once_and_twice_with_a_meta_phase(
    mode: str,
    gpu_code: None,  # noqa: ARG001
) -> None:
    sae = joint(meta_selection=mode)
    trainer, asked = trainer_for(sae, sparse_batches(), 100), Asked(sae)
    numbers = []
    for _, batch in zip(range(8), sparse_batches(), strict=False):
        asked.reads.clear()
        with asked:
            trainer.step(batch)
        numbers.append(len(asked.reads))
    assert numbers == [1, 1, 1, 2, 1, 1, 2, 1]


def test_the_processors_pass_reads_as_it_goes() -> None:
    """That the count above can fail."""
    sae = joint()
    trainer, asked = trainer_for(sae, sparse_batches(), 100), Asked(sae)
    with asked:
        trainer.step(next(sparse_batches()))
    assert len(asked.reads) > 5


@pytest.mark.parametrize(
    ("mode", "searches"), [("every_step", (1, 3)), ("cycle", (0, 2))]
)
def test_a_step_multiplies_dense_matrices_as_designed(
    mode: str,
    searches: tuple[int, int],
    gpu_code: None,  # noqa: ARG001
) -> None:
    """Meta searches of a plain step, and of one after a phase of two meta steps."""
    sae = joint(meta_selection=mode)
    trainer = trainer_for(sae, sparse_batches(), 100)
    primary = 2 * BATCH * width_of(D_IN) * SHAPE["d_sae"]
    meta = 2 * SHAPE["d_sae"] * width_of(D_IN) * SHAPE["meta_d_sae"]
    vectors = 2 * 2 * SHAPE["d_sae"] * D_IN  # overlaps of rows, and the mean row
    found = []
    for _, batch in zip(range(4), sparse_batches(), strict=False):
        with Asked(sae) as asked:
            trainer.step(batch)
        found.append(asked.flops - primary - vectors)
    assert found[1] == searches[0] * meta
    assert found[3] == searches[1] * meta


def test_codes_exist_by_chunks_alone(
    gpu_code: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chunk = 8 * 256
    monkeypatch.setattr(cuda, "CHUNK", chunk)
    sae = joint(d_in=4)
    trainer, asked = trainer_for(sae, sparse_batches(), 100), Asked(sae)
    with asked:
        for _ in range(4):
            trainer.step(torch.randn(BATCH, 4))
    kept = max(4 * BATCH, 2 * 256)
    n_chunks = BATCH * 256 // chunk
    candidates = n_chunks * 2 * kept  # those of each chunk, joined
    assert asked.largest <= max(chunk, candidates, 4096 * 4) < BATCH * 256 * 4


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_whole_training_is_the_same_on_either(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 steps of Adam in float64, with meta phases, dead latents of both SAEs, and chunks."""
    monkeypatch.setattr(cuda, "CHUNK", 1000)
    states = []
    for code in (CPU, CUDA):
        monkeypatch.setattr(backend, "CPU", code)
        sae = joint(dtype="float64", meta_selection=mode)
        sae.b_enc.data[:6] = -2.0
        assert sae.meta_sae is not None
        sae.meta_sae.b_enc.data[:9] = -2.0
        trainer = trainer_for(sae, sparse_batches(), 40)
        for _, batch in zip(range(40), sparse_batches(), strict=False):
            trainer.step(batch.double())
        assert bool(trainer.dead_neurons.any())
        assert bool(sae.meta_sae.dead_latents.any())
        states.append(sae.state_dict())
    for name, tensor in states[0].items():
        assert torch.allclose(states[1][name], tensor, rtol=1e-7), name


def random_encoder(d_in: int, d_sae: int) -> Encoder:
    generator = torch.Generator().manual_seed(1)
    return Encoder(
        torch.randn(d_in, d_sae, generator=generator) / d_in**0.5,
        0.1 * torch.randn(d_sae, generator=generator),
        1 + torch.rand(d_sae, generator=generator),
    )


def random_inputs(n: int, d_in: int) -> torch.Tensor:
    return torch.randn(n, d_in, generator=torch.Generator().manual_seed(2))


def largest(x: torch.Tensor, encoder: Encoder, n_keep: int, spare: float = 2) -> Any:
    return CUDA.largest(x, encoder, n_keep, torch.arange(0), spare=spare)[0]


def exact_acts(x: torch.Tensor, encoder: Encoder) -> torch.Tensor:
    acts = x.double() @ encoder.W_enc.double() + encoder.b_enc.double()
    return (acts * encoder.norms.double()).flatten()


@pytest.mark.parametrize("chunk", [1 << 14, 1 << 26])
def test_what_tensor_cores_round_is_selected_as_in_float32(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "CHUNK", chunk)
    x, encoder = random_inputs(1024, 96), random_encoder(96, 512)
    n_keep = 1024 * 8
    exact = exact_acts(x, encoder)
    expected = exact.topk(n_keep).indices.sort().values
    found = largest(x, encoder, n_keep)
    assert not found.in_doubt
    assert torch.equal(found.flat.sort().values, expected)
    torch.testing.assert_close(
        found.acts.double(), exact[found.flat], rtol=1e-5, atol=1e-5
    )
    # the product by itself would have kept others
    rounded = x.half().double() @ encoder.rows.half().double().t()
    rounded = (rounded + encoder.biases.double()).flatten().topk(n_keep).indices
    assert not torch.equal(rounded.sort().values, expected)


def test_a_selection_that_rounding_may_have_changed_is_in_doubt() -> None:
    """Where more pairs lie at the cut than are looked at again."""
    x, encoder = torch.ones(64, 16), random_encoder(16, 64)
    encoder.W_enc[:] = encoder.W_enc[:, :1]
    encoder.b_enc[:], encoder.norms[:] = 0.0, 1.0
    encoder.W_enc[:] = encoder.W_enc.abs()
    assert largest(x, encoder, 64).in_doubt
    assert largest(x, encoder, 64, spare=64).in_doubt is None  # all of them


def test_where_a_selection_was_in_doubt_more_is_looked_at(
    gpu_code: None,  # noqa: ARG001
) -> None:
    sae = joint()
    assert sae.meta_sae is not None
    trainer = trainer_for(sae, sparse_batches(), 10**6)
    trainer.n_training_steps, sae.meta_sae.n_in_doubt = 99, torch.tensor(3)
    with pytest.warns(UserWarning, match="In 3 of the last selections of the meta SAE"):
        trainer.step(next(sparse_batches()))
    assert (sae.spare, sae.meta_sae.spare, sae.meta_sae.n_in_doubt) == (2, 4, 0)


SCALES = [(1.0, 1.0, 0.1), (1e4, 1e-3, 1.0), (1e-4, 1e-4, 3.0), (1.0, 1e-3, 0.0)]


def slack(x: torch.Tensor, encoder: Encoder) -> torch.Tensor:
    """By how much each bound is above its activation, relative to `|x_i| |w_j| + |b_j|` or the scale."""
    factors = cuda.bounded(x, encoder)
    assert factors.left.dtype == factors.right.dtype == torch.float16
    bounds = cuda._product(factors.left, factors.right).double() * factors.scale
    exact = x.double() @ encoder.rows.double().t() + encoder.biases.double()
    sizes = x.double().norm(dim=1)[:, None] * encoder.rows.double().norm(dim=1)
    sizes += encoder.biases.double().abs()
    return (bounds - exact) / (sizes + 1e-3 * factors.scale.double())


@pytest.mark.parametrize(("of_x", "of_rows", "of_biases"), SCALES)
def test_the_bound_holds_for_every_pair_and_is_close(
    of_x: float, of_rows: float, of_biases: float
) -> None:
    encoder = random_encoder(300, 700)
    encoder.W_enc *= of_rows
    encoder.b_enc *= of_biases
    aligned = (
        torch.rand(512, 300) + 1
    )  # all terms of one sign: sums that round the most
    for x in (random_inputs(512, 300), aligned):
        above = slack(of_x * x, encoder)
        assert above.min() >= 0 and above.max() < 4e-3
    encoder.W_enc.abs_()
    above = slack(of_x * aligned, encoder)
    assert above.min() >= 0 and above.max() < 4e-3


def test_inputs_and_encoders_of_zero_are_searched_too() -> None:
    encoder = random_encoder(16, 64)
    exact = encoder.biases.repeat(8)
    for found in (
        largest(torch.zeros(8, 16), encoder, 40),
        largest(
            torch.ones(8, 16),
            Encoder(torch.zeros(16, 64), encoder.b_enc, encoder.norms),
            40,
        ),
    ):
        assert not found.in_doubt
        assert torch.equal(
            found.acts.sort().values, exact.topk(40).values.sort().values
        )


def test_the_pass_is_chosen_where_the_weights_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sae = joint(k=32)  # 1 in 8: sparse on a processor, dense on a GPU
    assert sae.passes_sparse()
    monkeypatch.setattr(backend, "CPU", CUDA)
    assert not sae.passes_sparse()
    assert joint(k=4).passes_sparse()


def test_nan_stops_a_run_on_a_device_by_the_next_look(
    gpu_code: None,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    sae = joint()
    trainer = trainer_for(sae, sparse_batches(), 10**6)
    batches = sparse_batches()
    trainer.step(next(batches))
    sae.save_model(tmp_path / "whole")
    trainer.step(torch.full((BATCH, D_IN), torch.nan))
    with pytest.raises(ValueError, match="the last checkpoint is intact"):
        sae.save_model(tmp_path / "spoiled")
    assert not (tmp_path / "spoiled").exists()
    trainer.step(next(batches))  # the weights are NaN by now
    trainer.n_training_steps = 99
    with pytest.raises(ValueError, match="The loss of 2 of the last steps was NaN"):
        trainer.step(next(batches))


def test_half_precision_leaves_the_meta_sae_in_float32() -> None:
    sae = joint(dtype="bfloat16")
    trainer = trainer_for(sae, sparse_batches(), 100)
    for _, batch in zip(range(4), sparse_batches(), strict=False):
        trainer.step(batch)
    assert sae.W_dec.dtype == torch.bfloat16 and sae.meta_sae is not None
    for name, tensor in sae.meta_sae.state_dict().items():
        if tensor.is_floating_point() and name != "topk_threshold":
            assert tensor.dtype == torch.float32, name


# a shape at which a GPU has something to do
LARGE: dict[str, Any] = {
    "d_in": 256, "d_sae": 8192, "k": 32, "meta_d_sae": 740, "meta_k": 4,
}  # fmt: skip


def large_batches(dtype: torch.dtype = torch.float32) -> Iterator[torch.Tensor]:
    for batch in sparse_batches(d_in=LARGE["d_in"], n=1024):
        yield batch.cuda().to(dtype)


def on_gpu(n_steps: int, mode: str = "cycle", **changes: Any) -> MetaTrainingSAE:
    """Trained for so many steps, with dead latents."""
    sae = joint(**LARGE, device="cuda", meta_selection=mode, **changes)
    sae.b_enc.data[:900] = -2.0
    trainer = trainer_for(sae, iter(()), 10**6, 1024, device="cuda")
    for _, batch in zip(range(n_steps), large_batches(sae.dtype), strict=False):
        trainer.step(batch)
        trainer.n_training_steps += 1
    return sae


def clear_of_ties(sae: MetaTrainingSAE) -> torch.Tensor:
    """A batch whose last activation to be kept rounding does not exchange for the next."""
    for batch in large_batches():
        x = sae.process_sae_in(batch.cpu().double())
        encoder = sae.encoder()
        acts = (x @ encoder.W_enc + encoder.b_enc) * encoder.norms
        *_, kept, left_out = acts.flatten().topk(LARGE["k"] * len(x) + 1).values
        if kept - left_out > 1e-5 * kept:
            return batch
    raise AssertionError


@needs_gpu
@pytest.mark.parametrize("mode", MODES)
def test_on_a_gpu_a_step_is_the_processors_in_float64(mode: str) -> None:
    trained = on_gpu(7, mode).state_dict()
    dead = torch.arange(LARGE["d_sae"]) % 9 == 0
    exact_sae = joint(**LARGE, dtype="float64", meta_selection=mode)
    exact_sae.load_state_dict(trained)
    batch, found = clear_of_ties(exact_sae), []
    for device, dtype in (("cuda", "float32"), ("cpu", "float64")):
        sae = joint(**LARGE, device=device, dtype=dtype, meta_selection=mode)
        sae.load_state_dict({name: tensor.clone() for name, tensor in trained.items()})
        step_input = TrainStepInput(
            batch.to(device, sae.dtype), {"decomposability": 0.3},
            dead.to(device), 0, False,
        )  # fmt: skip
        output = sae.training_forward_pass(step_input)
        output.loss.backward()
        assert int(sae.n_in_doubt) == 0
        found.append({name: p.grad for name, p in sae.named_parameters()})
        found[-1] |= output.losses | {"acts": output.feature_acts.to_dense()}
    for name, exact in found[1].items():
        ours = found[0][name].double().cpu()
        assert (ours - exact).norm() < 1e-4 * exact.norm(), name


@needs_gpu
@pytest.mark.parametrize("mode", MODES)
def test_on_a_gpu_a_training_by_graphs_is_the_processors(mode: str) -> None:
    """40 steps of Adam in float64, with meta phases and dead latents of both SAEs."""
    states, n_graphs = [], []
    for device in ("cpu", "cuda"):
        sae = joint(dtype="float64", meta_selection=mode, device=device)
        sae.b_enc.data[:6] = -2.0
        assert sae.meta_sae is not None
        sae.meta_sae.b_enc.data[:9] = -2.0
        trainer = trainer_for(sae, iter(()), 40, device=device)
        for _, batch in zip(range(40), sparse_batches(), strict=False):
            trainer.step(batch.double().to(device))
        assert bool(sae.meta_sae.dead_latents.any())
        n_graphs.append(sae.meta_sae.graphs.number)
        states.append(sae.state_dict())
    assert n_graphs[0] == 0 and n_graphs[1] >= 3
    for name, tensor in states[0].items():
        assert torch.allclose(states[1][name].cpu(), tensor, rtol=1e-7), name


@needs_gpu
@pytest.mark.parametrize("mode", MODES)
def test_on_a_gpu_rows_by_a_graph_are_the_processors_in_float64(mode: str) -> None:
    """In float32, which is searched in half precision."""
    ours = on_gpu(12, mode)
    exact = joint(**LARGE, dtype="float64", meta_selection=mode)
    exact.load_state_dict(ours.state_dict())
    assert ours.meta_sae is not None and exact.meta_sae is not None
    n_graphs = ours.meta_sae.graphs.number
    rows = ours.meta_sae.reconstruct(ours.W_dec.detach()).cpu().double()
    assert ours.meta_sae.graphs.number == n_graphs > 0  # it was one of these
    assert int(ours.meta_sae.n_in_doubt) == 0
    expected = exact.meta_sae.reconstruct(exact.W_dec.detach())
    assert (rows - expected).norm() < 1e-4 * expected.norm()


@needs_gpu
def test_on_a_gpu_no_other_wait_hides_in_torch() -> None:
    """CUDA's own count, of our part of a step: SAELens's trainer has waits of its own."""
    for mode in MODES:
        sae = joint(**LARGE, device="cuda", meta_selection=mode)
        trainer = trainer_for(sae, iter(()), 10**6, 1024, device="cuda")
        for _, batch in zip(range(8), large_batches(), strict=False):
            step_input = TrainStepInput(
                batch, {"decomposability": 0.3}, trainer.dead_neurons, 0, False
            )
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                sae.training_forward_pass(step_input).loss.backward()
                torch.cuda.set_sync_debug_mode("default")
            waits = [str(w.message) for w in caught if "synchron" in str(w.message)]
            assert len(waits) <= 2, [f"{w.filename}:{w.lineno}" for w in caught]
            trainer.optimizer.zero_grad()


@needs_gpu
def test_on_a_gpu_half_precision_errs_by_less_than_the_bound() -> None:
    for d_in in (64, 1280, 3584):
        random = random_encoder(d_in, 512)
        encoder = Encoder(
            *(t.cuda() for t in (random.W_enc, random.b_enc, random.norms))
        )
        aligned = torch.rand(512, d_in, device="cuda") + 1
        for x in (torch.randn_like(aligned), aligned):
            above = slack(x, encoder)
            assert above.min() >= 0 and above.max() < 6e-3


@needs_gpu
def test_on_a_gpu_equal_runs_are_equal_to_the_bit_if_it_is_asked_to() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (on_gpu(9).state_dict() for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    for name, tensor in first.items():
        assert torch.equal(second[name], tensor), name


@needs_gpu
def test_on_a_gpu_a_step_can_be_captured_as_a_graph() -> None:
    sae = on_gpu(2)
    batch = next(large_batches()).clone()

    def step() -> torch.Tensor:
        sae.steps_in_cycle.fill_(1)
        step_input = TrainStepInput(batch, {"decomposability": 0.3}, None, 0, False)
        output = sae.training_forward_pass(step_input)
        output.loss.backward()
        return output.loss

    expected = 0.0
    for _ in range(3):
        sae.zero_grad()
        expected = step().item()
    sae.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    graph.replay()
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    batch.mul_(0.5).add_(torch.randn_like(batch))
    graph.replay()
    assert loss.item() != pytest.approx(expected, rel=1e-3)


@needs_gpu
def test_on_a_gpu_it_goes_where_it_is_moved() -> None:
    sae = joint(**LARGE)
    assert sae.meta_sae is not None
    sae.to("cuda")
    assert sae.steps_in_cycle.device.type == "cpu" and sae.W_dec.is_cuda
    trainer = trainer_for(sae, iter(()), 10**6, 1024, device="cuda")
    for _, batch in zip(range(5), large_batches(), strict=False):
        trainer.step(batch)
    sae.to("cpu")
    assert forward(sae, next(large_batches()).cpu()).feature_acts.is_sparse
