"""A reversible chain gives the gradients of the stored one and keeps its output alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dgm_fast.families.flows.chain import Chain, Inverse
from dgm_fast.families.flows.conditioners import MLP, ConvNet
from dgm_fast.families.flows.multiscale import Squeeze
from dgm_fast.layers import ActNorm, AffineCoupling


def randomize(module, std=0.1):
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=std)
    return module


def vector_chain(depth=4, context=0, **options):
    steps = []
    for i in range(depth):
        net = MLP(3, 6, (16,), context)
        steps += [ActNorm(6), AffineCoupling(net, kept=3, part=("last", "first")[i % 2], **options)]
    return randomize(Chain(steps))


def image_chain(depth=3):
    colour = (torch.arange(4)[:, None] + torch.arange(4)) % 2 == 0
    squeeze = Squeeze("checkerboard")
    steps = [AffineCoupling(ConvNet(2, 4, 8), mask=colour, scale_map="tanh", bound=2.0), squeeze]
    for i in range(depth):
        net = ConvNet(4, 8, 8)
        steps += [ActNorm(8), AffineCoupling(net, kept=4, part=("last", "first")[i % 2])]
    return randomize(Chain([*steps, Inverse(squeeze)]))


def gradients(chain, x, context=None, weights=(1.0, 1.0), reversible=False):
    """Gradients of a loss of z and log_det, each with a weight or None to leave it out."""
    chain.reversible = reversible
    given = [t.detach().clone().requires_grad_() for t in (x, context) if t is not None]
    z, log_det = chain(*given)
    generator = torch.Generator().manual_seed(5)
    loss = 0
    for value, weight in zip((z, log_det), weights, strict=True):
        if weight is not None:
            direction = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            loss = loss + weight * (value * direction).sum()
    inputs = [*given, *chain.parameters()]
    return z, log_det, torch.autograd.grad(loss, inputs, allow_unused=True)


def assert_same_gradients(found, expected, **tolerance):
    for mine, right in zip(found, expected, strict=True):
        right = torch.zeros_like(mine) if right is None and mine is not None else right
        mine = torch.zeros_like(right) if mine is None and right is not None else mine
        torch.testing.assert_close(mine, right, **tolerance)


CHAINS = {
    "vectors": (vector_chain, (5, 6)),
    "additive": (lambda: additive_chain(), (5, 6)),
    "rescaled": (lambda: vector_chain(rescaled_channels=3), (5, 6)),
    "images": (image_chain, (3, 2, 4, 4)),
}


def additive_chain():
    steps = [AffineCoupling(MLP(3, 3, (8,)), kept=3, additive=True) for _ in range(3)]
    return randomize(Chain([*steps, ActNorm(6)]))


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, None), (None, 1.0)], ids=str)
@pytest.mark.parametrize("name", CHAINS)
def test_gradients_equal_the_stored_ones(name, weights):
    make, shape = CHAINS[name]
    chain = make().double()
    x = torch.randn(shape, dtype=torch.float64)

    z, log_det, expected = gradients(chain, x, weights=weights)
    z_again, log_det_again, found = gradients(chain, x, weights=weights, reversible=True)

    assert torch.equal(z_again, z)
    assert torch.equal(log_det_again, log_det)
    assert sum(g is not None and bool(g.abs().max() > 0) for g in found) >= 1
    assert_same_gradients(found, expected, rtol=1e-9, atol=1e-11)


def test_gradient_of_the_context():
    chain = vector_chain(context=4).double()
    x, context = (torch.randn(5, n, dtype=torch.float64) for n in (6, 4))

    _, _, expected = gradients(chain, x, context)
    _, _, found = gradients(chain, x, context, reversible=True)

    assert bool(found[1].abs().max() > 0)
    assert_same_gradients(found, expected, rtol=1e-9, atol=1e-11)


def test_parameters_shared_by_steps_add_up():
    net = MLP(3, 6, (8,))
    steps = [AffineCoupling(net, kept=3, part=part) for part in ("last", "first", "last")]
    chain = randomize(Chain(steps)).double()
    x = torch.randn(5, 6, dtype=torch.float64)

    expected, found = (gradients(chain, x, reversible=r)[2] for r in (False, True))

    assert_same_gradients(found, expected, rtol=1e-9, atol=1e-11)


def test_frozen_parameters_get_no_gradient():
    chain = vector_chain()
    chain.steps[1].requires_grad_(False)
    chain.reversible = True

    z, log_det = chain(torch.randn(5, 6))
    (z.sum() + log_det.sum()).backward()

    frozen = list(chain.steps[1].parameters())
    assert all(p.grad is None for p in frozen)
    assert all(p.grad is not None for p in chain.parameters() if p.requires_grad)


def test_gradients_under_autocast_equal_the_stored_ones():
    chain = vector_chain()
    x = torch.randn(64, 6)

    with torch.autocast("cpu", torch.bfloat16):
        z, _, expected = gradients(chain, x)
        stored = [g.clone() for g in expected]
    # The backward runs outside of autocast and must restore it.
    chain.reversible = True
    leaf = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        z_again, log_det = chain(leaf)
    generator = torch.Generator().manual_seed(5)
    loss = (z_again * torch.randn(z.shape, generator=generator)).sum()
    loss = loss + (log_det * torch.randn(log_det.shape, generator=generator)).sum()
    found = torch.autograd.grad(loss, [leaf, *chain.parameters()])

    assert torch.equal(z_again, z)
    # The kept halves of both runs round alike in bfloat16; the recovered ones to float32.
    assert_same_gradients(found, stored, rtol=0.02, atol=0.02)
    full = gradients(chain, x, reversible=True)[2]
    assert any(not torch.allclose(a, b, rtol=1e-4) for a, b in zip(found, full, strict=True))


def test_only_the_output_is_saved():
    # 12 MB of activations in the stored chain: what autograd saves must be the output alone.
    chain = vector_chain(depth=16)
    x = torch.randn(1000, 6)
    saved = {}
    for reversible in (False, True):
        chain.reversible, sizes = reversible, []
        own = {p.data_ptr() for p in chain.parameters()}

        def pack(tensor, sizes=sizes, own=own):
            if tensor.data_ptr() not in own:
                sizes.append(tensor.untyped_storage().nbytes())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            chain(x)
        saved[reversible] = sum(sizes)

    assert saved[True] == x.nbytes
    assert saved[False] > 50 * x.nbytes


def test_the_first_batch_initialises_once():
    chain = Chain([ActNorm(6), AffineCoupling(MLP(3, 6, (8,)), kept=3), ActNorm(6)])
    twin = copy.deepcopy(chain)
    twin.reversible = True
    x = 3 + 2 * torch.randn(50, 6)

    expected = chain(x)
    found = twin(x)
    found[0].sum().backward()

    assert torch.equal(found[0], expected[0])
    for mine, right in zip(twin.parameters(), chain.parameters(), strict=True):
        assert torch.equal(mine, right)


def test_nothing_is_recomputed_without_gradients():
    chain = vector_chain()
    chain.reversible = True
    with torch.no_grad():
        z, _ = chain(torch.randn(5, 6))
    assert not z.requires_grad


def test_second_derivatives_are_refused():
    chain = vector_chain()
    chain.reversible = True
    x = torch.randn(5, 6, requires_grad=True)
    with pytest.raises(RuntimeError, match="reversible must be False for second derivatives"):
        torch.autograd.grad(chain(x)[0].sum(), x, create_graph=True)


def test_a_parameter_changed_before_backward_is_noticed():
    chain = vector_chain()
    chain.reversible = True
    z, _ = chain(torch.randn(5, 6))
    with torch.no_grad():
        chain.steps[0].log_scale += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_replaced_parameters_are_refused():
    chain = vector_chain()
    chain.reversible = True
    replaced = {name: p.detach().clone().requires_grad_() for name, p in chain.named_parameters()}
    z, _ = torch.func.functional_call(chain, replaced, torch.randn(5, 6))
    with pytest.raises(
        RuntimeError, match="reversible must be False where parameters are replaced"
    ):
        z.sum().backward()


def test_a_compiled_caller_gives_the_same():
    torch._dynamo.reset()
    chain = vector_chain()
    chain.reversible = True
    x = torch.randn(5, 6)
    compiled = torch.compile(lambda x: chain(x)[0].square().sum(), backend="aot_eager")

    found = torch.autograd.grad(compiled(x), list(chain.parameters()))
    expected = torch.autograd.grad(chain(x)[0].square().sum(), list(chain.parameters()))

    assert_same_gradients(found, expected)


class Loss(nn.Module):
    def __init__(self, chain):
        super().__init__()
        self.chain = chain

    def forward(self, x):
        z, log_det = self.chain(x)
        return z.square().sum() - log_det.sum()


@pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="this torch has no gloo backend"
)
def test_gradients_reach_a_distributed_wrapper(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        chain = vector_chain()
        x = torch.randn(5, 6)
        Loss(chain)(x).backward()
        expected = [p.grad.clone() for p in chain.parameters()]
        chain.zero_grad()

        chain.reversible = True
        parallel = DistributedDataParallel(Loss(chain))
        parallel(x).backward()
        found = [p.grad for p in chain.parameters()]
        del parallel
    finally:
        torch.distributed.destroy_process_group()

    assert_same_gradients(found, expected, rtol=1e-4, atol=1e-5)
