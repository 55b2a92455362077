"""Small PixelCNNs of all kinds, and the states from which their samplers are tested."""

from __future__ import annotations

import pytest
import torch

from dgm_fast._core import extension
from dgm_fast.sampling import SeededNoise
from tests.families.pixel_models import make_model, small

needs_kernel = pytest.mark.skipif(
    extension.cpp_missing is not None, reason=str(extension.cpp_missing)
)

LEVELS = {"output": "categorical", "levels": 5}
MIXTURE = {"output": "logistic_mixture", "levels": 17}
CONFIGS = {
    "pixelcnn": small("pixelcnn", (5, 7)),
    "pixelcnn of levels upside down": small("pixelcnn", (6, 5), flip=True, **LEVELS),
    "pixelcnn of colours": small("pixelcnn", (3, 3, 4), **LEVELS),
    "pixelcnn of binary colours upside down": small("pixelcnn", (3, 4, 3), flip=True),
    "pixelcnn of a mixture": small("pixelcnn", (4, 5), **MIXTURE),
    "pixelcnn of large kernels": small("pixelcnn", (7, 6), first_kernel=7, kernel=5),
    "pixelcnn of single pixels": small("pixelcnn", (4, 4), kernel=1, blocks=1),
    "pixelcnn of whole vectors": small("pixelcnn", (4, 5), channels=64, head_channels=48),
    "one row": small("pixelcnn", (1, 9)),
    "one column": small("gated", (9, 1)),
    "one pixel": small("pp", (1, 1), output="bernoulli"),
    "gated": small("gated", (5, 6), classes=3),
    "gated of colours": small("gated", (3, 3, 4), classes=2, **LEVELS),
    "gated of a mixture of colours": small("gated", (3, 4, 4), **MIXTURE),
    "gated of large kernels": small("gated", (7, 5), first_kernel=7, kernel=5, flip=True),
    "gated of one layer": small("gated", (4, 5), layers=0),
    "pp": small("pp", (3, 4, 5), classes=2, **MIXTURE),
    "pp of three scales": small("pp", (5, 7), scales=3, **LEVELS),
    "pp of more scales than rows": small("pp", (3, 5), scales=4, output="bernoulli"),
    "pp of one scale": small("pp", (4, 5), scales=1, blocks=2, flip=True, **MIXTURE),
    "pp of whole vectors": small("pp", (4, 4), channels=32, **MIXTURE),
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
FEW = ["pixelcnn of colours", "gated", "pp"]
IMPLEMENTATIONS = [("reference", torch.float64), ("reference", torch.float32)]
if extension.cpp_missing is None:
    IMPLEMENTATIONS.append(("cpp", torch.float32))
# Narrow and whole vectors, every function and every output.
VARIED = [*FEW, "pixelcnn of whole vectors", "gated of a mixture of colours", "pp of whole vectors"]
few_configs = pytest.mark.parametrize("config", [CONFIGS[name] for name in FEW], ids=FEW)


LEFT_OUT = [
    (CONFIGS[name], filters)
    for name in ("pixelcnn of levels upside down", "gated of colours", "pp of three scales")
    for filters in ({"top_k": 2}, {"top_p": 0.6}, {"top_k": 3, "top_p": 0.8, "temperature": 1.4})
]


def model_of(config, impl="auto", dtype=torch.float32):
    return make_model(config, gain=1.5, impl=impl).eval().to(dtype)


def label_of(model, n):
    return torch.arange(n) % model.classes if model.classes else None


def holes(config, n, seed=0):
    """Images of which some pixels are given, among them a stretch of every image's."""
    C, H, W = config.image_shape
    generator = torch.Generator().manual_seed(seed)
    levels = 2 if config.output == "bernoulli" else config.levels
    given = torch.randint(levels, (n, C, H, W), generator=generator).float()
    mask = torch.rand(n, H, W, generator=generator) < 0.3
    mask[:, H // 2, W // 3 :] = True
    return given, mask


def start_of(sampler, config, n, seed=0, *, around=False):
    """The state of n images, some of their pixels given."""
    given, mask = holes(config, n, seed) if around else (None, None)
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(n) % sampler.classes if sampler.classes else None
    return sampler.start(n, label, images=given, given=mask, generator=generator)


def seeded_of(sampler, n, seed=0):
    """The noise of `start_of`, seeded."""
    generator, output = torch.Generator(sampler.device).manual_seed(seed), sampler.output
    shape = n, sampler.features, output.uniforms
    where = sampler.device, sampler.dtype
    return SeededNoise.from_generator(generator, output.draw_noise, shape, *where)


def same(a, b):
    return all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in ("images", "rows", "done")
    )
