from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch

from dgm_fast.training.data import (
    DataConfig,
    load_dataset,
    load_digits,
    load_mnist,
    make_dataset,
    read_idx,
    train_batches,
)

RAMP = (torch.arange(3 * 4 * 5) % 251).to(torch.uint8).reshape(3, 4, 5)


def idx_bytes(array, magic=None):
    sizes = array.shape
    header = struct.pack(f">{1 + len(sizes)}I", magic or 0x800 | len(sizes), *sizes)
    return header + array.numpy().tobytes()


@pytest.fixture(scope="module")
def mnist_root(tmp_path_factory):
    """Files of MNIST's shape: the training images gzipped, every image one constant grey."""
    root = tmp_path_factory.mktemp("mnist")
    for name, count in (("train", 60_000), ("t10k", 10_000)):
        greys = (torch.arange(count) % 256).to(torch.uint8)
        content = idx_bytes(greys[:, None, None].expand(count, 28, 28).contiguous())
        path = root / f"{name}-images-idx3-ubyte"
        if name == "train":
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content, compresslevel=1))
        else:
            path.write_bytes(content)
    return root


@pytest.mark.parametrize("name", ["x-idx3-ubyte", "x-idx3-ubyte.gz", "x.idx3-ubyte.gz"])
def test_read_idx_reads_plain_and_gzipped(tmp_path, name):
    content = idx_bytes(RAMP)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert torch.equal(read_idx(path), RAMP)
    assert torch.equal(read_idx(path, (3, 4, 5)), RAMP)


def test_read_idx_reads_labels(tmp_path):
    labels = torch.arange(10, dtype=torch.uint8)
    (tmp_path / "labels").write_bytes(idx_bytes(labels))
    assert torch.equal(read_idx(tmp_path / "labels"), labels)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b[:-7], "truncated, expected 60 data bytes .* found 53"),
        (lambda b: b + b"zz", "too long, expected 60 data bytes .* found 62"),
        (lambda b: b[:9], "truncated header, expected 16 bytes, found 9"),
        (lambda b: b"", "truncated header, expected 16 bytes, found 0"),
        (lambda b: b"PK\x03\x04" + b[4:], "expected magic 0x00000803 .* found 0x504b0304"),
        (lambda b: idx_bytes(RAMP[0]), "expected magic 0x00000803 .* found 0x00000802"),
        (lambda b: idx_bytes(RAMP[:2]), r"expected dimensions \(3, 4, 5\), found \(2, 4, 5\)"),
        (lambda b: gzip.compress(b)[:-20], "damaged gzip stream"),
        (lambda b: gzip.compress(b)[:-8] + bytes(8), "damaged gzip stream .*CRC"),
        (lambda b: b"\x1f\x8b" + b, "damaged gzip stream"),
    ],
    ids=["cut", "long", "header", "empty", "zip", "2-d", "sizes", "cut gz", "crc", "not gz"],
)
def test_damaged_idx_names_the_file_and_what_was_expected(tmp_path, damage, message):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(damage(idx_bytes(RAMP)))
    with pytest.raises(ValueError, match=rf"train-images-idx3-ubyte: .*{message}"):
        read_idx(path, (3, 4, 5))


def test_a_flipped_bit_in_a_gzipped_file_is_found(tmp_path):
    content = bytearray(gzip.compress(idx_bytes(RAMP), compresslevel=0))
    content[40] ^= 1
    path = tmp_path / "x.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.gz: damaged gzip stream .*CRC"):
        read_idx(path)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte is missing; expected"):
        load_mnist(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a folder"):
        load_mnist(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="data_root"):
        load_dataset(DataConfig(data="mnist"))


def test_mnist_has_the_official_split(mnist_root):
    mnist = load_mnist(mnist_root, "none")
    assert (mnist.levels, mnist.event_shape, mnist.features) == (256, (28, 28), 784)
    assert [len(s) for s in (mnist.train, mnist.validation, mnist.test)] == [50_000, 10_000, 10_000]
    assert mnist.train[257, 0] == 1
    assert mnist.validation[0, 783] == 50_000 % 256
    assert mnist.test[9_999, 5] == 9_999 % 256


def test_static_binarization_draws_the_grey_levels_once(mnist_root):
    mnist = load_mnist(mnist_root, "static")
    assert mnist.levels == 2
    assert set(mnist.test.unique().tolist()) == {0.0, 1.0}
    # Image n is Bernoulli(n % 256 / 255): 256 images of each level, 784 pixels each.
    for level in (0, 51, 204, 255):
        ink = mnist.train[level::256].mean().item()
        count = mnist.train[level::256].numel()
        p = level / 255
        assert abs(ink - p) <= 5 * (p * (1 - p) / count) ** 0.5, level
    again = load_mnist(mnist_root, "static")
    assert torch.equal(mnist.train, again.train)
    assert torch.equal(mnist.test, again.test)


def test_fixed_draws_are_those_of_every_machine():
    # These figures guard published likelihoods: another draw is another test set.
    digits = load_digits("static")
    weights = torch.arange(1, 65, dtype=torch.float64)
    sums = [int((split.double() @ weights).sum()) for split in (digits.train, digits.test)]
    assert sums == [823131, 159557]


def test_dynamic_binarization_is_fresh_for_training_and_fixed_for_evaluation():
    digits, static = load_digits("dynamic"), load_digits("static")
    assert torch.equal(digits.test, static.test)
    assert torch.equal(digits.validation, static.validation)

    first, second = (next(train_batches(digits, 1297, seed=0, epoch=e)).x for e in (0, 1))
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert first.mean().item() == pytest.approx(second.mean().item(), abs=0.01)
    # The same rows in another order would have the same ink in every column.
    assert not torch.equal(first.sum(0), second.sum(0))
    again = next(train_batches(digits, 1297, seed=0, epoch=0)).x
    assert torch.equal(first, again)


def test_dequantized_values_fill_the_unit_interval():
    digits, grey = load_digits("dequantized"), load_digits("none")
    assert digits.continuous
    assert digits.levels == 17
    assert torch.equal((digits.test * 17).floor(), grey.test)
    assert 0 <= digits.test.min() < 0.001
    assert 0.999 < digits.test.max() < 1
    batch = next(train_batches(digits, 1297, seed=0, epoch=0)).x
    assert (batch * 17).frac().mean().item() == pytest.approx(0.5, abs=0.01)


def test_digits_splits_are_a_partition_of_the_images():
    from sklearn.datasets import load_digits as load_bundled

    digits = load_digits("none")
    assert [len(s) for s in (digits.train, digits.validation, digits.test)] == [1297, 250, 250]
    rows = torch.cat([digits.train, digits.validation, digits.test]).numpy()
    bundled = load_bundled().data.astype(np.float32)
    order = [np.lexsort(array.T) for array in (rows, bundled)]
    assert np.array_equal(rows[order[0]], bundled[order[1]])
    assert not np.array_equal(rows, bundled)


def test_an_epoch_holds_every_row_once_and_orders_differ():
    rows = torch.arange(60, dtype=torch.uint8).reshape(60, 1, 1)
    data = make_dataset("rows", (rows, rows, rows), 61)
    epochs = {
        (seed, epoch): torch.cat(
            [batch.x for batch in train_batches(data, 20, seed=seed, epoch=epoch)]
        ).flatten()
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    for order in epochs.values():
        assert order.sort().values.tolist() == list(range(60))
    assert len({tuple(order.tolist()) for order in epochs.values()}) == 4


def test_batches_continue_in_the_middle_of_an_epoch(dataset):
    whole = list(train_batches(dataset, 20, seed=4, epoch=2))
    rest = list(train_batches(dataset, 20, seed=4, epoch=2, start=4))
    assert len(whole) == 6
    assert [torch.equal(a.x, b.x) for a, b in zip(whole[4:], rest, strict=True)] == [True, True]


def test_shards_of_all_processes_make_the_batch_of_one(dataset):
    (whole, *_) = train_batches(dataset, 20, seed=0, epoch=0)
    shards = [
        next(train_batches(dataset, 20, seed=0, epoch=0, rank=rank, world_size=4)).x
        for rank in range(4)
    ]
    assert torch.equal(torch.stack(shards, 1).flatten(0, 1), whole.x)


def test_labels_keep_to_their_rows_on_every_process():
    rows = torch.arange(60, dtype=torch.uint8).reshape(60, 1, 1)
    labels = torch.arange(60) % 7
    data = make_dataset("rows", (rows,) * 3, 61, "none", (labels,) * 3, classes=7)

    for rank in range(2):
        for batch in train_batches(data, 20, seed=3, epoch=1, rank=rank, world_size=2):
            assert torch.equal(batch.labels, batch.x.long().flatten() % 7)

    x, some = data.split("test", 5)
    assert torch.equal(some, x.long().flatten() % 7)


def test_labels_of_digits_name_the_digit_that_is_drawn():
    from sklearn.datasets import load_digits as load_bundled

    digits, bundled = load_digits("none"), load_bundled()
    known = {row.tobytes(): label for row, label in zip(bundled.data, bundled.target, strict=True)}
    for x, label in zip(*digits.split("validation"), strict=True):
        assert known[x.double().numpy().tobytes()] == label


def test_bad_batch_sizes_and_binarizations_are_refused(dataset):
    with pytest.raises(ValueError, match=r"batch_size must lie in 1 \.\. 120 .*got 121"):
        next(train_batches(dataset, 121, seed=0, epoch=0))
    with pytest.raises(ValueError, match="multiple of 3"):
        next(train_batches(dataset, 20, seed=0, epoch=0, world_size=3))
    with pytest.raises(ValueError, match=r"binarization .*got 'otsu'"):
        make_dataset("x", (RAMP, RAMP, RAMP), 256, "otsu")
