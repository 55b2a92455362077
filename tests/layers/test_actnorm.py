"""ActNorm normalises the first batch, once, alike on all processes and through checkpoints."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.testing import CompileCounterWithBackend

from dgm_fast.layers import ActNorm
from tests.processes import run_two

HERE = Path(__file__).parent


def batch(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator)
    scale, shift = torch.randn(2, shape[1], *[1] * (len(shape) - 2), generator=generator)
    return x * scale.exp() + 3 * shift


@pytest.mark.parametrize("shape", [(50, 3), (20, 3, 5), (10, 3, 4, 5)], ids=str)
def test_first_batch_comes_out_normalised(shape):
    norm = ActNorm(3)
    y, _ = norm(batch(*shape))
    channels = y.transpose(0, 1).flatten(1)
    torch.testing.assert_close(channels.mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(channels.var(1, correction=0), torch.ones(3), atol=1e-5, rtol=0)
    assert bool(norm.initialized)


def test_later_batches_do_not_initialise():
    norm = ActNorm(3)
    norm(batch(50, 3))
    before = copy.deepcopy(norm.state_dict())
    norm(batch(50, 3, seed=1))
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name])


def test_evaluation_does_not_initialise():
    norm = ActNorm(3).eval()
    x = batch(50, 3)
    y, log_det = norm(x)
    assert torch.equal(y, x)
    assert torch.equal(log_det, torch.zeros(50))
    assert not bool(norm.initialized)

    y, _ = norm.train()(x)
    assert not torch.equal(y, x)


def test_an_empty_batch_leaves_it_waiting():
    norm = ActNorm(3)
    y, log_det = norm(torch.zeros(0, 3, 2))
    assert (y.shape, log_det.shape) == ((0, 3, 2), (0,))
    assert not bool(norm.initialized)
    norm(batch(50, 3))
    assert bool(norm.initialized)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 2, 2)], ids=str)
def test_log_det_and_inverse(shape):
    norm = ActNorm(3).double()
    x = batch(*shape).double()
    y, log_det = norm(x)
    again, back = norm.inverse(y)
    torch.testing.assert_close(again, x)
    torch.testing.assert_close(back, -log_det)

    one = x[:1]
    jacobian = torch.autograd.functional.jacobian(lambda v: norm(v)[0], one)
    expected = torch.linalg.slogdet(jacobian.view(one.numel(), -1)).logabsdet
    torch.testing.assert_close(log_det[0], expected)


def test_gradients():
    norm = ActNorm(2).double()
    norm(batch(10, 2, 3).double())
    x = batch(3, 2, 3, seed=1).double().requires_grad_()

    def outputs(x, log_scale, shift):
        return torch.func.functional_call(norm, {"log_scale": log_scale, "shift": shift}, x)

    assert torch.autograd.gradcheck(outputs, (x, norm.log_scale, norm.shift))


def test_a_constant_channel_is_not_blown_up():
    y, _ = ActNorm(2)(torch.stack([torch.full((50,), 7.0), torch.randn(50)], 1))
    assert torch.equal(y[:, 0], torch.zeros(50))
    assert bool(y.isfinite().all())


def test_state_dict_carries_the_initialisation():
    norm = ActNorm(3)
    assert sorted(norm.state_dict()) == ["initialized", "log_scale", "shift"]
    norm(batch(50, 3))

    loaded = ActNorm(3)
    loaded.load_state_dict(norm.state_dict())
    other = batch(50, 3, seed=1)
    torch.testing.assert_close(loaded(other), norm(other))

    # And one that waited waits again.
    norm.load_state_dict(ActNorm(3).state_dict())
    y, _ = norm(other)
    torch.testing.assert_close(y.mean(0), torch.zeros(3), atol=1e-5, rtol=0)


def test_copied_buffers_prevent_a_second_initialisation():
    norm, twin = ActNorm(3), ActNorm(3)
    norm(batch(50, 3))
    with torch.no_grad():
        for mine, other in zip(
            [*twin.parameters(), *twin.buffers()],
            [*norm.parameters(), *norm.buffers()],
            strict=True,
        ):
            mine.copy_(other)
    twin(batch(50, 3, seed=1))
    assert torch.equal(twin.shift, norm.shift)


def test_fullgraph_with_one_recompilation():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    norm, twin = ActNorm(3), ActNorm(3)
    compiled = torch.compile(norm, backend=counter, fullgraph=True)
    for seed in range(4):
        x = batch(20, 3, 2, seed=seed)
        torch.testing.assert_close(compiled(x), twin(x))
    assert counter.frame_count == 2


def test_bfloat16_input():
    norm = ActNorm(3)
    x = batch(200, 3)
    norm(x.bfloat16())
    expected = x.bfloat16().double().mean(0)
    torch.testing.assert_close(-norm.shift.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(4,), (4, 2), (4, 5, 2)], ids=str)
def test_wrong_channels(shape):
    for call in (ActNorm(3), ActNorm(3).eval(), ActNorm(3).inverse):
        with pytest.raises(ValueError, match="x must"):
            call(torch.ones(shape))


def test_no_channels():
    with pytest.raises(ValueError, match="channels must be at least 1; got 0"):
        ActNorm(0)


@pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="this torch has no gloo backend"
)
def test_two_processes_initialise_as_one(tmp_path):
    run_two(HERE / "actnorm_worker.py", tmp_path)
    alone, first, second = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", 0, 1))

    assert bool(alone["norm.initialized"])
    assert float(alone["norm.shift"].abs().max()) > 1
    for name, value in alone.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-6)
