"""The board: subjects × claims, published and measured, a pure function of judgements. No score sums a subject up.

Rows are in an order that no value decides: published ones as their sources list them, then measured ones by name, then those
of the embedded zoo.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from geometry_bench.claims.model import Case, Claim
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.published.load import load_publication
from geometry_bench.records.baselines import short_revision
from geometry_bench.records.facts import Facts, GroupFacts, ModelFacts, PromptInputs
from geometry_bench.records.judgement import (
    NOT_COMPARED,
    BaselineVerdict,
    ClaimVerdict,
    Judgement,
    PublishedVerdict,
)
from geometry_bench.records.measurement import case_key

Kind = Literal["published", "measured", "zoo"]
KINDS: tuple[Kind, ...] = ("published", "measured", "zoo")

MEMBER = "member"
"""The case of a value that a claim about a group has of each member: it stands in the member's row."""

ZOO = "zoo/"
"""What the names of embedded models begin with."""


@dataclass(frozen=True)
class Cell:
    """One value as measured, with its three verdicts, or as a source reports it; without a value, the reason why."""

    value: float | None
    error: float | None = None
    low: float | None = None
    high: float | None = None
    null_low: float | None = None
    null_high: float | None = None
    label: str | None = None
    reported: float | None = None
    verdict: ClaimVerdict | None = None
    published: PublishedVerdict | None = None
    baseline: BaselineVerdict | None = None
    reason: str | None = None
    """Why the verdict is what it is, or why there is no value, in two or three words."""
    sentence: str | None = None
    """The same with its numbers."""
    readable: bool = True
    """False where the model predicts the text that it was given no better than by guessing."""


@dataclass(frozen=True)
class Row:
    """One subject at one revision and settings; ``within`` and its revision are the group in which a member was measured,
    as the case ``member``.
    """

    subject: str
    kind: Kind
    alignment: str | None = None
    revision: str | None = None
    dtype: str | None = None
    settings: str | None = None
    within: str | None = None
    within_revision: str | None = None
    member: str | None = None
    source: str | None = None
    """Id of the publication, of a published row."""
    cells: Mapping[str, Cell] = field(default_factory=dict)
    """By case of the table's claim; by ``claim[case]`` in a row of all claims. A case without a cell was not measured."""


@dataclass(frozen=True)
class Table:
    """One claim: its cases as columns."""

    claim: str
    statement: str
    source: str
    cases: tuple[str, ...]
    rows: tuple[Row, ...]


def board(judged: Iterable[Judgement], *, published: bool = True, claims: Mapping[str, Claim] = CLAIMS) -> list[Table]:
    """A table for each claim of which a value is known, in the order of the claims.

    Of each subject, revision, settings and case one judgement is expected: see ``records.reading.one_each``.
    """
    every = board_rows(judged, published=published, claims=claims)
    tables = (_table(claim, every) for claim in claims.values())
    return [table for table in tables if table.cases]


def _table(claim: Claim, every: Sequence[Row]) -> Table:
    keys = {case_key(claim.id, case): case for case in (*(case.key for case in claim.cases), MEMBER)}
    rows = [
        replace(row, cells=cells)
        for row in every
        if (cells := {case: row.cells[key] for key, case in keys.items() if key in row.cells})
    ]
    known = tuple(
        case for case in keys.values() if any(case in row.cells and row.cells[case].value is not None for row in rows)
    )
    return Table(claim.id, claim.statement, f"{claim.source.letter}: {claim.source.citation}", known, tuple(rows))


def board_rows(
    judged: Iterable[Judgement], *, published: bool = True, claims: Mapping[str, Claim] = CLAIMS
) -> list[Row]:
    """All rows, their cells by ``claim[case]``."""
    rows: dict[tuple[str | None, ...], Row] = {}
    found: dict[tuple[str | None, ...], dict[str, Cell]] = {}
    for claim in claims.values() if published else ():
        for row in published_rows(claim):
            place: tuple[str | None, ...] = ("published", row.source, row.subject)
            rows.setdefault(place, row)
            found.setdefault(place, {}).update({case_key(claim.id, case): cell for case, cell in row.cells.items()})
    for one in judged:
        claim_of = claims.get(one.measurement.claim)
        if claim_of is None:
            continue
        row, case = _place(one, claim_of)
        place = (row.subject, row.revision, row.settings, row.within)
        rows.setdefault(place, row)
        found.setdefault(place, {})[case_key(claim_of.id, case)] = _cell(one)
    every = [replace(row, cells=found[place]) for place, row in rows.items()]
    order = ("", "", "", "")
    return sorted(
        every, key=lambda row: (KINDS.index(row.kind), *(order if row.kind == "published" else _by_name(row)))
    )


def _by_name(row: Row) -> tuple[str, ...]:
    return row.subject.casefold(), row.revision or "", row.settings or "", row.within or ""


def _place(one: Judgement, claim: Claim) -> tuple[Row, str]:
    """The row, without cells, and the case under which a judgement stands there."""
    facts, case = one.measurement.subject, one.measurement.case
    kind = kind_of(facts)
    if isinstance(facts, GroupFacts) and claim.per_member is not None and case in facts.members:
        member = facts.members[case]
        name = member.name or case
        dtype, place = member.dtype or facts.dtype, (facts.id, facts.revision, case)
        return Row(name, kind, member.alignment, member.revision, dtype, facts.settings, *place), MEMBER
    alignment = facts.alignment if isinstance(facts, ModelFacts) else None
    return Row(facts.id, kind, alignment, facts.revision, facts.dtype, facts.settings), case


def kind_of(facts: Facts) -> Kind:
    """``zoo`` for an embedded model and for what is made of embedded models alone, else ``measured``."""
    members = [member.name for member in getattr(facts, "members", {}).values()]
    names = [name for name in members if name is not None] or [facts.name.removeprefix("family/")]
    return "zoo" if all(name.startswith(ZOO) for name in names) else "measured"


def _cell(one: Judgement) -> Cell:
    measured, estimate = one.measurement, one.measurement.estimate
    null = None if estimate is None else estimate.null
    missing = measured.missing
    verdicts = {
        "verdict": one.claim.verdict,
        "published": one.published.verdict,
        "baseline": one.baseline.verdict,
        "reported": one.published.number("reported"),
        "reason": str(one.claim.reason if missing is None else missing.reason),
        "sentence": one.claim.sentence,
        "readable": is_readable(one),
    }
    if estimate is None:
        return Cell(None, **verdicts)  # type: ignore[arg-type]
    ends = {} if null is None else {"null_low": null.low, "null_high": null.high}
    return Cell(estimate.value, estimate.error, estimate.low, estimate.high, label=estimate.label, **ends, **verdicts)  # type: ignore[arg-type]


def is_readable(one: Judgement) -> bool:
    """Whether the model predicts the text that it was given better than by guessing, as far as that was measured."""
    inputs = one.measurement.inputs
    return not (isinstance(inputs, PromptInputs) and inputs.is_guessed)


# What the sources report


def published_rows(claim: Claim) -> list[Row]:
    """The subjects of the claim's source that it reports a value of; of a claim about a pair, a child less its parent."""
    if claim.reported is None:
        return []
    return list(_published_pairs(claim) if claim.scope == "pair" else _published_subjects(claim))


def _published_subjects(claim: Claim) -> Iterator[Row]:
    assert claim.reported is not None
    for subject in load_publication(claim.source.id).subjects.values():
        cases = claim.cases if claim.per_member is None else (Case(MEMBER),)
        values = {case.key: claim.reported(subject, case) for case in cases}
        cells = {key: Cell(value) for key, value in values.items() if value is not None}
        if cells:
            yield Row(subject.label, "published", subject.alignment_method, source=claim.source.id, cells=cells)


def _published_pairs(claim: Claim) -> Iterator[Row]:
    source, reported = load_publication(claim.source.id), claim.reported
    assert reported is not None
    stated = (one.stated for one in source.statements.values())
    pairs = dict.fromkeys((one["subject"], one["parent"]) for one in stated if {"subject", "parent"} <= one.keys())
    for child, parent in ((source.subjects[one], source.subjects[other]) for one, other in pairs):
        values = {case.key: (reported(child, case), reported(parent, case)) for case in claim.cases}
        cells = {key: Cell(new - old) for key, (new, old) in values.items() if new is not None and old is not None}
        if cells:
            name = f"{child.label} less {parent.label}"
            yield Row(name, "published", child.alignment_method, source=claim.source.id, cells=cells)


# Groups of columns


@dataclass(frozen=True)
class Column:
    """One case as a column, under a label for the eye."""

    claim: Claim
    case: str
    label: str

    @property
    def key(self) -> str:
        """``claim[case]``."""
        return case_key(self.claim.id, self.case)


@dataclass(frozen=True)
class Columns:
    """Columns that are shown together: ``name`` is the word before the dot of their claims' ids."""

    name: str
    columns: tuple[Column, ...]


HEADLINE: Mapping[tuple[str, str], str] = {
    ("safety.compassion_alignment", ""): "safety ↔ compassion",
    ("safety.baseline_sign", ""): "safety ↔ baseline",
    ("safety.strict_agreement", ""): "safety ↔ strict safety",
    ("compassion.cross_tradition_cosine", "chenrezig-tara"): "Chenrezig ↔ Tara",
    ("compassion.secular_divergence", ""): "secular ↔ traditions",
    ("compassion.tightest_pair", ""): "closest traditions",
    ("magnitude.variance_inversion", ""): "variance, safe : harmful",
    ("magnitude.parallel_means", "raw"): "mean harmful ↔ mean safe",
    ("detection.early", "projection-plain"): "early detection, AUROC",
    ("activations.mso_above_random", "useful-harmful"): "subspace overlap, useful ↔ harmful",
    ("gate.refusal", ""): "refusal direction, AUROC",
}
"""The cases that a board opens with, under labels for the eye: at least one of each source, and the gate."""


def headline(claims: Mapping[str, Claim] = CLAIMS) -> Columns:
    """The columns that a board opens with."""
    found = [Column(claims[id], case, label) for (id, case), label in HEADLINE.items() if id in claims]
    return Columns("headline", tuple(found))


def grouped(claims: Mapping[str, Claim] = CLAIMS) -> list[Columns]:
    """All cases by the first word of their claims, in the order of the claims."""
    groups: dict[str, list[Column]] = {}
    for claim in claims.values():
        cases = [case.key for case in claim.cases if case.key or claim.per_member is None]
        for case in (*cases, *([MEMBER] if claim.per_member is not None else [])):
            name = claim.short_name.replace("_", " ")
            label = name if case in ("", MEMBER) else f"{name}: {case.replace('_', ' ')}"
            groups.setdefault(claim.id.partition(".")[0], []).append(Column(claim, case, label))
    return [Columns(name, tuple(columns)) for name, columns in groups.items()]


# Tables as text


def headers(table: Table) -> list[str]:
    """Column titles of a table as text."""
    return ["subject", "kind", "alignment", "revision", "dtype", *(case or "value" for case in table.cases)]


def texts(table: Table) -> list[list[str]]:
    """Rows of a table as text."""
    return [
        [
            row.subject if row.within is None else f"{row.subject} in {row.within}",
            row.kind,
            row.alignment or "",
            short_revision(row.revision or ""),
            row.dtype or "",
            *(cell_text(row.cells.get(case), row.kind) for case in table.cases),
        ]
        for row in table.rows
    ]


def cell_text(cell: Cell | None, kind: Kind) -> str:
    """Two decimals for published values (their resolution); three with error, null and verdicts for measured ones.

    Without a value, why.
    """
    if cell is None:
        return "–"
    if cell.value is None:
        return f"– ({cell.reason})"
    if kind == "published":
        return f"{cell.value:+.2f}"
    error = "" if cell.error is None else f" ± {cell.error:.3f}"
    null = (
        "" if cell.null_low is None or cell.null_high is None else f" (null {cell.null_low:+.2f}…{cell.null_high:+.2f})"
    )
    unreadable = "" if cell.readable else ", text not readable"
    return f"{cell.value:+.3f}{error}{null} {', '.join(verdicts_of(cell))}{unreadable}"


def verdicts_of(cell: Cell) -> list[str]:
    """The verdicts that say something: whether the claim holds, and what the two comparisons found, where they were made."""
    found: list[str] = [] if cell.verdict is None else [str(cell.verdict)]
    if cell.published not in (None, PublishedVerdict.NO_FIGURE):
        found.append(str(cell.published))
    if cell.baseline is not None and cell.baseline not in NOT_COMPARED:
        found.append(str(cell.baseline))
    return found
