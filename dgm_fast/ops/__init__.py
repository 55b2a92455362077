"""The hot paths of deep generative models, one fused function each."""

from dgm_fast.ops.actnorm.api import actnorm
from dgm_fast.ops.actnorm_statistics.api import actnorm_statistics
from dgm_fast.ops.affine_coupling.api import affine_coupling
from dgm_fast.ops.causal_conv1d.api import causal_conv1d
from dgm_fast.ops.diffusion_loss.api import diffusion_loss
from dgm_fast.ops.diffusion_noise.api import diffusion_noise
from dgm_fast.ops.diffusion_step.api import ddim_step, ddpm_step
from dgm_fast.ops.gated_activation.api import gated_activation
from dgm_fast.ops.gaussian_mixture_log_prob.api import gaussian_mixture_log_prob
from dgm_fast.ops.gaussian_rsample_kl.api import gaussian_rsample_kl
from dgm_fast.ops.invertible_1x1.api import invertible_1x1
from dgm_fast.ops.invertible_1x1.factors import PLU, batched_log_abs_det
from dgm_fast.ops.logistic_mixture_nll.api import logistic_mixture_nll
from dgm_fast.ops.masked_conv2d.api import masked_conv2d
from dgm_fast.ops.masked_linear.api import masked_linear
from dgm_fast.ops.masked_linear.structure import MaskStructure
from dgm_fast.ops.philox.api import philox_normal, philox_uniform
from dgm_fast.ops.rational_quadratic_spline.api import rational_quadratic_spline
from dgm_fast.ops.wavenet_layer.api import wavenet_layer

__all__ = [
    "PLU",
    "MaskStructure",
    "actnorm",
    "actnorm_statistics",
    "affine_coupling",
    "batched_log_abs_det",
    "causal_conv1d",
    "ddim_step",
    "ddpm_step",
    "diffusion_loss",
    "diffusion_noise",
    "gated_activation",
    "gaussian_mixture_log_prob",
    "gaussian_rsample_kl",
    "invertible_1x1",
    "logistic_mixture_nll",
    "masked_conv2d",
    "masked_linear",
    "philox_normal",
    "philox_uniform",
    "rational_quadratic_spline",
    "wavenet_layer",
]
