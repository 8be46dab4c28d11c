"""Measured baselines: one file a subject's revision and settings, replaced as a whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from geometry_bench.errors import GeometryBenchError
from geometry_bench.records.arrays import put_back, read_arrays, references, taken_out, write_arrays
from geometry_bench.records.facts import Facts
from geometry_bench.records.measurement import Baseline, BaselineCase, Measurement, was_asked
from geometry_bench.records.migration import Data, parse
from geometry_bench.resources import data_root
from geometry_bench.storage import write_atomically

UPDATE_MODES = ("new", "changed", "trim")


def folder_name(subject: str) -> str:
    """``org/name`` as a folder: ``org__name``."""
    return subject.replace("/", "__")


def revision_name(revision: str) -> str:
    """A revision as a folder: a commit whole, a content hash by its first 16 digits."""
    kind, _, digest = revision.partition(":")
    return f"{kind}-{digest[:16]}" if digest else revision


def short_revision(revision: str) -> str:
    """A revision as it is printed: its kind, where it has one, and the first 12 digits."""
    kind, colon, digest = revision.rpartition(":")
    return f"{kind}{colon}{digest[:12]}"


@dataclass(frozen=True)
class Found:
    """A baseline file, read when it is first asked for its content."""

    path: Path

    @cached_property
    def baseline(self) -> Baseline:
        """What the file holds.

        Raises:
            GeometryBenchError: it is damaged or of a newer schema.
        """
        return read_baseline(self.path)

    @property
    def revision(self) -> str:
        """Name of the revision's folder."""
        return self.path.parent.name

    @property
    def place(self) -> str:
        """``org__name/revision``."""
        return f"{self.path.parent.parent.name}/{self.revision}"


@dataclass(frozen=True)
class BaselineStore:
    """Baselines ``ROOT/org__name/revision/dtype-kernel.json``, searched in order of ``roots``; only the first is written."""

    roots: tuple[Path, ...]

    @classmethod
    def beside(cls, own: Path | None) -> BaselineStore:
        """The user's own folder, then the bundled baselines.

        Without a folder of one's own that is the checkout's, or ``baselines`` in the working folder beside an installed
        package.
        """
        bundled = data_root() / "baselines" / "measured"
        in_checkout = (data_root() / "pyproject.toml").is_file()
        return cls(tuple(dict.fromkeys((own or (bundled if in_checkout else Path("baselines")), bundled))))

    def all(self, name: str | None = None) -> list[Found]:
        """Every stored baseline, or every one of a subject; a file in an earlier root hides its twin in a later one."""
        pattern = f"{folder_name(name) if name else '*'}/*/*.json"
        found: dict[Path, Found] = {}
        for root in self.roots:
            for path in sorted(root.glob(pattern)):
                found.setdefault(path.relative_to(root), Found(path))
        return list(found.values())

    def names(self) -> list[str]:
        """Subjects that have baselines."""
        return sorted({found.baseline.subject.name for found in self.all()})

    def revisions(self, name: str) -> list[str]:
        """Names of the revision folders stored for a subject."""
        return sorted({found.revision for found in self.all(name)})

    def path(self, subject: Facts) -> Path:
        """Where the baseline of a subject is written."""
        return self.roots[0] / folder_name(subject.name) / revision_name(subject.revision) / f"{subject.settings}.json"

    def find(self, name: str, revision: str, settings: str | None = None) -> Found | None:
        """The stored baseline of a subject's revision: with the same settings where there is one, else any other."""
        stored = [found for found in self.all(name) if found.revision == revision_name(revision)]
        return next((found for found in stored if found.path.stem == settings), next(iter(stored), None))


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

    def whole(data: Data) -> Data:
        cases = data["cases"].values()
        needed = any(next(references(case), None) is not None for case in cases)
        arrays = read_arrays(path.with_suffix(".safetensors")) if needed else {}
        for case in cases:
            put_back(case, arrays, f"The baseline {path}")
        return data

    return parse(Baseline, text, f"The baseline {path}", whole)


def write_baseline(path: Path, baseline: Baseline) -> None:
    """One baseline file, and beside it the long rows of numbers where there are any."""
    data = baseline.model_dump(mode="json")
    arrays: dict[str, Any] = {}
    known: dict[str, str] = {}
    for key, case in data["cases"].items():
        data["cases"][key], taken = taken_out(case, f"{key}.", known)
        arrays |= taken
    if arrays:
        write_arrays(path.with_suffix(".safetensors"), arrays)
    write_atomically(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def check_update(modes: Collection[str], reason: str | None) -> None:
    """Refuse update modes that do not exist, and replacing or dropping without a reason."""
    unknown = sorted(set(modes) - set(UPDATE_MODES))
    if unknown:
        raise GeometryBenchError(
            f"--baseline-update={','.join(unknown)} is not known: use any of {', '.join(UPDATE_MODES)}, comma-separated."
        )
    if {"changed", "trim"} & set(modes) and not reason:
        raise GeometryBenchError('Replacing or dropping stored baselines needs a reason: add --update-reason "...".')


def update_baselines(
    store: BaselineStore,
    measurements: Iterable[Measurement],
    modes: Collection[str],
    reason: str | None,
    known: Callable[[Collection[str]], frozenset[str]],
) -> list[Path]:
    """Write the baselines that ``modes`` ask for; returns the files that changed.

    Cases without a stored value are added (``new``), cases that differ from it are replaced (``changed``), cases that no
    claim declares any more are dropped (``trim``): ``known`` gives the keys of all declared ones, for a group of some
    members, so that a partial run trims nothing that it merely did not measure. What was not asked for is neither kept
    nor replaces a value.

    Raises:
        GeometryBenchError: a file cannot be read or written, or writing was interrupted; it says which files are written.
    """
    by_file: dict[Path, list[Measurement]] = {}
    for one in measurements:
        too_few = one.subject.kind == "panel" and one.missing is not None
        if too_few or not was_asked(one.missing):
            continue  # what another run would tell is nothing to remember
        by_file.setdefault(store.path(one.subject), []).append(one)
    changed: dict[Path, Baseline] = {}
    for path, group in by_file.items():
        old = read_baseline(path) if path.is_file() else None
        members = getattr(group[0].subject, "members", ())
        new = _updated(old, group, modes, reason or "first measurement", known(members))
        if old is None or new.cases != old.cases:
            changed[path] = new
    written: list[Path] = []
    try:
        for path, new in changed.items():
            write_baseline(path, new)
            written.append(path)
    except KeyboardInterrupt:
        names = ", ".join(map(str, written)) or "none"
        raise GeometryBenchError(
            f"Interrupted while baselines were written: {len(written)} of {len(changed)} files are ({names}); run it again."
        ) from None
    return written


def _updated(
    old: Baseline | None, group: Sequence[Measurement], modes: Collection[str], reason: str, known: frozenset[str]
) -> Baseline:
    cases = {key: case for key, case in (old.cases if old else {}).items() if was_asked(case.missing)}
    if "trim" in modes:
        cases = {key: case for key, case in cases.items() if key in known}
    for one in group:
        case = BaselineCase.of(one, reason)
        stored = cases.get(one.key)
        if (stored is None and "new" in modes) or (
            stored is not None and "changed" in modes and _content(stored) != _content(case)
        ):
            cases[one.key] = case
    return Baseline(subject=group[0].subject, cases=dict(sorted(cases.items())))


def _content(case: BaselineCase) -> Data:
    return case.model_dump(exclude={"environment", "reason"})
