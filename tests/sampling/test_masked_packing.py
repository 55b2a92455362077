"""A masked network as its sweep on a GPU takes it, laid out on this CPU."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dgm_fast.sampling.masked_mlp import stretches as module
from dgm_fast.sampling.masked_mlp.packed import pack_stretches
from dgm_fast.sampling.masked_mlp.stretches import stretches_of
from tests.sampling.masked_cases import SHAPES, Shape, make_network

CPU = torch.device("cpu")
each_way = pytest.mark.parametrize("most_numbered", [module._MOST_NUMBERED, 0])


class Launches(TorchDispatchMode):
    """Counts the operators that would each be a launch of a GPU: those that make no view."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        aliases = [each.alias_info for each in operator._schema.returns]
        if not all(alias is not None and not alias.is_write for alias in aliases):
            self.names.append(str(operator))
        return operator(*args, **(kwargs or {}))


def expected_of(network, block):
    """What units see of each other by their places, and all biases, one number at a time."""
    stretches = stretches_of(network.layout, block, network.is_direct, CPU)
    places = [each.tolist() for each in stretches.places]
    weights = []
    for source, target, weight in network.edges:
        packed = torch.zeros(stretches.units[source], stretches.units[target])
        for row, numbers in zip(places[target], weight.float().tolist(), strict=True):
            for column, number in zip(places[source], numbers, strict=True):
                packed[column, row] = number
        weights.append(packed)
    biases = []
    for level, bias in enumerate(network.biases, start=1):
        biases.append(torch.zeros(stretches.units[level]))
        if bias is not None:
            for place, number in zip(places[level], bias.tolist(), strict=True):
                biases[-1][place] = number
    return weights, torch.cat(biases)


@each_way
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["no hidden", "direct", "residual", "unseen"])
def test_units_lie_in_their_places_with_zeros_between(monkeypatch, name, dtype, most_numbered):
    monkeypatch.setattr(module, "_MOST_NUMBERED", most_numbered)
    network, _ = make_network(SHAPES[name], 2)
    weights = [each.to(dtype) for each in network.weights]
    # One that is not contiguous, and one that trains.
    weights[0] = weights[0].T.contiguous().T
    weights[-1].requires_grad_()
    network = replace(network, weights=tuple(weights))
    packed, (weights, biases) = pack_stretches(network, 5), expected_of(network, 5)
    for found, expected in zip(packed.weights, weights, strict=True):
        assert torch.equal(found.view_as(expected), expected)
    assert torch.equal(packed.biases, biases)
    for found in (*packed.weights, packed.biases):
        assert found.is_contiguous()
        assert not found.requires_grad
        # The kernel loads four floats at a time.
        assert found.data_ptr() % 16 == 0


@each_way
def test_weights_are_packed_as_they_are(monkeypatch, most_numbered):
    monkeypatch.setattr(module, "_MOST_NUMBERED", most_numbered)
    network, _ = make_network(SHAPES["two layers"], 2)
    before = pack_stretches(network, None)
    for each in (*network.weights, *network.biases[1:]):
        each.mul_(2)
    after = pack_stretches(network, None)
    for old, new in zip(
        (*before.weights, before.biases), (*after.weights, after.biases), strict=True
    ):
        assert torch.equal(2 * old, new)


@pytest.mark.parametrize("name", ["two layers", "direct", "residual"])
def test_packing_is_two_launches(name):
    network, _ = make_network(SHAPES[name], 2)
    # The first one numbers what is packed.
    pack_stretches(network, None)
    with Launches() as launches:
        pack_stretches(network, None)
    assert launches.names == ["aten.cat.default", "aten.index_select.default"]


def test_what_is_known_of_a_layout_goes_with_it():
    network = make_network(Shape(features=5, hidden=(7,)), 2)[0]
    pack_stretches(network, None)
    known = weakref.ref(stretches_of(network.layout, None, False, CPU))
    assert known() is stretches_of(network.layout, None, False, CPU)
    del network
    gc.collect()
    assert known() is None
