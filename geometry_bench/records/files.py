"""Result and baseline files: append-only lines for results, whole files replaced at once for baselines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geometry_bench.errors import GeometryBenchError
from geometry_bench.records.schema import Baseline, BaselineCase, Record, parse
from geometry_bench.storage import append_line, writable

RECORDS = "records.jsonl"


class ResultsFile:
    """``records.jsonl`` of one results folder, one record a line.

    The folder is made when the first record comes; that it can be is checked at once.

    Raises:
        GeometryBenchError: the folder cannot be created or written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORDS
        writable(self.path, remedy="choose another --results")

    def append(self, record: Record) -> None:
        """Add one record; a line is written whole, so that two runs into one folder do not mix their lines.

        Raises:
            GeometryBenchError: it cannot be written, for want of space or permission.
        """
        remedy = f"make room or choose another --results, and go on after {record.key} with --resume"
        append_line(self.path, record.model_dump_json(), remedy=remedy)

    def read(self) -> list[Record]:
        """All records in the order written; a last line cut short by a kill is passed over."""
        return list(read_records(self.path)) if self.path.exists() else []


def read_records(path: Path) -> Iterator[Record]:
    """Records of one file.

    Raises:
        GeometryBenchError: a line that was not cut short does not parse, or any line is of a newer schema.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield parse(Record, line, f"{path} line {number}")
        except GeometryBenchError as error:
            if "not valid JSON" in str(error) and line.count("{") > line.count("}"):
                continue  # cut in the middle by a kill: not all that was opened is closed; the case is measured again
            raise


def folder_name(subject: str) -> str:
    """``org/name`` as a folder: ``org__name``."""
    return subject.replace("/", "__")


def revision_name(revision: str) -> str:
    """A revision as a folder: a commit whole, a content hash by its first 16 digits."""
    kind, _, digest = revision.partition(":")
    return f"{kind}-{digest[:16]}" if digest else revision


def settings_name(subject: Mapping[str, Any]) -> str:
    """What a baseline file is named after: dtype, attention kernel and, where there is one, the adapter."""
    parts = [str(subject["dtype"]), str(subject["attention"])]
    if subject.get("quantisation") not in (None, "none"):
        parts.append(str(subject["quantisation"]))
    if subject.get("adapter_hash"):
        parts.append("adapter-" + str(subject["adapter_hash"]).split(":")[-1][:12])
    return "-".join(parts)


@dataclass(frozen=True)
class Found:
    """A baseline file and where it lies."""

    path: Path
    baseline: Baseline


@dataclass(frozen=True)
class BaselineStore:
    """Measured baselines: ``ROOT/org__name/revision/dtype-kernel.json``, searched in order of ``roots``.

    Only the first root is ever written.
    """

    roots: tuple[Path, ...]

    def revisions(self, name: str) -> list[str]:
        """Names of the revision folders stored for a subject."""
        folders = (root / folder_name(name) for root in self.roots)
        return sorted(
            {entry.name for folder in folders if folder.is_dir() for entry in folder.iterdir() if entry.is_dir()}
        )

    def names(self) -> list[str]:
        """Subjects that have baselines."""
        return sorted({str(found.baseline.subject["name"]) for found in self.all()})

    def path(self, subject: Mapping[str, Any]) -> Path:
        """Where the baseline of a subject is written."""
        place = Path(folder_name(str(subject["name"]))) / revision_name(str(subject["revision"]))
        return self.roots[0] / place / f"{settings_name(subject)}.json"

    def find(self, name: str, revision: str, subject: Mapping[str, Any]) -> Found | None:
        """The stored baseline of a subject's revision: with the same settings where there is one, else any other."""
        for root in self.roots:
            folder = root / folder_name(name) / revision_name(revision)
            exact = folder / f"{settings_name(subject)}.json"
            others = sorted(folder.glob("*.json")) if folder.is_dir() else []
            for path in [exact, *others]:
                if path.is_file():
                    return Found(path, read_baseline(path))
        return None

    def all(self, name: str | None = None) -> list[Found]:
        """Every stored baseline, or every one of a subject."""
        pattern = f"{folder_name(name) if name else '*'}/*/*.json"
        return [Found(path, read_baseline(path)) for root in self.roots for path in sorted(root.glob(pattern))]


def read_baseline(path: Path) -> Baseline:
    """One baseline file.

    Raises:
        GeometryBenchError: it is damaged or of a newer schema.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GeometryBenchError(
            f"The baseline {path} cannot be read ({error}): restore it from version control."
        ) from None
    return parse(Baseline, text, f"The baseline {path}")


UPDATE_MODES = ("new", "changed", "trim")


def updated(
    old: Baseline | None, records: Sequence[Record], modes: Iterable[str], reason: str, known: frozenset[str]
) -> Baseline:
    """A baseline after an update: cases without a value are added (``new``), cases whose stored value, verdict or inputs
    differ are replaced (``changed``), cases that no claim declares any more are dropped (``trim``).

    ``known`` are the case keys of all declared claims, so that a partial run trims nothing it merely did not measure.
    """
    modes = set(modes)
    cases = dict(old.cases) if old else {}
    if "trim" in modes:
        cases = {key: case for key, case in cases.items() if key in known}
    for record in records:
        stored = cases.get(record.key)
        if (stored is None and "new" in modes) or (
            stored is not None and "changed" in modes and _differs(stored, record)
        ):
            cases[record.key] = BaselineCase(
                claim_version=record.claim_version,
                inputs=record.inputs,
                estimates=record.estimates,
                claim=record.verdicts.claim,
                claim_reason=record.verdicts.claim_reason,
                reason=reason,
                environment=record.environment,
            )
    return Baseline(
        subject=records[0].subject if records else (old.subject if old else {}), cases=dict(sorted(cases.items()))
    )


def _differs(stored: BaselineCase, record: Record) -> bool:
    return (
        stored.estimates != record.estimates
        or stored.claim != record.verdicts.claim
        or stored.claim_version != record.claim_version
        or stored.inputs != record.inputs
    )
