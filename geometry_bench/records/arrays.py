"""Arrays and long rows of numbers are kept in a safetensors file beside the json, short rows in the json itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from geometry_bench.errors import GeometryBenchError
from geometry_bench.records.estimates import Packed
from geometry_bench.storage import Arrays, digest_arrays, replacing

INLINE = 64
"""Rows of more numbers than this leave the json."""

Data = dict[str, Any]


def taken_out(data: Data, prefix: str = "") -> tuple[Data, dict[str, Any]]:
    """A dumped measurement or baseline case without its arrays and long rows, and these by name."""
    arrays: dict[str, Any] = {}
    estimates = {}
    for variant, estimate in data["estimates"].items():
        units = estimate["units"]
        if units is not None and len(units["values"]) > INLINE:
            name = f"{prefix}{variant}.units"
            arrays[name] = np.array([np.nan if x is None else x for x in units["values"]], dtype=np.float64)
            estimate = {**estimate, "units": {**units, "values": name}}
        names = {key: f"{prefix}{variant}.arrays.{key}" for key in estimate["arrays"]}
        arrays |= {name: Packed(**estimate["arrays"][key]).array for key, name in names.items()}
        estimates[variant] = {**estimate, "arrays": names}
    return {**data, "estimates": estimates}, arrays


def references(data: Data) -> Iterator[str]:
    """Names of what was taken out of a dumped case."""
    for estimate in data.get("estimates", {}).values():
        units = estimate.get("units")
        if units is not None and isinstance(units.get("values"), str):
            yield units["values"]
        yield from estimate.get("arrays", {}).values()


def put_back(data: Data, arrays: Arrays, where: str) -> Data:
    """The dumped case with its arrays and long rows, in place.

    Raises:
        GeometryBenchError: one of them is not among ``arrays``.
    """
    for name in references(data):
        if name not in arrays:
            raise GeometryBenchError(f"{where} lacks the numbers {name}: restore the safetensors file beside it.")
    for estimate in data.get("estimates", {}).values():
        units = estimate.get("units")
        if units is not None and isinstance(units.get("values"), str):
            units["values"] = arrays[units["values"]].tolist()
        estimate["arrays"] = {
            key: Packed.of(arrays[name]).model_dump() for key, name in estimate.get("arrays", {}).items()
        }
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
