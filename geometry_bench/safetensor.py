"""Slices of the tensors in a safetensors file, as float32, without mapping the file into memory.

A mapped file counts towards the memory of the process as it is read; plain reads at an offset do not, and bfloat16, which
NumPy lacks, becomes float32 exactly. The file is opened again for each slice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geometry_bench.errors import GeometryBenchError

Array32 = NDArray[np.float32]

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
READABLE = (*_NUMPY, "BF16")
"""The stored types that are read as float32: without loss, but for float64, which is rounded to it."""
SLICE_ENTRIES = 4_000_000
"""About how many entries of a tensor are read at a time: 16 MB in float32."""
_LARGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class Stored:
    """One tensor as a file's header declares it; ``begin``, its first byte, counts from the start of the file."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    bytes: int

    @property
    def rows(self) -> int:
        """Length of the first dimension; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


def read_header(file: Path) -> Mapping[str, Stored]:
    """The tensors of a file, by name; no data are read.

    Raises:
        GeometryBenchError: not a safetensors file, or one that ends before its header or a tensor does.
    """
    try:
        length = file.stat().st_size
        with file.open("rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            if size > _LARGEST_HEADER:
                raise ValueError("it does not start with the length of a header")
            if length < 8 + max(size, 1):
                how = "cut short: it ends within its header" if length else "empty"
                raise GeometryBenchError(f"{file} is {how}; download or save it again.")
            content = json.loads(handle.read(size))
        content.pop("__metadata__", None)
        tensors = {name: _stored(file, name, entry, 8 + size) for name, entry in content.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise GeometryBenchError(f"{file} is not a readable safetensors file ({error}); download it again.") from None
    for name, tensor in tensors.items():
        if tensor.begin + tensor.bytes > length:
            raise GeometryBenchError(
                f"{file} is cut short: it ends within the tensor {name}; download or save it again."
            )
    return tensors


def read_headers(files: Iterable[Path]) -> dict[str, Stored]:
    """The tensors of several files (shards) together.

    Raises:
        GeometryBenchError: as ``read_header``; a tensor lies in two of them, where libraries differ in which one they take.
    """
    tensors: dict[str, Stored] = {}
    for file in files:
        for name, tensor in read_header(file).items():
            if name in tensors:
                raise GeometryBenchError(
                    f"The tensor {name} lies in {tensors[name].file} and in {file.name}; remove the one that the index does "
                    "not name, or save the model again."
                )
            tensors[name] = tensor
    return tensors


def _stored(file: Path, name: str, entry: Mapping[str, Any], data: int) -> Stored:
    first, last = entry["data_offsets"]
    tensor = Stored(file, name, str(entry["dtype"]), tuple(entry["shape"]), data + int(first), int(last) - int(first))
    asked = tensor.size * _BYTES.get(tensor.dtype, 0)
    if tensor.bytes < 0 or (asked and tensor.bytes != asked):  # types that are not read as floats are taken on trust
        raise ValueError(f"its tensor {name} has {tensor.bytes} bytes where its shape asks for {asked}")
    return tensor


def slices(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Ranges of rows (first, last) of about SLICE_ENTRIES each, in order; one range for a scalar."""
    rows = shape[0] if shape else 1
    step = max(1, SLICE_ENTRIES // max(1, math.prod(shape[1:])))
    for first in range(0, rows, step):
        yield first, min(rows, first + step)


def read_rows(tensor: Stored, first: int = 0, last: int | None = None) -> Array32:
    """Rows ``first`` to ``last`` (excluded; None: to the end) of a tensor in float32, exactly as stored but for float64.

    Raises:
        GeometryBenchError: the type is none of floats that are read, the file cannot be read, or an entry is NaN or infinite
            (or too large for float32).
    """
    if tensor.dtype not in READABLE:
        raise GeometryBenchError(
            f"The tensor {tensor.name} in {tensor.file} is stored as {tensor.dtype}; updates are taken between float64, "
            "float32, float16 and bfloat16 weights."
        )
    raw = read_raw(tensor, first, last)
    shape = (-1, *tensor.shape[1:]) if tensor.shape else ()
    values = to_float32(raw, tensor.dtype).reshape(shape)
    # The sum is finite if and only if all entries are, short of overflow, and costs no array of flags.
    if not np.isfinite(values.sum(dtype=np.float64)) and not np.isfinite(values).all():
        raise GeometryBenchError(
            f"The tensor {tensor.name} in {tensor.file} holds NaN or infinity; the checkpoint is damaged, take another."
        )
    return values


def read_raw(tensor: Stored, first: int = 0, last: int | None = None) -> NDArray[np.uint8]:
    """The bytes of rows ``first`` to ``last`` as they are in the file."""
    last = tensor.rows if last is None else last
    row = tensor.bytes // tensor.rows if tensor.rows else 0
    count = (last - first) * row
    try:
        raw = np.fromfile(tensor.file, dtype=np.uint8, count=count, offset=tensor.begin + first * row)
    except OSError as error:
        raise GeometryBenchError(f"{tensor.file} cannot be read ({error.strerror}).") from error
    if raw.size != count:
        raise GeometryBenchError(
            f"{tensor.file} is cut short: it ends within the tensor {tensor.name}; download it again."
        )
    return raw


def to_float32(raw: NDArray[np.uint8], dtype: str) -> Array32:
    """Little-endian bytes of F64, F32, F16 or BF16 as float32, flat; what is too large for it becomes infinite."""
    if dtype == "BF16":
        wide = raw.view("<u2").astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    with np.errstate(over="ignore"):
        return raw.view(_NUMPY[dtype]).astype(np.float32, copy=False)


def from_float32(values: Array32, dtype: str) -> NDArray[np.uint8]:
    """float32 as little-endian bytes of F64, F32, F16 or BF16, rounded to nearest, ties to even."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    if dtype == "BF16":
        wide = values.view(np.uint32)
        wide = wide + (((wide >> 16) & 1) + np.uint32(0x7FFF))
        return (wide >> 16).astype("<u2").view(np.uint8).reshape(-1)
    return values.astype(_NUMPY[dtype]).view(np.uint8).reshape(-1)
