"""The audit: sentences of a publication, checked against that publication's own figures. No model is needed.

A statement holds what the source says; its check computes what the source's data say. A finding sets the two side by
side. Whether a statement is contradicted is never written down anywhere: it follows from the data each time.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, cast

from geometry_bench.errors import GeometryBenchError
from geometry_bench.published.schema import PublishedStatement

AUDITED_SOURCES: tuple[str, ...] = ("safety_compassion", "universal_direction", "safety_subspaces")
"""Sources with an audit, each in the module ``audit`` of its package."""


@dataclass(frozen=True)
class Observation:
    """What a check saw in the data: figures by name, whether they bear the sentence out, and one sentence why."""

    found: Mapping[str, Any]
    consistent: bool
    explanation: str


@dataclass(frozen=True)
class Statement:
    """A sentence of a source, in this project's words, and the check that it faces.

    ``stated`` holds the figures and names in the sentence; ``check`` takes the source's published data (of
    ``records.published``) and returns what it saw.
    """

    id: str
    source: str
    sentence: str
    where: str
    stated: Mapping[str, Any]
    check: Callable[[Any], Observation]

    def examine(self, published: Any) -> Finding:
        """Check the sentence against these data."""
        seen = self.check(published)
        return Finding(self, self.stated, seen.found, seen.consistent, seen.explanation)


@dataclass(frozen=True)
class Finding:
    """A statement with what was stated, what was found, and whether the two agree."""

    statement: Statement
    stated: Mapping[str, Any]
    found: Mapping[str, Any]
    consistent: bool
    explanation: str

    @property
    def verdict(self) -> str:
        """``consistent`` or ``contradicted``."""
        return "consistent" if self.consistent else "contradicted"


class Stating(Protocol):
    """Published data that hold sentences of their source."""

    @property
    def id(self) -> str:
        """Id of the source."""

    @property
    def statements(self) -> Mapping[str, PublishedStatement]:
        """Sentences of the source by id."""


_Data = TypeVar("_Data", bound=Stating)
Check = Callable[[Mapping[str, Any], _Data], Observation]
"""What a sentence states, and the published data -> what the data say of it."""


class Checks(Generic[_Data]):
    """The checks of one source, each for the statement of the same id: ``@checks("id")`` adds one."""

    def __init__(self) -> None:
        self._checks: dict[str, Check[_Data]] = {}

    def __call__(self, statement_id: str) -> Callable[[Check[_Data]], Check[_Data]]:
        """Register the decorated function as the check of a statement."""

        def register(check: Check[_Data]) -> Check[_Data]:
            if statement_id in self._checks:
                raise ValueError(f"two checks for {statement_id}")
            self._checks[statement_id] = check
            return check

        return register

    def statements(self, published: _Data) -> tuple[Statement, ...]:
        """The sentences in the file's order; raises ``GeometryBenchError`` where one has no check or is missing."""
        if unmatched := set(published.statements) ^ set(self._checks):
            raise GeometryBenchError(
                f"The published figures of {published.id} and their audit do not name the same statements: "
                f"{', '.join(sorted(unmatched))}; restore the file or reinstall geometry-bench."
            )
        return tuple(
            Statement(
                key, published.id, text.sentence, text.where, text.stated, partial(self._checks[key], text.stated)
            )
            for key, text in published.statements.items()
        )

    def audit(self, published: _Data) -> list[Finding]:
        """Check every sentence against these data."""
        return [statement.examine(published) for statement in self.statements(published)]


class AuditModule(Protocol):
    """What the module ``audit`` of a source offers."""

    def audit(self, published: Any | None = None) -> list[Finding]:
        """Check every statement of the source, against ``published`` or against the stored figures."""


def run_audit(sources: Sequence[str] | None = None) -> list[Finding]:
    """Check every statement of the named sources (all audited ones if None) against the stored published figures.

    Findings come in the order of the sources' files. Raises ``GeometryBenchError`` for an unknown source or a damaged
    file.
    """
    findings: list[Finding] = []
    for source in AUDITED_SOURCES if sources is None else sources:
        if source not in AUDITED_SOURCES:
            raise GeometryBenchError(
                f"There is no audit of {source!r}; the audited sources are {', '.join(AUDITED_SOURCES)}."
            )
        module = cast(AuditModule, importlib.import_module(f"geometry_bench.claims.{source}.audit"))
        findings.extend(module.audit())
    return findings
