from __future__ import annotations

import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from dgm_fast.families import FAMILIES, MADE, MADEConfig, family_of, pretrained

CONFIG = MADEConfig(
    5, (8, 8), "categorical", categories=4, context_features=2, order=(3, 0, 4, 1, 2), direct=True
)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    MADE(CONFIG).save_pretrained(tmp_path / "deep" / "made")
    return tmp_path / "deep" / "made"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "config",
    [CONFIG, MADEConfig(6, (9,), order="random", num_masks=3, random_connectivity=True, seed=4)],
    ids=["given order", "random masks"],
)
def test_round_trip_is_bitwise(tmp_path, config, dtype):
    model = MADE(config).to(dtype).eval()
    model.save_pretrained(str(tmp_path))

    loaded = MADE.from_pretrained(str(tmp_path))

    assert loaded.config == config
    assert not loaded.training
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    assert all(p.requires_grad for p in loaded.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name

    x = torch.randint(0, 2, (7, config.features))
    context = (torch.randn(7, 2),) if config.context_features else ()
    assert torch.equal(loaded.log_prob(x, *context), model.log_prob(x, *context))


def test_the_files(folder):
    content = json.loads((folder / "config.json").read_text())

    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert content["family"] == "made"
    assert content["config"]["order"] == [3, 0, 4, 1, 2]
    assert FAMILIES[family_of(folder)] is MADE


def test_the_implementation_is_the_readers_choice(folder):
    loaded = MADE.from_pretrained(folder, impl="reference")
    assert all(layer.impl == "reference" for layer in loaded.layers)
    assert loaded.direct.impl == "reference"


def test_weights_that_are_views(tmp_path):
    model = MADE(CONFIG)
    weight = model.layers[0].weight
    weight.data = weight.data.t().contiguous().t()
    model.save_pretrained(tmp_path)

    assert torch.equal(MADE.from_pretrained(tmp_path).layers[0].weight, weight)


def test_saving_again_replaces(folder):
    other = MADE(replace(CONFIG, hidden=(3,)))
    other.save_pretrained(folder)
    assert MADE.from_pretrained(folder).config.hidden == (3,)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"made/{name} is missing"):
        MADE.from_pretrained(folder)


def test_a_truncated_weights_file_is_named(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a whole safetensors file"):
        MADE.from_pretrained(folder)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", r"config\.json is not valid JSON"),
        ("[]", r"config\.json must hold an object with the keys family and config"),
        ('{"family": "made"}', r"config\.json must hold an object with the keys"),
        ('{"family": "maf", "config": {}}', r"config\.json .*'maf'; MADE loads 'made'"),
        ('{"family": "made", "config": {"features": 5, "colour": 1}}', r"config\.json .*colour"),
        ('{"family": "made", "config": {"features": 0}}', r"config\.json .*features must be"),
        ('{"family": "made", "config": {"features": 5}}', r"model\.safetensors does not fit"),
        ('{"family": "made", "config": {"features": 5, "hidden": [8, 7]}}', "size mismatch"),
    ],
    ids=["syntax", "list", "keys", "family", "unknown key", "value", "keys of weights", "shapes"],
)  # fmt: skip
def test_a_config_that_does_not_fit_is_named(folder, text, match):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=match):
        MADE.from_pretrained(folder)


def test_a_crash_while_writing_keeps_the_old_files(folder, monkeypatch):
    def crash(weights, path):
        path.write_bytes(b"half")
        raise OSError("no space left")

    before = MADE.from_pretrained(folder).state_dict()
    monkeypatch.setattr(pretrained.safetensors.torch, "save_file", crash)
    with pytest.raises(OSError, match="no space left"):
        MADE(CONFIG).save_pretrained(folder)

    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    after = safetensors.torch.load_file(folder / "model.safetensors")
    assert all(torch.equal(after[name], value) for name, value in before.items())
