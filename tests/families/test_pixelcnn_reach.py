"""Which pixels a PixelCNN depends on, exactly: never a later one, and which of the earlier ones."""

from __future__ import annotations

import pytest
import torch

from tests.families.pixel_models import (
    FAMILIES,
    all_images,
    before,
    make_model,
    reach_of,
    rectangle,
    small,
    steps_of,
    through,
)

DEEP = {"pixelcnn": {"blocks": 8}, "gated": {"layers": 6}, "pp": {"scales": 3}}


def kernel_offsets(kernel, mask_type):
    m = kernel // 2
    above = rectangle(range(-m, 0), range(-m, m + 1))
    return above + [(0, c) for c in range(-m, 0)] + ([(0, 0)] if mask_type == "B" else [])


@pytest.mark.parametrize("output", ["bernoulli", "categorical", "logistic_mixture"])
@pytest.mark.parametrize("family", ["gated", "pp"])
def test_every_pixel_before_reaches_and_no_other(family, output, impl):
    H, W = 5, 6
    config = small(family, (H, W), output=output, levels=4, **DEEP[family])
    assert torch.equal(reach_of(make_model(config, impl=impl)), before(H, W))


@pytest.mark.parametrize("size", [(1, 7), (7, 1), (3, 5), (7, 4)], ids=str)
@pytest.mark.parametrize("family", ["gated", "pp"])
def test_odd_sizes(family, size):
    config = small(family, size, **DEEP[family], output="bernoulli")
    assert torch.equal(reach_of(make_model(config)), before(*size))


@pytest.mark.parametrize(
    ("first_kernel", "kernel", "blocks"), [(3, 3, 0), (3, 3, 8), (7, 3, 2), (5, 5, 1)]
)
def test_pixelcnn_reaches_what_paths_through_its_masks_reach(first_kernel, kernel, blocks, impl):
    H, W = 6, 7
    config = small(
        "pixelcnn", (H, W), first_kernel=first_kernel, kernel=kernel, blocks=blocks, channels=24
    )
    expected = steps_of(kernel_offsets(first_kernel, "A"), H, W)
    block = steps_of(kernel_offsets(kernel, "B"), H, W)
    for _ in range(blocks):
        expected = through(block, expected)

    assert torch.equal(reach_of(make_model(config, impl=impl)), expected)


def test_pixelcnn_has_its_blind_spot_however_deep_it_is():
    H, W = 6, 7
    reach = reach_of(make_model(small("pixelcnn", (H, W), blocks=10, channels=24)))

    # Each row up, a 3 x 3 kernel moves on by one column at most: further right it is blind.
    r, c = torch.arange(H * W) // W, torch.arange(H * W) % W
    up, right = r[:, None] - r, c - c[:, None]
    blind = before(H, W) & (right > up) & (up > 0)
    assert int(blind.sum()) > 100
    assert torch.equal(reach, before(H, W) & ~blind)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_shallow_gated_stacks_have_no_hole(layers):
    H, W = 7, 8
    config = small("gated", (H, W), first_kernel=5, layers=layers)
    sides, own = torch.arange(-1, 2).tolist(), torch.eye(H * W, dtype=torch.bool)
    v = steps_of(rectangle((-2, -1), range(-2, 3)), H, W)
    h = steps_of(rectangle((0,), (-2, -1)), H, W) | v
    for _ in range(layers):
        v = through(steps_of(rectangle((-1, 0), sides), H, W), v)
        h = h | through(steps_of([(0, -1), (0, 0)], H, W), h) | through(own, v)

    assert torch.equal(reach_of(make_model(config)), h)
    assert_rows_are_whole(h, H, W)


def test_shallow_shifted_streams_have_no_hole():
    H, W = 9, 9
    down = steps_of(rectangle((-1, 0), (-1, 0, 1)), H, W)
    down_right = steps_of(rectangle((-1, 0), (-1, 0)), H, W)

    def block(u, ul, passed_u=None, passed_ul=None):
        none = torch.zeros_like(u)
        u = u | through(down, through(down, u) | (none if passed_u is None else passed_u))
        beside = u | (none if passed_ul is None else passed_ul)
        return u, ul | through(down_right, through(down_right, ul) | beside)

    first = (
        steps_of(rectangle((-2, -1), (-1, 0, 1)), H, W),
        steps_of([(-1, -1), (-1, 0), (-1, 1), (0, -1)], H, W),
    )
    second = block(*first)
    _, expected = block(*second, *first)

    config = small("pp", (H, W), blocks=1, scales=1, output="bernoulli")
    assert torch.equal(reach_of(make_model(config)), expected)
    assert_rows_are_whole(expected, H, W)


def assert_rows_are_whole(reach, H, W):
    """Of each row above, a pixel sees one stretch around its own column, as far to either side."""
    for pixel, row in enumerate(reach.view(H * W, H, W)):
        r, c = divmod(pixel, W)
        for above in range(r):
            columns = row[above].nonzero().flatten().tolist()
            if columns:
                assert columns == list(range(columns[0], columns[-1] + 1))
                assert columns[0] <= c <= columns[-1]
                # The way to the right is at least as long as that to the left, up to the edge.
                assert columns[-1] - c >= min(W - 1 - c, 1)


@pytest.mark.parametrize("output", ["bernoulli", "categorical"])
@pytest.mark.parametrize("family", ["pixelcnn", "gated"])
def test_channels_of_a_pixel_come_one_after_another(family, output, impl):
    H, W = 3, 3
    # Wide enough that no group of channels is all zero behind a ReLU.
    width = {"channels": 48, "head_channels": 48}
    config = small(family, (3, H, W), output=output, levels=4, **DEEP[family], **width)
    reach = reach_of(make_model(config, impl=impl))
    expected = before(H, W, channels=3, steps=3)

    if family == "gated":
        assert torch.equal(reach, expected)
        return
    # Of the first column, the far end of the row above is blind.
    blind = expected & ~reach
    assert not bool((reach & ~expected).any())
    pixels = blind.view(9, 3, 9, 3)
    assert torch.equal(pixels.any(3).any(1), pixels.all(3).all(1))
    assert pixels.any(3).any(1).nonzero().tolist() == [[3, 2], [6, 5]]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixture_of_colours_sees_whole_pixels_before_its_own(family):
    H, W = 3, 2
    config = small(family, (3, H, W), output="logistic_mixture", **DEEP[family])
    # Two columns have no blind spot.
    assert torch.equal(reach_of(make_model(config)), before(H, W, channels=3))


@pytest.mark.parametrize("family", FAMILIES)
def test_flipped_models_go_up(family):
    H, W = 4, 2
    config = small(family, (H, W), flip=True, output="bernoulli", **DEEP[family])
    reach = reach_of(make_model(config)).view(H, W, H, W)
    assert torch.equal(reach.flip(0, 2).view(H * W, H * W), before(H, W))


@pytest.mark.parametrize("family", ["gated", "pp"])
def test_labels_open_no_way_to_later_pixels(family):
    H, W = 4, 5
    config = small(family, (H, W), classes=3, output="bernoulli", **DEEP[family])
    model = make_model(config)
    labels = torch.arange(H * W) % 3
    assert torch.equal(reach_of(model, labels), before(H, W))

    # And they reach every pixel, the first one too.
    x = torch.zeros(2, H, W)
    first, second = model(x, torch.tensor([0, 1]))
    assert bool((first != second).all())


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_equal_where_the_pixels_before_are(family, impl):
    """The same without derivatives: kernels read no pixel that they should not."""
    config = small(family, (3, 3), output="bernoulli")
    model = make_model(config, impl=impl)
    images = all_images((3, 3), 2).float()
    with torch.no_grad():
        outputs = model(images).flatten(1)

    # In counting order, images that agree on the first i pixels are neighbours.
    for i in range(9):
        groups = outputs[:, : i + 1].view(2**i, -1, i + 1)
        torch.testing.assert_close(groups, groups[:, :1].expand_as(groups), rtol=0, atol=1e-6)
