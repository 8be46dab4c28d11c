"""The audit: sentences of a publication, checked against that publication's own values. No model is needed.

A statement in ``baselines/published`` holds what the source says and declares how that is checked; a few are checked by a
function of the source's own module ``audit``. Whether a statement is contradicted is written down nowhere: it follows from
the data each time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from geometry_bench.claims.checks import Observation, observe
from geometry_bench.claims.safety_compassion.audit import FUNCTIONS as SAFETY_COMPASSION
from geometry_bench.claims.safety_subspaces.audit import FUNCTIONS as SAFETY_SUBSPACES
from geometry_bench.claims.universal_direction.audit import FUNCTIONS as UNIVERSAL_DIRECTION
from geometry_bench.errors import GeometryBenchError
from geometry_bench.published.publication import Publication

_FUNCTIONS: Mapping[str, Mapping[str, Callable[[Mapping[str, Any], Publication], Observation]]] = {
    "safety_compassion": SAFETY_COMPASSION,
    "universal_direction": UNIVERSAL_DIRECTION,
    "safety_subspaces": SAFETY_SUBSPACES,
}
"""By source and statement: checks that take what is stated and the publication."""

AUDITED: tuple[str, ...] = tuple(_FUNCTIONS)
"""Ids of the sources with statements, in the order of the sources."""


@dataclass(frozen=True)
class Finding:
    """A statement with what was stated, what was found (numbers or lists by name), and whether the two agree."""

    statement: str
    sentence: str
    where: str
    stated: Mapping[str, Any]
    found: Mapping[str, Any]
    consistent: bool
    explanation: str

    @property
    def verdict(self) -> str:
        """``consistent`` or ``contradicted``."""
        return "consistent" if self.consistent else "contradicted"


def audit(publication: Publication) -> tuple[Finding, ...]:
    """Check every statement of a publication, in the order of its file; none for a publication without statements.

    Raises ``GeometryBenchError`` where a statement has no check, a function no statement, or a value is missing.
    """
    by_function = {key for key, statement in publication.statements.items() if statement.check.kind == "function"}
    if unmatched := by_function ^ set(_FUNCTIONS.get(publication.id, {})):
        raise GeometryBenchError(
            f"The published values of {publication.id} and their audit do not name the same functions: "
            f"{', '.join(sorted(unmatched))}; restore the file or reinstall geometry-bench."
        )
    return tuple(examine(publication, statement_id) for statement_id in publication.statements)


def examine(publication: Publication, statement_id: str) -> Finding:
    """Check one statement; raises ``GeometryBenchError`` for an unknown one, one without a check or a missing value."""
    statement = publication.statements.get(statement_id)
    if statement is None:
        raise GeometryBenchError(
            f"{publication.id} has no statement {statement_id!r}; it has {', '.join(publication.statements) or 'none'}."
        )
    if statement.check.kind == "function":
        function = _FUNCTIONS.get(publication.id, {}).get(statement_id)
        if function is None:
            raise GeometryBenchError(
                f"The statement {statement_id} of {publication.id} has no function in its audit; restore the file."
            )
    else:
        function = partial(observe, statement.check)
    try:
        seen = function(statement.stated, publication)
    except KeyError as error:
        raise GeometryBenchError(
            f"The check of {statement_id} needs {error}, which the published values of {publication.id} lack; "
            "restore the file."
        ) from error
    return Finding(
        statement_id,
        statement.sentence,
        statement.where,
        statement.stated,
        seen.found,
        seen.consistent,
        seen.explanation,
    )
