"""Result files: one measurement a line, appended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from geometry_bench.errors import GeometryBenchError
from geometry_bench.records.arrays import put_back, read_arrays, references, taken_out, write_arrays
from geometry_bench.records.measurement import Measurement
from geometry_bench.records.migration import Data, parse
from geometry_bench.storage import append_line, digest_arrays, writable

RECORDS = "records.jsonl"
ARRAYS = "arrays"


class ResultsFile:
    """``records.jsonl`` of one results folder; long rows of numbers are in ``arrays`` beside it.

    The folder is made when the first measurement comes; that it can be is checked at once.

    Raises:
        GeometryBenchError: the folder cannot be created or written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORDS
        writable(self.path, remedy="choose another --results")

    def write(self, measurement: Measurement) -> None:
        """Add one measurement; a line is written whole, so that two runs into one folder do not mix their lines.

        Raises:
            GeometryBenchError: it cannot be written, for want of space or permission.
        """
        remedy = f"make room or choose another --results, and go on after {measurement.key} with --resume"
        data, arrays = taken_out(measurement.model_dump(mode="json"))
        if arrays:
            data["arrays"] = digest_arrays(arrays)
            write_arrays(self.path.parent / ARRAYS / f"{data['arrays']}.safetensors", arrays)
        append_line(self.path, json.dumps(data, ensure_ascii=False, allow_nan=False), remedy=remedy)

    def read(self) -> list[Measurement]:
        """All measurements in the order written; a last line cut short by a kill is passed over."""
        return list(read_measurements(self.path)) if self.path.exists() else []


def read_measurements(path: Path) -> Iterator[Measurement]:
    """Measurements of one file.

    Raises:
        GeometryBenchError: a line that was not cut short does not parse, or any line is of a newer schema.
    """

    def whole(data: Data) -> Data:
        name = data.pop("arrays", None)
        needed = next(references(data), None) is not None
        arrays = read_arrays(path.parent / ARRAYS / f"{name}.safetensors") if needed else {}
        return put_back(data, arrays, str(path))

    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise GeometryBenchError(f"{path} cannot be read ({error}): restore it, or give another folder.") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            measurement = parse(Measurement, line, f"{path} line {number}", whole)
        except GeometryBenchError as error:
            if "not valid JSON" in str(error) and line.count("{") > line.count("}"):
                continue  # cut in the middle by a kill: not all that was opened is closed; the case is measured again
            raise
        if measurement.inputs is not None:  # schema 1 kept lines of subjects that a run did not have
            yield measurement
