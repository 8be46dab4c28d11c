"""Measurements with the file that each came from, read from results folders, baselines, and folders of baselines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from geometry_bench.errors import GeometryBenchError
from geometry_bench.records.baselines import read_baseline
from geometry_bench.records.files import RECORDS, read_measurements
from geometry_bench.records.measurement import Measurement, was_asked

Place = tuple[str, str, str, str]
"""Subject, revision, settings and case: what one value stands for."""


@dataclass(frozen=True)
class Kept:
    """A measurement and the file that holds it; ``stored`` says that this is a baseline."""

    measurement: Measurement
    file: Path
    stored: bool = False

    @property
    def place(self) -> Place:
        """What it is a value of."""
        return *self.measurement.whose, self.measurement.key


def read_kept(place: Path) -> list[Kept]:
    """Measurements of a results folder, of a file in one, of a baseline, or of all baselines below a folder.

    Runs append to a results file: of a case that it holds several times the last counts, unless it was not asked for then.

    Raises:
        GeometryBenchError: there are none, or a file is damaged.
    """
    records = place / RECORDS if (place / RECORDS).is_file() else place
    if records.suffix == ".jsonl" and records.is_file():
        found = _last(Kept(one, records) for one in read_measurements(records))
    else:
        files = [place] if place.is_file() else sorted(place.rglob("*.json"))
        found = [Kept(one, file, stored=True) for file in files for one in read_baseline(file).measurements()]
    if not found:
        raise GeometryBenchError(
            f"{place} holds no measurements: give a results folder, a baseline file or a folder of them."
        )
    return found


def _last(kept: Iterable[Kept]) -> list[Kept]:
    found: dict[Place, Kept] = {}
    for one in kept:
        if one.place not in found or was_asked(one.measurement.missing):
            found[one.place] = one
    return list(found.values())


def one_each(kept: Iterable[Kept]) -> list[Kept]:
    """One of those that say the same of the same, whatever the order in which they were read.

    The environment is no part of what they say. A case that was not asked for says nothing: it gives way to one that was
    measured, and a baseline to a result.

    Raises:
        GeometryBenchError: two of one subject, revision, settings and case differ; both files are named.
    """
    found: dict[Place, Kept] = {}
    for one in sorted(kept, key=lambda one: (*one.place, one.stored, one.measurement.environment.model_dump_json())):
        other = found.setdefault(one.place, one)
        if other is one or not was_asked(one.measurement.missing):
            continue
        if not was_asked(other.measurement.missing):
            found[one.place] = one
        elif parts := _differing(other.measurement, one.measurement):
            name, revision, settings, case = one.place
            raise GeometryBenchError(
                f"{other.file} and {one.file} hold different measurements of {case} on {name} at {revision} ({settings}): "
                f"they differ in {', '.join(parts)}; leave one of them out."
            )
    return list(found.values())


def _differing(a: Measurement, b: Measurement) -> list[str]:
    """The parts in which two differ; what the loader was asked for is no difference where it led to the same settings."""
    ours, theirs = a.content(), b.content()
    for one in (ours, theirs):
        one["subject"].pop("requested", None)
    return [name for name in ours if ours[name] != theirs[name]]
