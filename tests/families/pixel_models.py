"""Small PixelCNNs of all kinds, and which inputs reach which outputs of them."""

from __future__ import annotations

import itertools

import torch

from dgm_fast.families import (
    GatedPixelCNN,
    GatedPixelCNNConfig,
    PixelCNN,
    PixelCNNConfig,
    PixelCNNpp,
    PixelCNNppConfig,
)
from dgm_fast.sampling import filter_logits, naive_sample, pick_token

MODELS = {
    PixelCNNConfig: PixelCNN,
    GatedPixelCNNConfig: GatedPixelCNN,
    PixelCNNppConfig: PixelCNNpp,
}
# Arguments of the smallest of each family.
SMALL = {
    PixelCNNConfig: {"channels": 12, "blocks": 2, "first_kernel": 3, "head_channels": 12},
    GatedPixelCNNConfig: {"channels": 12, "layers": 2, "first_kernel": 3, "head_channels": 12},
    PixelCNNppConfig: {"channels": 6, "blocks": 1, "scales": 2, "dropout": 0.0, "components": 3},
}
FAMILIES = {"pixelcnn": PixelCNNConfig, "gated": GatedPixelCNNConfig, "pp": PixelCNNppConfig}


def small(family, event_shape, **changes):
    """The configuration of a small model."""
    kind = FAMILIES[family]
    return kind(event_shape, **(SMALL[kind] | changes))


def make_model(config, seed=0, gain=1.0, **options):
    """A model away from its near-uniform start."""
    torch.manual_seed(seed)
    model = MODELS[type(config)](config, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.5)
            else:
                parameter.mul_(gain)
    return model


def order_of(model):
    """The features in the order they are drawn: with `flip` the last row's come first."""
    _, H, W = model.config.image_shape
    rows = torch.arange(H * W * model.output.ordered_channels).view(H, -1)
    return (rows.flip(0) if model.config.flip else rows).flatten().tolist()


@torch.no_grad()
def naive(model, noise, label=None, given=None, mask=None, temperature=1.0, **filters):
    """Images (n, C, H, W) by a pass of the network for every feature, as it is in its dtype."""
    output, (C, H, W) = model.output, model.config.image_shape
    n, dtype = len(noise), next(model.parameters()).dtype
    images, known = torch.zeros(n, C, H, W, dtype=dtype), None
    if given is not None:
        images = given.to(dtype).where(mask[:, None], 0)
        steps = mask[:, None].expand(-1, output.ordered_channels, -1, -1)
        known = steps.permute(0, 2, 3, 1).reshape(n, -1)

    def pick(parameters, noise):
        if filters:
            logits = filter_logits(parameters, temperature=temperature, **filters)
            return pick_token(logits, noise)[..., None]
        return output.pick(parameters, noise, temperature)

    features = naive_sample(
        lambda x: output.to_features(model._run(output.to_images(x, H, W), label)),
        pick,
        noise.to(dtype),
        order_of(model),
        output.to_features(images),
        given=known,
    )
    return output.to_images(features, H, W)


def all_images(event_shape, levels):
    """Every image of so many levels, one a row, float64."""
    D = torch.Size(event_shape).numel()
    values = list(itertools.product(range(levels), repeat=D))
    return torch.tensor(values, dtype=torch.float64).view(-1, *event_shape)


def reach_of(model, label=None, images=4):
    """Which input value (pixel, channel) moves the parameters of which feature: bool (D, H W C)."""
    C, H, W = model.config.image_shape
    D = H * W * model.output.ordered_channels
    reached = torch.zeros(D, H * W * C, dtype=torch.bool)
    for seed in range(images):
        generator = torch.Generator().manual_seed(seed)
        image = torch.rand(1, C, H, W, generator=generator) * (model.levels - 1)
        # Copy i of the image is asked for feature i alone: one backward gives all rows.
        x = image.repeat(D, 1, 1, 1).requires_grad_()
        features = model.output.to_features(model._run(x, label))  # (D, D, P)
        own = features.diagonal(dim1=0, dim2=1).T  # (D, P)
        weights = torch.randn(own.shape, generator=generator)
        (gradient,) = torch.autograd.grad((own * weights).sum(), x)
        reached |= gradient.permute(0, 2, 3, 1).reshape(D, -1) != 0
    return reached


def before(H, W, channels=1, steps=1):
    """What a model may depend on: all of the pixels before, and the channels before at its own."""
    place = torch.arange(H * W * steps)
    pixel, step = place // steps, place % steps
    of_input, channel = (
        torch.arange(H * W * channels) // channels,
        torch.arange(H * W * channels) % channels,
    )
    own = (pixel[:, None] == of_input) & (steps > 1) & (step[:, None] > channel)
    return (pixel[:, None] > of_input) | own


def steps_of(offsets, H, W):
    """Which pixel sees which through taps at those offsets, bool (H W, H W): none from outside."""
    sees = torch.zeros(H, W, H, W, dtype=torch.bool)
    for r, c in itertools.product(range(H), range(W)):
        for down, right in offsets:
            if 0 <= r + down < H and 0 <= c + right < W:
                sees[r, c, r + down, c + right] = True
    return sees.view(H * W, H * W)


def through(sees, reach):
    """What pixels reach whose taps see those that reach `reach`."""
    return (sees.float() @ reach.float()) > 0


def rectangle(rows, columns):
    """All offsets of those rows and columns."""
    return list(itertools.product(rows, columns))
