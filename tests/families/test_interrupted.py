"""Sampling that Ctrl-C ends hands over what was drawn."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from dgm_fast.families import (
    IAF,
    MADE,
    MAF,
    Glow,
    GlowConfig,
    IAFConfig,
    ImageTransformer,
    ImageTransformerConfig,
    MADEConfig,
    MAFConfig,
)
from dgm_fast.families.flows import flow
from dgm_fast.sampling import SamplingInterrupted
from dgm_fast.training.samples import draw_samples
from tests.families import pixel_models, sequence_models, wavenet_models


def made():
    torch.manual_seed(0)
    config = MADEConfig(200, (30,), output="categorical", categories=9, order="random")
    return MADE(config).eval(), 200


def image_transformer():
    torch.manual_seed(0)
    config = ImageTransformerConfig((5, 6), output="categorical", levels=9, width=8, heads=2)
    return ImageTransformer(config).eval(), 30


def pixels(**changes):
    config = pixel_models.small("pixelcnn", (5, 6), output="categorical", levels=9, **changes)
    return pixel_models.make_model(config).eval(), 5


MODELS = {
    "made": made,
    "pixelcnn": pixels,
    "pixelcnn, flip": lambda: pixels(flip=True),
    "image transformer": image_transformer,
    "transformer": lambda: (sequence_models.make_model(sequence_models.VARIANTS["gru"]), 30),
    "wavenet": lambda: (wavenet_models.make_model(wavenet_models.small()), 30),
}


def test_before_anything_is_drawn_there_is_the_beginning(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    model, _ = MODELS["wavenet"]()
    given = torch.rand(2, 7) * 2 - 1
    monkeypatch.setattr(model, "_go_on", interrupt)
    with pytest.raises(SamplingInterrupted) as caught:
        model.sample(2, length=30, given=given)
    assert torch.equal(caught.value.samples, given)


class Stop:
    """Progress that ends with Ctrl-C after some calls."""

    def __init__(self, calls):
        self.calls, self.done = calls, 0

    def __call__(self, done, total):
        self.calls -= 1
        self.done, self.total = done, total
        if self.calls == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("shape", [3, (2, 1)], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_what_was_drawn_is_the_beginning_of_the_whole(name, shape):
    model, total = MODELS[name]()
    options = {"length": total} if name in ("transformer", "wavenet") else {}
    whole = model.sample(shape, generator=torch.Generator().manual_seed(1), **options)

    stop = Stop(calls=2)
    with pytest.raises(SamplingInterrupted) as caught:
        model.sample(shape, generator=torch.Generator().manual_seed(1), progress=stop, **options)
    some = caught.value.samples
    assert 0 < stop.done < stop.total
    if "length" in options:
        assert torch.equal(some, whole[..., : stop.done])
        return

    assert some.shape == whole.shape
    is_drawn = torch.zeros(model.event_shape, dtype=torch.bool).flatten()
    if name == "made":
        is_drawn[model.degrees[0].features.argsort()[: stop.done]] = True
    else:
        done = stop.done * is_drawn.numel() // stop.total
        is_drawn[slice(-done, None) if "flip" in name else slice(done)] = True
    expected = torch.where(is_drawn.view(model.event_shape), whole, 0)
    assert torch.equal(some, expected)
    assert expected.count_nonzero() > 0


FLOWS = {
    "maf": (MAF, MAFConfig((5,), steps=2, hidden=(16,))),
    "iaf, features": (IAF, IAFConfig((5,), steps=2, hidden=(16,), context_features=3)),
    "glow, labels": (
        Glow,
        GlowConfig((1, 4, 4), levels=4, hidden=4, steps=1, classes=6, context_features=5),
    ),
}


@pytest.fixture(params=FLOWS)
def flow_in_pairs(request, monkeypatch):
    """A flow that makes two samples a piece, six contexts, and six samples made in one piece."""
    torch.manual_seed(0)
    kind, config = FLOWS[request.param]
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    features = torch.randn(6, config.context_features) if config.context_features else None
    context = torch.arange(6) if config.classes else features
    whole = model.sample(6, context, torch.Generator().manual_seed(1))

    monkeypatch.setattr(flow, "_PIECE", flow._PIECE / model._samples_of_a_piece() * 2)
    assert model._samples_of_a_piece() == 2
    return model, context, whole


def test_pieces_of_a_flow_make_what_one_piece_makes(flow_in_pairs):
    model, context, whole = flow_in_pairs
    told, shape = [], (3, 2)
    noise = model.draw_noise(shape, torch.Generator().manual_seed(1))
    context = None if context is None else context.view(*shape, *context.shape[1:])
    x = model.sample(shape, context, noise=noise, progress=lambda *done: told.append(done))
    assert told == [(2, 6), (4, 6), (6, 6)]
    torch.testing.assert_close(x, whole.view_as(x))
    assert len(whole.unique(dim=0)) == 6
    cold = model.sample(shape, context, noise=2 * noise, temperature=0.5)
    assert torch.equal(cold, x)


def test_a_signal_amid_a_piece_of_a_flow_leaves_the_pieces_before_it(flow_in_pairs, monkeypatch):
    model, context, whole = flow_in_pairs
    calls, told, inverse = [], [], model.inverse

    def interrupted(z, context):
        calls.append(len(z))
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return inverse(z, context)

    monkeypatch.setattr(model, "inverse", interrupted)
    generator = torch.Generator().manual_seed(1)
    some, is_whole = draw_samples(model, 6, context, generator, lambda *done: told.append(done))
    assert not is_whole
    assert calls == [2, 2, 2]
    assert told == [(2, 6), (4, 6)]
    torch.testing.assert_close(some[:4], whole[:4])
    assert some.shape == whole.shape
    assert not some[4:].any()
