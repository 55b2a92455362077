"""Families run on the library's ops: training and sampling reach the compiled kernels."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dgm_fast._core import extension
from dgm_fast._core.op import all_ops
from dgm_fast.families import (
    DDPM,
    IAF,
    ICA,
    MAF,
    NICE,
    VAE,
    DDPMConfig,
    GatedPixelCNN,
    GatedPixelCNNConfig,
    Glow,
    GlowConfig,
    IAFConfig,
    ICAConfig,
    MAFConfig,
    NeuralSplineFlow,
    NeuralSplineFlowConfig,
    NICEConfig,
    PixelCNN,
    PixelCNNConfig,
    PixelCNNpp,
    PixelCNNppConfig,
    RealNVP,
    RealNVPConfig,
    VAEConfig,
    WaveNet,
    WaveNetConfig,
)

IMAGE = {"event_shape": (1, 8, 8), "levels": 17, "hidden": 8}
VECTOR = {"event_shape": (64,), "levels": 17, "hidden": (16,)}
SPLINES = NeuralSplineFlowConfig(**VECTOR, conditioning="autoregressive")
COUPLING = {"affine_coupling": {"forward", "backward"}}
SPLINE = {"rational_quadratic_spline": {"forward", "backward"}}
MATRIX = {"invertible_1x1": {"forward", "backward"}}
ACTNORM = {"actnorm": {"forward", "backward"}}
CONVOLUTION = {"masked_conv2d": {"forward", "backward"}}
MIXTURE = {"logistic_mixture_nll": {"forward", "backward"}}
SIGNALS = {
    "wavenet_layer": {"forward", "backward"},
    "causal_conv1d": {"forward", "backward"},
    "gated_activation": {"forward", "backward"},
}
LATENT = {"gaussian_rsample_kl": {"forward", "backward"}}
# A model, and the directions of the ops that a training step goes through.
TRAINED = {
    "nice": (NICE, NICEConfig(**VECTOR), COUPLING | ACTNORM),
    "realnvp": (RealNVP, RealNVPConfig(**IMAGE), COUPLING | ACTNORM),
    "glow": (Glow, GlowConfig(**IMAGE, steps=1), COUPLING | MATRIX),
    "ica": (ICA, ICAConfig((64,), levels=17), MATRIX | ACTNORM),
    "maf": (MAF, MAFConfig(**VECTOR), COUPLING | ACTNORM),
    "iaf": (IAF, IAFConfig(**VECTOR), COUPLING | ACTNORM),
    "nsf": (NeuralSplineFlow, NeuralSplineFlowConfig(**VECTOR), SPLINE | MATRIX | ACTNORM),
    "nsf, autoregressive": (NeuralSplineFlow, SPLINES, SPLINE | MATRIX | ACTNORM),
    "vae": (VAE, VAEConfig((8, 8), hidden=(8,)), LATENT),
    "vae, flows": (
        VAE,
        VAEConfig((8, 8), hidden=(8,), prior="flow", posterior="flow"),
        LATENT | COUPLING,
    ),
    "pixelcnn": (
        PixelCNN,
        PixelCNNConfig((8, 8), output="categorical", levels=17, channels=8, blocks=1),
        CONVOLUTION,
    ),
    "gated pixelcnn": (
        GatedPixelCNN,
        GatedPixelCNNConfig((8, 8), output="logistic_mixture", channels=8, layers=1),
        CONVOLUTION | MIXTURE,
    ),
    "pixelcnn++": (
        PixelCNNpp,
        PixelCNNppConfig((8, 8), channels=4, blocks=1, scales=2, components=2),
        MIXTURE,
    ),
    "wavenet": (
        WaveNet,
        WaveNetConfig("logistic_mixture", input="scalar", stacks=1, layers=2, channels=8),
        SIGNALS | MIXTURE,
    ),
    "ddpm": (
        DDPM,
        DDPMConfig((8, 8), levels=17, timesteps=3, channels=8, multipliers=(1,)),
        {"diffusion_noise": {"forward"}, "diffusion_loss": {"forward", "backward"}},
    ),
}
every = pytest.mark.parametrize("name", TRAINED)
needs_kernels = pytest.mark.skipif(
    extension.cpp_missing is not None, reason=f"{extension.cpp_missing}"
)


class Launches(TorchDispatchMode):
    """Notes the kernels that run, (op, direction, implementation)."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "dgm_fast":
            self.seen.add(tuple(function._opname.rsplit("_", 2)))
        return function(*args, **(kwargs or {}))


def make_model(name, impl="auto"):
    torch.manual_seed(0)
    model_class, config, _ = TRAINED[name]
    return model_class(config, impl=impl)


def batch_for(model):
    if isinstance(model, WaveNet):
        return torch.rand(16, 64) * 2 - 1
    high = 2 if isinstance(model, VAE) else 17
    return torch.randint(high, (16, *model.event_shape)).float()


@needs_kernels
@every
def test_training_reaches_the_kernels(name):
    model = make_model(name)
    x = batch_for(model)
    model.loss(x)

    with Launches() as launches:
        model.loss(x).backward()

    expected = TRAINED[name][2]
    wanted = {(op, way, "cpp") for op, ways in expected.items() for way in ways}
    # An op that has no kernel for CPUs runs as plain PyTorch.
    wanted = {each for each in wanted if each[1:] in all_ops()[each[0]].kernels}
    assert wanted
    assert wanted <= launches.seen


@needs_kernels
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_every_step_of_a_diffusion_sampler_is_one_kernel(sampler):
    model = make_model("ddpm").eval()
    with Launches() as launches:
        model.sample(2, sampler=sampler)
    assert ("diffusion_step", "forward", "cpp") in launches.seen


@every
def test_the_reference_runs_no_kernel_but_that_of_the_noise(name):
    model = make_model(name, impl="reference")
    with Launches() as launches:
        model.loss(batch_for(model)).backward()
        model.eval().sample(2, **({"length": 20} if isinstance(model, WaveNet) else {}))
    assert {op for op, _, _ in launches.seen} <= {"philox"}
