"""Sampling that Ctrl-C ends hands over what was drawn."""

from __future__ import annotations

import pytest
import torch

from dgm_fast.families import MADE, ImageTransformer, ImageTransformerConfig, MADEConfig
from dgm_fast.sampling import SamplingInterrupted
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
