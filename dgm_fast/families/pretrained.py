"""Saving a model to a directory and loading it back: safetensors beside a config.json."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

import dgm_fast

__all__ = ["Pretrained", "family_of"]

WEIGHTS = "model.safetensors"
CONFIG = "config.json"

Model = TypeVar("Model", bound="Pretrained")


class Pretrained:
    """Gives an `nn.Module` built as `Model(config, impl=...)` a home on disk.

    A subclass sets the two class attributes and keeps its configuration in `config`.

    Attributes:
        family: name that tells the checkpoints of one model from those of another.
        config_class: frozen dataclass of hyperparameters whose values JSON can hold.
    """

    family: ClassVar[str]
    config_class: ClassVar[type]

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write `model.safetensors` and `config.json`, making the directory if need be.

        Each file is written beside its place and moved there whole: a crash leaves the old file
        or the new one, never half of one.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)

        # safetensors refuses views; a tensor that is contiguous already is not copied.
        weights = {name: value.contiguous() for name, value in self.state_dict().items()}
        config = {
            "family": self.family,
            "version": dgm_fast.__version__,
            "config": dataclasses.asdict(self.config),
        }
        text = json.dumps(config, indent=2) + "\n"

        _write_whole(folder / WEIGHTS, lambda path: safetensors.torch.save_file(weights, path))
        _write_whole(folder / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))

    @classmethod
    def from_pretrained(
        cls: type[Model],
        directory: str | os.PathLike[str],
        *,
        impl: str = "auto",
        device: torch.device | str = "cpu",
    ) -> Model:
        """Build the model that `save_pretrained` wrote, in evaluation mode.

        Arguments:
            directory: as given to `save_pretrained`.
            impl: as in the model's constructor; a checkpoint does not depend on it.
            device: where to put the model.

        Precision:
            Parameters keep the dtype they were saved in.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is damaged, holds another family or does not fit the configuration.
        """
        folder = Path(directory)
        config = _read_config(folder / CONFIG, cls)
        weights = _read_weights(folder / WEIGHTS)

        model = cls(config, impl=impl)
        try:
            model.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            raise ValueError(
                f"{folder / WEIGHTS} does not fit {folder / CONFIG}: {error}"
            ) from error

        return model.to(device).eval()


def family_of(directory: str | os.PathLike[str]) -> str:
    """Return the name of the family whose model `save_pretrained` wrote to a directory.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: it is damaged.
    """
    return _read_json(Path(directory) / CONFIG)["family"]


def _write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: save_pretrained writes it")

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error

    if not isinstance(content, dict) or not {"family", "config"} <= content.keys():
        raise ValueError(f"{path} must hold an object with the keys family and config")

    return content


def _read_config(path: Path, model: type[Pretrained]) -> Any:
    content = _read_json(path)
    if content["family"] != model.family:
        raise ValueError(
            f"{path} holds a model of family {content['family']!r}; "
            f"{model.__name__} loads {model.family!r}"
        )

    try:
        return model.config_class(**content["config"])
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path} (written by dgm_fast {content.get('version')}) does not fit "
            f"{model.config_class.__name__}: {error}"
        ) from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: save_pretrained writes it")

    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
