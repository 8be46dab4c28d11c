"""What a site is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from geometry_bench.claims.model import Claim
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.records.facts import PublicationFacts
from geometry_bench.records.judgement import Judgement
from geometry_bench.report.board import Row, board_rows
from geometry_bench.report.comparison import Comparison

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
        """The judgements of each subject, by name; publications are told apart from subjects by their own page."""
        found: dict[Subject, list[Judgement]] = {}
        for one in self.judged:
            if not isinstance(one.measurement.subject, PublicationFacts):
                found.setdefault(subject_of(one), []).append(one)
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


def subject_of(one: Judgement) -> Subject:
    """Id, revision and settings of what was measured."""
    facts = one.measurement.subject
    return facts.id, facts.revision, facts.settings
