"""The board: claims × subjects, measured and published, in one table a claim. No score sums a subject up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from geometry_bench.claims.model import Case, Claim
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.published.load import load_publication
from geometry_bench.records.baselines import short_revision
from geometry_bench.records.facts import ModelFacts
from geometry_bench.records.judgement import ClaimVerdict, Judgement

Kind = Literal["published", "measured"]


@dataclass(frozen=True)
class Cell:
    """One value on the board: as measured with its standard error and verdict, or as a source reports it."""

    value: float
    error: float | None = None
    verdict: ClaimVerdict | None = None


@dataclass(frozen=True)
class Row:
    """One subject in a claim's table; a case without a cell is unknown."""

    subject: str
    kind: Kind
    alignment: str | None = None
    revision: str | None = None
    cells: Mapping[str, Cell] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """One claim: its cases as columns, published rows before measured ones."""

    claim: str
    statement: str
    source: str
    cases: tuple[str, ...]
    rows: tuple[Row, ...]


def board(judged: Iterable[Judgement], *, published: bool = True, claims: Mapping[str, Claim] = CLAIMS) -> list[Table]:
    """A table for each claim of which a value is known, in the order of the claims.

    Of a case that was measured twice on one subject and revision the later measurement counts.
    """
    by_claim: dict[str, list[Judgement]] = {}
    for one in judged:
        by_claim.setdefault(one.measurement.claim, []).append(one)
    tables = []
    for claim in claims.values():
        rows = [*(published_rows(claim) if published else ()), *_measured_rows(by_claim.get(claim.id, ()))]
        if rows:
            keys = dict.fromkeys([*(case.key for case in claim.cases), *(key for row in rows for key in row.cells)])
            used = tuple(key for key in keys if any(key in row.cells for row in rows))
            source = f"{claim.source.letter}: {claim.source.citation}"
            tables.append(Table(claim.id, claim.statement, source, used, tuple(rows)))
    return tables


def published_rows(claim: Claim) -> list[Row]:
    """The subjects of the claim's source that it reports a value of; of a claim about a pair, a child less its parent."""
    if claim.reported is None:
        return []
    if claim.scope == "pair":
        return _published_pairs(claim)
    rows = []
    for subject in load_publication(claim.source.id).subjects.values():
        cases = claim.cases if claim.per_member is None else (Case("member"),)
        values = {case.key: claim.reported(subject, case) for case in cases}
        cells = {key: Cell(value) for key, value in values.items() if value is not None}
        if cells:
            rows.append(Row(subject.label, "published", subject.alignment_method, cells=cells))
    return rows


def _published_pairs(claim: Claim) -> list[Row]:
    source, reported = load_publication(claim.source.id), claim.reported
    assert reported is not None
    stated = (one.stated for one in source.statements.values())
    pairs = dict.fromkeys((one["subject"], one["parent"]) for one in stated if {"subject", "parent"} <= one.keys())
    rows = []
    for child, parent in ((source.subjects[one], source.subjects[other]) for one, other in pairs):
        values = {case.key: (reported(child, case), reported(parent, case)) for case in claim.cases}
        cells = {key: Cell(new - old) for key, (new, old) in values.items() if new is not None and old is not None}
        if cells:
            rows.append(Row(f"{child.label} less {parent.label}", "published", child.alignment_method, cells=cells))
    return rows


def _measured_rows(judged: Sequence[Judgement]) -> list[Row]:
    rows: dict[tuple[str, str], dict[str, Cell]] = {}
    methods: dict[tuple[str, str], str | None] = {}
    for one in judged:
        subject, estimate = one.measurement.subject, one.measurement.estimate
        place = (subject.id, subject.revision)
        if estimate is not None and estimate.value is not None:
            cell = Cell(estimate.value, estimate.error, one.claim.verdict)
            rows.setdefault(place, {})[one.measurement.case] = cell
            methods[place] = subject.alignment if isinstance(subject, ModelFacts) else None
    return [Row(name, "measured", methods[name, rev], rev, cells) for (name, rev), cells in rows.items()]


def headers(table: Table) -> list[str]:
    """Column titles of a table as text."""
    return ["subject", "kind", "alignment", *(case or "value" for case in table.cases)]


def texts(table: Table) -> list[list[str]]:
    """Rows of a table as text; a name that stands for several revisions has the first digits of each."""
    names = [row.subject for row in table.rows]
    rows = []
    for row in table.rows:
        several = row.revision is not None and names.count(row.subject) > 1
        name = f"{row.subject}@{short_revision(row.revision or '')}" if several else row.subject
        cells = (row.cells.get(case) for case in table.cases)
        rows.append([name, row.kind, row.alignment or "", *(cell_text(cell, row.kind) for cell in cells)])
    return rows


def cell_text(cell: Cell | None, kind: Kind) -> str:
    """Two decimals for published values (their resolution), three with error and verdict for measured ones."""
    if cell is None:
        return "–"
    if kind == "published":
        return f"{cell.value:+.2f}"
    error = "" if cell.error is None else f" ± {cell.error:.3f}"
    return f"{cell.value:+.3f}{error} {cell.verdict or ''}".rstrip()
