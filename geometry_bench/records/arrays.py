"""Long rows of numbers are kept in a safetensors file beside the json, short ones in the json itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from geometry_bench.errors import GeometryBenchError
from geometry_bench.storage import Arrays, digest_arrays, replacing

INLINE = 64
"""Rows of more numbers than this leave the json."""

Data = dict[str, Any]


def taken_out(data: Data, prefix: str = "") -> tuple[Data, dict[str, Any]]:
    """A dumped measurement or baseline case without its long rows, and these by name."""
    arrays: dict[str, Any] = {}
    estimates = {}
    for variant, estimate in data["estimates"].items():
        units = estimate["units"]
        if units is not None and len(units["values"]) > INLINE:
            name = f"{prefix}{variant}.units"
            arrays[name] = np.array([np.nan if x is None else x for x in units["values"]], dtype=np.float64)
            estimate = {**estimate, "units": {**units, "values": name}}
        estimates[variant] = estimate
    return {**data, "estimates": estimates}, arrays


def references(data: Data) -> Iterator[Data]:
    """The units of a dumped case whose values were taken out."""
    for estimate in data.get("estimates", {}).values():
        units = estimate.get("units")
        if units is not None and isinstance(units.get("values"), str):
            yield units


def put_back(data: Data, arrays: Arrays, where: str) -> Data:
    """The dumped case with its long rows, in place.

    Raises:
        GeometryBenchError: one of them is not among ``arrays``.
    """
    for units in references(data):
        name = units["values"]
        if name not in arrays:
            raise GeometryBenchError(f"{where} lacks the numbers {name}: restore the safetensors file beside it.")
        units["values"] = arrays[name].tolist()
    return data


def write_arrays(path: Path, arrays: Arrays) -> None:
    """One safetensors file, whole or not at all."""
    from safetensors.numpy import save_file

    try:
        with replacing(path) as temporary:
            save_file(dict(arrays), temporary, metadata={"sha256": digest_arrays(arrays)})
    except OSError as error:
        raise GeometryBenchError(
            f"{path} cannot be written ({error.strerror}): make room, or choose another folder."
        ) from None


def read_arrays(path: Path) -> Arrays:
    """The arrays of a file.

    Raises:
        GeometryBenchError: it is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            if (file.metadata() or {}).get("sha256") == digest_arrays(arrays):
                return arrays
    except (OSError, SafetensorError):
        pass
    raise GeometryBenchError(f"{path} is missing or damaged: restore it, or measure again without --resume.")
