"""Every launcher of Triton kernels binds them as their signatures say, and they compile."""

import itertools
import math

import pytest

pytest.importorskip(
    "triton", reason="aot tier: Triton is not installed: `pip install 'triton>=3.6'`"
)

import torch
from triton.runtime import driver
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

from dgm_fast._core.triton_compile import TARGETS
from dgm_fast.ops import MaskStructure
from tests.test_aot import MAIN_TARGETS

pytestmark = pytest.mark.aot


class _AbsentGpu:
    """A driver that names a GPU and has none: kernels are bound and compiled, and not run."""

    def __init__(self, name):
        self.name = name

    def get_current_target(self):
        return TARGETS[self.name].gpu

    def get_current_device(self):
        # Kernels are cached by their device: one for each target, and no number of a real GPU's.
        return 1000 + list(TARGETS).index(self.name)

    def get_current_stream(self, device):
        return 0


def each_launch(*shapes, dtypes=(torch.float32, torch.bfloat16)):
    """Parametrize a test by the target of `bound`, shape and dtype.

    Each shape is launched once, in dtypes in turn, and the first for the other compiler too. What a
    launcher does depends on shapes and strides; a dtype changes the kernel alone, and every kernel
    is compiled in each of them, for both compilers, by `test_aot.py`.
    """
    launches = [("gfx942", shapes[0], torch.bfloat16)]
    launches += zip(itertools.repeat("sm_90"), shapes, itertools.cycle(dtypes), strict=False)
    return pytest.mark.parametrize(
        ("bound", "shape", "dtype"), launches, indirect=["bound"], ids=str
    )


@pytest.fixture
def bound(request, monkeypatch):
    """Names of the kernels that launchers bind to their arguments and compile for a GPU."""
    names = []
    run = JITFunction.run

    def compile_only(kernel, *args, grid, warmup, **options):
        names.append(kernel.__name__)
        return run(kernel, *args, grid=grid, warmup=True, **options)

    monkeypatch.setattr(JITFunction, "run", compile_only)
    monkeypatch.setattr(Autotuner, "_bench", lambda tuner, *args, config, **options: 0.0)
    monkeypatch.setattr(driver, "_active", _AbsentGpu(request.param))
    return names


@each_launch((64, 32, 48), (5, 13, 17), (1, 1, 1))
def test_masked_linear_launches_what_the_tuner_compiles(bound, shape, dtype, monkeypatch):
    kernels = pytest.importorskip("dgm_fast.ops.masked_linear.kernels")
    for tuner in (kernels.forward_kernel, kernels.grad_x_kernel, kernels.grad_weight_kernel):
        # What was chosen for another target.
        monkeypatch.setattr(tuner, "cache", {})

    batch, ins, outs = shape
    m = MaskStructure.from_degrees(torch.arange(ins), torch.arange(outs))
    tables = (m.row_bound, m.column_start, m.row_order, m.column_order, None)
    x, weight, bias = (torch.ones(size, dtype=dtype) for size in ((batch, ins), (outs, ins), outs))
    grad_y = torch.ones((), dtype=dtype).expand(batch, outs)

    for each in (bias, None):
        assert kernels.forward(x, weight, each, *tables).shape == (batch, outs)
    gradients = kernels.backward(grad_y, x, weight, *tables, [True, True, True])

    assert [each.shape for each in gradients] == [x.shape, weight.shape, bias.shape]
    assert bound == ["forward_kernel", "forward_kernel", "grad_x_kernel", "grad_weight_kernel"]


@pytest.mark.parametrize("bound", MAIN_TARGETS, indirect=True)
@pytest.mark.parametrize("elements", [1, 16, 5000])
def test_philox_launches_for_indices_of_64_bits(bound, elements):
    kernels = pytest.importorskip("dgm_fast.ops.philox.kernels")
    seed = torch.tensor(-1)

    for sample_offset, stream in ((0, 0), (2**63 - 9, 2**32 - 1)):
        out = kernels.forward(seed, 8, elements, sample_offset, stream, True, torch.float32)
        assert out.shape == (8, elements)

    assert bound == ["philox_kernel"] * 2


@each_launch((64, 12, 32, 32), (3, 4, 9001), (64, 6, 5), (5, 3), (1, 1))
def test_affine_coupling_launches_for_channels_masks_and_no_scale(bound, shape, dtype):
    kernels = pytest.importorskip("dgm_fast.ops.affine_coupling.kernels")
    moved = (shape[0], (shape[1] + 1) // 2, *shape[2:])
    parameters = torch.ones(shape[0], 2 * moved[1], *shape[2:], dtype=dtype)
    x, (log_scale, shift) = torch.ones(shape), parameters.chunk(2, dim=1)
    whole = torch.ones(shape, dtype=dtype)
    mask = torch.ones(shape[1:], dtype=torch.bool)
    options = (math.inf, 0.0, True, False, False)

    for tensors in ((x, log_scale, shift, None), (x, None, shift, None), (x, whole, whole, mask)):
        y, log_det = kernels.forward(*tensors, 0, *options)
        assert (y.shape, log_det.shape) == (x.shape, shape[:1])
        grads = kernels.backward(y, None, *tensors, 0, *options, [True, True, False])
        assert [each.shape for each in grads] == [shape, tensors[2].shape, (0,)]

    assert bound == ["forward_kernel", "backward_kernel"] * 3


# A prior's form is a kernel of its own, whatever the shape: the other shapes take one of them.
_EVERY_FORM = (64, 512)


@each_launch(
    _EVERY_FORM, (3000, 3), (5, 5000), (1, 1), dtypes=(torch.float32, torch.bfloat16, torch.float16)
)
def test_gaussian_rsample_kl_launches_for_priors_forms_and_noise(bound, shape, dtype):
    kernels = pytest.importorskip("dgm_fast.ops.gaussian_rsample_kl.kernels")
    own, row = torch.ones(shape, dtype=dtype), torch.ones(1, shape[1], dtype=dtype)
    noise, seed = torch.ones(shape), torch.tensor(3)
    grad_z, grad_kl = torch.ones((), dtype=dtype).expand(shape), torch.ones(()).expand(shape[0])
    pieces = ["add_parts_kernel"] * (shape[1] > 4096)
    expected = []

    forms = [
        ((row, own), (None, seed), True),
        ((None, None), (None, seed), False),
        ((own, own), (noise, None), True),
        ((row, row), (None, seed), False),
    ]
    for prior, source, monte_carlo in forms if shape == _EVERY_FORM else forms[:1]:
        arguments = (own, own, *prior, *source, 2**40, 2**32 - 1, monte_carlo, 0.5)
        z, kl = kernels.forward(*arguments)
        assert (z.shape, kl.shape, kl.dtype) == (shape, shape[:1], torch.float32)

        needs = [True, True, *(each is not None for each in prior)]
        inputs = [own, own, *(own[:0] if each is None else each for each in prior)]
        for grads in ((grad_z, grad_kl), (None, grad_kl)):
            got = kernels.backward(*grads, *arguments, needs)
            assert [each.shape for each in got] == [each.shape for each in inputs]

        sums = ["add_parts_kernel"] * sum(each is row for each in prior) * (shape[0] > 1)
        expected += ["forward_kernel", *pieces, *["backward_kernel", *sums] * 2]

    assert bound == expected


def _channels_last(shape, dtype):
    return torch.ones(shape, dtype=dtype).transpose(1, -1).contiguous().transpose(1, -1)


@each_launch((64, 12, 1024), (3, 4, 9001), (700, 3, 2), (5, 3, 1), (1, 1, 1))
def test_actnorm_launches_for_both_layouts(bound, shape, dtype):
    kernels = pytest.importorskip("dgm_fast.ops.actnorm.kernels")
    log_scale, shift = torch.ones(2, shape[1]).unbind()

    for x in (torch.ones(shape, dtype=dtype), _channels_last(shape, dtype)):
        y, log_det = kernels.forward(x, log_scale, shift, False)
        assert (y.shape, y.stride(), log_det.shape) == (x.shape, x.stride(), shape[:1])
        for needs in ([True, True, True], [True, False, False], [False, True, False]):
            grads = kernels.backward(y, log_det, x, log_scale, shift, False, needs)
            shapes = zip((shape, shape[1:2], shape[1:2]), needs, strict=True)
            assert [each.shape for each in grads] == [size if n else (0,) for size, n in shapes]
        kernels.backward(None, log_det, x, log_scale, shift, True, [True, True, True])

    passes = ["forward_kernel", "backward_kernel", "parameters_kernel", "backward_kernel"]
    passes += ["backward_kernel", "parameters_kernel", "parameters_kernel"]
    assert bound == passes * 2


@each_launch((64, 12, 1024), (3, 4, 9001), (700, 3, 2), (5, 3, 1), (1, 1, 1))
def test_actnorm_statistics_launches_for_both_layouts(bound, shape, dtype):
    kernels = pytest.importorskip("dgm_fast.ops.actnorm_statistics.kernels")
    for x in (torch.ones(shape, dtype=dtype), _channels_last(shape, dtype)):
        found = kernels.forward(x)
        assert [each.shape for each in found] == [shape[1:2], shape[1:2], ()]

    assert bound == ["pieces_kernel", "merge_kernel"] * 2


@each_launch((64, 1, 32), (3, 4, 900), (700, 1, 2), (1, 1, 1))
def test_rational_quadratic_spline_launches_apart_together_in_planes_and_shared(
    bound, shape, dtype
):
    kernels = pytest.importorskip("dgm_fast.ops.rational_quadratic_spline.kernels")
    samples, outer, inner = shape
    x = torch.ones(shape, dtype=dtype)
    apart = [torch.ones(*shape, columns, dtype=dtype) for columns in (5, 5, 4)]
    planes = torch.ones(samples, outer, 14, inner, dtype=dtype).transpose(2, 3)
    shared = torch.ones(1, outer, inner, 14, dtype=dtype)
    options = (3.0, 1e-3, 1e-3, False, False, False)

    for given in (apart, (planes, None, None), (shared, None, None)):
        y, log_det = kernels.forward(x, *given, *options)
        assert (y.shape, log_det.shape) == (x.shape, (samples,))
        needs = [True, *(each is not None for each in given)]
        grads = kernels.backward(y, None, x, *given, *options, needs)
        expected = [(0,) if each is None else each.shape for each in (x, *given)]
        assert [each.shape for each in grads] == expected

    assert bound == ["forward_kernel", "backward_kernel"] * 3


@each_launch((512, 500, 64), (20000, 130, 9), (1, 1, 1), (3, 7, 0))
def test_gaussian_mixture_launches_for_any_sizes_and_shared_variances(bound, shape, dtype):
    kernels = pytest.importorskip("dgm_fast.ops.gaussian_mixture_log_prob.kernels")
    rows, components, dims = shape
    z, means = (torch.ones(each, dims, dtype=dtype) for each in (rows, components))
    log_vars = torch.ones(1, dims, dtype=dtype).expand_as(means)
    tensors = (z.t().contiguous().t(), means, log_vars, torch.ones(components, dtype=dtype))

    assert kernels.forward(*tensors).shape == (rows,)
    grads = kernels.backward(torch.ones(()).expand(rows), *tensors, [True] * 4)

    assert [each.shape for each in grads] == [each.shape for each in tensors]
    assert all(each.dtype is dtype for each in grads)
    names = ["density", "weigh", "points", "parameters", "finish"]
    names = names if dims > 0 else ["density", "weigh", "parameters"]
    assert bound == [f"{name}_kernel" for name in ("pack", "density", "pack", *names)]


@each_launch((64, 12, 1024), (5, 48, 9), (33, 7, 1), (2, 256, 64))
def test_invertible_1x1_launches_for_factors_and_full_weights(bound, shape, dtype):
    kernels = pytest.importorskip("dgm_fast.ops.invertible_1x1.kernels")
    samples, channels, pixels = shape
    x = torch.ones(samples, pixels, channels, dtype=dtype).transpose(1, 2)
    matrix, vector = torch.eye(channels), torch.ones(channels)
    factors = (matrix, vector, matrix, vector, torch.arange(channels))
    full = (matrix, torch.ones(1), None, None, None)
    calls = ((factors, vector, False), (factors, vector, True), (full, None, False))

    for weight, normalised, inverse in calls:
        arguments = (x, *weight, normalised, normalised, inverse)
        y, log_det = kernels.forward(*arguments)
        assert (y.shape, y.dtype, log_det.shape) == (shape, dtype, (samples,))
        has = [weight[2] is not None, normalised is not None, normalised is not None]
        grads = kernels.backward(y, log_det, *arguments, [True, True, True, *has])
        leaves = (x, *weight[:3], normalised, normalised)
        assert [each.shape for each in grads if each.numel() > 0] == [
            each.shape for each in leaves if each is not None
        ]

    product = ["fold", "product", "sums", "fold_backward", "factors_backward"]
    by_factors = ["log_det", "fold", "product", *product]
    undone = ["log_det", "product", "product", "sums", "factors_backward"]
    names = (*by_factors, *undone, *by_factors[:-1])
    assert bound == [f"{name}_kernel" for name in names]


@each_launch((32, 3, 1024), (5, 1, 9))
def test_logistic_mixture_launches_for_planes_and_channels_last(bound, shape, dtype):
    kernels = pytest.importorskip("dgm_fast.ops.logistic_mixture_nll.kernels")
    samples, channels, pixels = shape
    params = torch.ones(samples, 4 * (3 if channels == 1 else 10), pixels, dtype=dtype)

    for given in (params, params.transpose(1, 2).contiguous().transpose(1, 2)):
        assert kernels.forward(torch.zeros(shape), given).shape == (samples,)
        grad = torch.ones(()).expand(samples)
        found = kernels.backward(grad, torch.zeros(shape), given, [True])
        assert (found.shape, found.dtype) == (params.shape, dtype)

    assert bound == ["forward_kernel", "backward_kernel"] * 2


@each_launch((2, 48, 16, 14), (5, 3, 7, 1), (1, 1, 1, 1))
def test_masked_conv2d_launches_for_layouts_gates_and_groups(bound, shape, dtype):
    kernels = pytest.importorskip("dgm_fast.ops.masked_conv2d.kernels")
    x, weight = torch.ones(shape, dtype=dtype), torch.ones(2 * shape[1], shape[1], 3, 5).to(dtype)
    residual, bias = torch.ones(shape[0], 2 * shape[1], *shape[2:], dtype=dtype), weight[:, 0, 0, 0]
    grad_y = torch.ones((), dtype=dtype).expand_as(residual)

    for last, gated, rest in ((False, True, (None, None)), (True, False, (bias, residual))):
        x = x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        constants = (shape[1], last, 2, 1)
        y, kept = kernels.forward(x, weight, *rest, *constants, gated, gated, last)
        assert y.shape == (x.shape if gated else residual.shape)
        assert kept.shape[0] == (shape[0] if gated else 0)

        needs, kept = [True, True, True], kept if gated else None
        above = grad_y[:, : y.shape[1]]
        grads = kernels.backward(above, x, weight, kept, *constants, last, needs)
        assert [each.shape for each in grads[:3]] == [x.shape, weight.shape, bias.shape]

    product, sums = ["pack_kernel", "product_kernel"], ["grad_weight_kernel", "finish_kernel"]
    rest = [each for each in bound if each != "rows_kernel"]
    gate, plain = (
        ["gate_backward_kernel", "add_sums_kernel"],
        ["sum_pixels_kernel", "add_sums_kernel"],
    )
    assert rest == [*product, *gate, *product, *sums, *product, *plain, *product, *sums]
    # Turned are x, forward and backward, and the gate's gradient; and a gradient that is expanded.
    assert len(bound) - len(rest) == (4 if shape[1] > 1 else 1)


@each_launch((2, 48, 96), (3, 5, 37), (1, 1, 1))
def test_causal_conv1d_launches_for_states_and_depthwise(bound, shape, dtype):
    kernels = pytest.importorskip("dgm_fast.ops.causal_conv1d.kernels")
    channels, needs = shape[1], [True, True, True]
    x, grad_y = torch.ones(shape, dtype=dtype), torch.ones((), dtype=dtype)
    # Where there is one channel depthwise is dense.
    kinds = ((2 * channels, channels), (channels, 1)) if channels > 1 else ((2, 1),)
    for outs, per_group in kinds:
        weight = torch.ones(outs, per_group, 3, dtype=dtype)
        bias = weight[:, 0, 0]
        for whole, lead in ((x, 0), (torch.cat((x[..., :1].expand(-1, -1, 8), x), 2), 8)):
            y = kernels.forward(whole, weight, bias, 4, lead)
            above = grad_y.expand_as(y)
            grads = kernels.backward(above, whole, weight, bias, 4, lead, needs)
            assert y.shape == (shape[0], outs, shape[2])
            assert [each.shape for each in grads] == [whole.shape, weight.shape, bias.shape]

    assert set(bound) >= {"product_kernel", "grad_weight_kernel", "sum_pixels_kernel"}
    assert ("depthwise_weight_kernel" in bound) is (channels > 1)


@each_launch((2, 48, 96), (3, 5, 37), (1, 1, 1))
def test_wavenet_layer_launches_with_and_without_what_may_be_left_out(bound, shape, dtype):
    kernels = pytest.importorskip("dgm_fast.ops.wavenet_layer.kernels")
    channels = shape[1]
    x, weight = torch.ones(shape, dtype=dtype), torch.ones(4 * channels, channels, 2, dtype=dtype)
    late = torch.ones(channels, 2 * channels, 1, dtype=dtype)
    condition = torch.ones(shape[0], 4 * channels, shape[2], dtype=dtype)
    bias, late_bias = weight[:, 0, 0], late[:, 0, 0]

    for biases, given in (((bias, late_bias), condition), ((None, None), None)):
        arguments = (x, weight, biases[0], late, biases[1], given, 4)
        assert kernels.forward(*arguments, False)[2].shape[0] == 0
        y, z, kept = kernels.forward(*arguments, True)
        assert (y.shape, kept.shape) == (x.shape, condition.shape)

        rest = (x, weight, late, z, kept, 4, [True] * 5)
        grads = kernels.backward(y if given is None else None, z, *rest)
        tensors = (x, weight, bias, late, late_bias, condition)
        assert [each.shape for each in grads] == [each.shape for each in tensors]

    moves = {"gate_backward_kernel", "sum_pixels_kernel", "add_sums_kernel"}
    assert set(bound) >= {"layer_kernel", "grad_weight_kernel", *moves}
