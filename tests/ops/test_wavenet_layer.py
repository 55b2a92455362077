"""The mathematics of `wavenet_layer`, on every implementation that runs here."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dgm_fast.ops import causal_conv1d, gated_activation, wavenet_layer
from tests.contract.subjects import each_subject

implementations = each_subject(op="wavenet_layer")
kernels = each_subject(op="wavenet_layer", reference=False)


def draw(subject, *shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(subject.device) for shape in shapes]


@implementations
def test_is_a_convolution_a_gate_and_a_residual(subject):
    x, weight, bias, v, c, condition = draw(
        subject, (2, 5, 30), (12, 5, 3), (12,), (5, 6, 1), (5,), (2, 12, 30)
    )
    y, z = wavenet_layer(
        x, weight, bias, v, c, condition=condition, dilation=4, impl=subject.implementation.name
    )

    h = causal_conv1d(x, weight, bias, dilation=4, impl="reference") + condition
    torch.testing.assert_close(z, gated_activation(h, impl="reference"))
    torch.testing.assert_close(y, x + F.conv1d(z, v, c), rtol=1e-5, atol=1e-5)


@implementations
def test_a_condition_of_one_time_is_the_same_at_all(subject):
    x, weight, v, condition = draw(subject, (2, 5, 30), (12, 5, 2), (5, 6, 1), (2, 12, 1))
    condition.requires_grad_()
    grads = []
    for each in (condition, condition.expand(2, 12, 30)):
        y, z = wavenet_layer(
            x, weight, None, v, None, condition=each, impl=subject.implementation.name
        )
        grads.append(torch.autograd.grad(y.sum() + z.square().sum(), condition)[0])

    torch.testing.assert_close(*grads)


@implementations
@pytest.mark.parametrize("output", ["y", "z"])
def test_a_gradient_may_come_by_one_output_alone(subject, output):
    leaves = draw(subject, (2, 5, 30), (12, 5, 2), (12,), (5, 6, 1), (5,))
    for leaf in leaves:
        leaf.requires_grad_()

    def gradients(impl):
        y, z = wavenet_layer(*leaves, dilation=2, impl=impl)
        loss = (y if output == "y" else z).square().sum()
        return torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)

    got, expected = gradients(subject.implementation.name), gradients("reference")
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@implementations
def test_stacked_layers_see_their_receptive_field_and_nothing_ahead(subject):
    x, *weights = draw(subject, (1, 2, 20), *[(6, 2, 2)] * 3, *[(2, 3, 1)] * 3)

    def run(x):
        for i, dilation in enumerate((1, 2, 4)):
            x, _ = wavenet_layer(
                x,
                weights[i],
                None,
                weights[3 + i],
                None,
                dilation=dilation,
                impl=subject.implementation.name,
            )
        return x

    # One signal for each input, which differs in it alone: at its place in the batch, so that
    # rounding is the same.
    changed = x + torch.eye(x.numel(), device=x.device).view(-1, *x.shape[1:])
    differs = (run(changed) != run(x.expand_as(changed).contiguous())).cpu()
    reached = differs.view(2, 20, 2, 20).any(2).any(0).T
    behind = torch.arange(20)[:, None] - torch.arange(20)
    # 1 + 1 + 2 + 4 inputs, the output's own among them: the layer is not shifted.
    assert torch.equal(reached, (behind >= 0) & (behind < 8))


@kernels
def test_on_a_gpu_results_lie_as_the_next_layer_reads_them(subject):
    x, weight, v = draw(subject, (2, 5, 30), (12, 5, 2), (5, 6, 1))
    results = wavenet_layer(x, weight, None, v, None, impl=subject.implementation.name)

    for each in results:
        last = subject.implementation.name == "triton"
        assert (each.transpose(1, 2) if last else each).is_contiguous()
