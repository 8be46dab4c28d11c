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


def taken_out(data: Data, prefix: str = "", known: dict[str, str] | None = None) -> tuple[Data, dict[str, Any]]:
    """A dumped measurement or baseline case without its arrays and long rows, and these by name.

    ``known`` are names by content of what other cases of the file hold: what is the same is kept once.
    """
    arrays: dict[str, Any] = {}
    names = {} if known is None else known

    def place(name: str, array: Any) -> str:
        found = names.setdefault(digest_arrays({"": array}), name)
        if found == name:
            arrays[name] = array
        return found

    estimates = {}
    for variant, estimate in data["estimates"].items():
        units = estimate["units"]
        if units is not None and len(units["values"]) > INLINE:
            row = np.array([np.nan if x is None else x for x in units["values"]], dtype=np.float64)
            estimate = {**estimate, "units": {**units, "values": place(f"{prefix}{variant}.units", row)}}
        kept = {
            key: place(f"{prefix}{variant}.arrays.{key}", Packed(**packed).array)
            for key, packed in estimate["arrays"].items()
        }
        estimates[variant] = {**estimate, "arrays": kept}
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
