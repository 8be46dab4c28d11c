"""What a site is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from geometry_bench.claims.model import Case, Claim
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.judging import Baselines, judge_run
from geometry_bench.records.facts import PairFacts
from geometry_bench.records.held import Held
from geometry_bench.records.judgement import Judgement
from geometry_bench.records.measurement import Measurement, case_key
from geometry_bench.records.reading import Kept, one_each
from geometry_bench.report.board import Row, board_rows
from geometry_bench.report.comparison import Comparison, comparisons

Subject = tuple[str, str, str]
"""Id, revision and settings."""


@dataclass(frozen=True)
class Compared:
    """A subject held against another one, such as a fine-tune against its parent."""

    comparison: Comparison
    against: str


@dataclass(frozen=True)
class Contents:
    """Judgements, one of each subject, revision, settings and case, and what was compared with what."""

    judged: tuple[Judgement, ...]
    compared: tuple[Compared, ...] = ()
    claims: Mapping[str, Claim] = field(default_factory=lambda: CLAIMS, repr=False)

    @cached_property
    def subjects(self) -> dict[Subject, list[Judgement]]:
        """The judgements of each subject, by name."""
        found: dict[Subject, list[Judgement]] = {}
        for one in self.judged:
            found.setdefault(one.measurement.whose, []).append(one)
        order = {claim: place for place, claim in enumerate(self.claims)}
        for group in found.values():
            group.sort(key=lambda one: order[one.measurement.claim])
        return dict(sorted(found.items(), key=lambda item: (item[0][0].casefold(), *item[0])))

    @cached_property
    def by_claim(self) -> dict[str, list[Judgement]]:
        """The judgements of each claim, by subject."""
        found: dict[str, list[Judgement]] = {claim: [] for claim in self.claims}
        for group in self.subjects.values():
            for one in group:
                found[one.measurement.claim].append(one)
        return found

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of the board."""
        return board_rows(self.judged, claims=self.claims)


def contents_of(
    kept: Iterable[Kept], baselines: Baselines | None = None, claims: Mapping[str, Claim] = CLAIMS
) -> Contents:
    """What is known by measurements: all of them judged, and children held against their parents.

    Raises:
        GeometryBenchError: two measurements of one subject, revision, settings and case differ.
    """
    judged = judgements_of(kept, baselines, claims)
    return Contents(judged, tuple(_compared(judged, claims)), claims)


def judgements_of(
    kept: Iterable[Kept], baselines: Baselines | None = None, claims: Mapping[str, Claim] = CLAIMS
) -> tuple[Judgement, ...]:
    """Results judged against ``baselines``, then stored baselines by themselves.

    Raises:
        GeometryBenchError: two measurements of one subject, revision, settings and case differ.
    """
    order = {case_key(claim.id, case.key): place for place, (claim, case) in enumerate(_cases(claims))}
    found = sorted(one_each(kept), key=lambda one: order.get(one.measurement.key, len(order)))
    fresh = judge_run([one.measurement for one in found if not one.stored], baselines, claims)
    stored = judge_run([one.measurement for one in found if one.stored], None, claims)
    return (*fresh, *stored)


def _cases(claims: Mapping[str, Claim]) -> Iterable[tuple[Claim, Case]]:
    return ((claim, case) for claim in claims.values() for case in claim.cases)


def _compared(judged: Sequence[Judgement], claims: Mapping[str, Claim]) -> Iterable[Compared]:
    """Every child that was measured together with its parent, held against it."""
    models: dict[tuple[str, str], list[Measurement]] = {}
    pairs: dict[tuple[str, str], list[Judgement]] = {}
    for one in judged:
        facts = one.measurement.subject
        if isinstance(facts, PairFacts):
            pairs.setdefault((facts.id, facts.revision), []).append(one)
        elif not facts.is_joint:
            models.setdefault((facts.id, facts.revision), []).append(one.measurement)
    for _, derived in sorted(pairs.items()):
        facts = derived[0].measurement.subject
        assert isinstance(facts, PairFacts)
        child, parent = (models.get((id, facts.members[id].revision)) for id in (facts.child, facts.parent))
        if child is None or parent is None:
            continue
        held = judge_run(child, Held.holding(parent), claims)
        (comparison,) = comparisons([*held, *derived])
        yield Compared(comparison, facts.parent)
