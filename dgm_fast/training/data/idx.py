"""IDX files, the format of MNIST, read whole and checked byte by byte."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["find_idx", "read_idx"]

UNSIGNED_BYTE = 0x08


def find_idx(root: Path, name: str) -> Path:
    """Find an IDX file under its usual names: `-idx3-` or `.idx3-`, plain or gzipped.

    Raises:
        FileNotFoundError: none of the names is there; the message lists them.
    """
    names = [name, f"{name}.gz", name.replace("-idx", ".idx"), f"{name.replace('-idx', '.idx')}.gz"]
    for candidate in names:
        if (root / candidate).is_file():
            return root / candidate

    wanted = " or ".join(names[:2])
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; expected one that holds {wanted}")
    raise FileNotFoundError(f"{root / name} is missing; expected {wanted} (an IDX file) in {root}")


def read_idx(path: Path, shape: tuple[int, ...] | None = None) -> Tensor:
    r"""Read an IDX file of unsigned bytes, plain or gzipped (known by its first two bytes).

    The header is two zero bytes, the type code 0x08, the number of dimensions n and n big-endian
    uint32 sizes $d_1, \dots, d_n$; then follow exactly $\prod_i d_i$ bytes.

    Shapes:
        Returns $(d_1, \dots, d_n)$, uint8. With `shape` given, the sizes must equal it.

    Raises:
        ValueError: the gzip stream is damaged, or the magic number, the sizes or the byte count
            differ from what the format (or `shape`) says. The message names the file.
        OSError: the file cannot be opened.
    """
    content = _read_bytes(path)
    ndim = len(shape) if shape is not None else (content[3] if len(content) > 3 else 0)
    header_bytes, magic = 4 + 4 * ndim, UNSIGNED_BYTE << 8 | ndim

    found_magic = int.from_bytes(content[:4], "big")
    if len(content) >= 4 and found_magic != magic:
        raise ValueError(
            f"{path}: not the expected IDX file, expected magic 0x{magic:08x} (unsigned bytes, "
            f"{ndim} dimensions), found 0x{found_magic:08x}"
        )
    if len(content) < header_bytes:
        raise ValueError(
            f"{path}: truncated header, expected {header_bytes} bytes, found {len(content)}"
        )
    sizes = struct.unpack_from(f">{ndim}I", content, 4)
    if shape is not None and sizes != shape:
        raise ValueError(f"{path}: expected dimensions {shape}, found {sizes}")

    expected, found = math.prod(sizes), len(content) - header_bytes
    if found != expected:
        state = "truncated" if found < expected else "too long"
        raise ValueError(
            f"{path}: {state}, expected {expected} data bytes for dimensions {sizes}, found {found}"
        )
    return torch.frombuffer(bytearray(content[header_bytes:]), dtype=torch.uint8).reshape(sizes)


def _read_bytes(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix != ".gz" and content[:2] != b"\x1f\x8b":
        return content

    # BadGzipFile also covers a wrong CRC or length in the trailer; EOFError a cut stream.
    try:
        return gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path}: damaged gzip stream ({error}); expected a whole gzipped IDX file, "
            f"{len(content)} compressed bytes found"
        ) from error
