"""Audits as claims: one a source, one case a statement, measured on the publication itself."""

from __future__ import annotations

from dataclasses import dataclass

from geometry_bench.claims.audit import AUDITED, examine
from geometry_bench.claims.model import Case, Claim, Estimates
from geometry_bench.claims.sources import BY_ID
from geometry_bench.published.load import load_publication
from geometry_bench.published.publication import Publication
from geometry_bench.records.estimates import Estimate
from geometry_bench.records.judgement import Answer, ClaimVerdict, Reason
from geometry_bench.records.noise import EXACT


@dataclass(frozen=True)
class Consistent:
    """A value of 1: the statement agrees with the reported values."""

    bounds: tuple[float, ...] = (0.5,)

    def __str__(self) -> str:
        return "the statement agrees with the reported values"

    def judge(self, estimate: Estimate, method: str | None = None) -> Answer[ClaimVerdict]:
        """By the value alone, with the explanation of the check."""
        holds = estimate.value == 1.0
        facts = {"sentence": f"{estimate.label}: {' '.join(estimate.notes)}"}
        return Answer(ClaimVerdict.HOLDS if holds else ClaimVerdict.FAILS, Reason.CHECKED, facts)


def examined(publication: Publication, case: Case) -> Estimates:
    """1 where the statement agrees with the publication's own reported values, 0 where they contradict it."""
    finding = examine(publication, case.key)
    numbers = {name: float(x) for name, x in finding.found.items() if isinstance(x, int | float)}
    estimate = Estimate(
        value=float(finding.consistent),
        n=1,
        label=finding.verdict,
        details=numbers,
        arithmetic="as reported",
        notes=[finding.explanation],
    )
    return {"corrected": estimate}


CLAIMS: tuple[Claim, ...] = tuple(
    Claim(
        id=f"audit.{source}",
        source=BY_ID[source],
        where="its statements",
        statement=f"What *{load_publication(source).title}* says agrees with the values that it reports.",
        measure=examined,
        null="none: nothing is estimated",
        scope="publication",
        cases=tuple(Case(statement) for statement in load_publication(source).statements),
        criterion=Consistent(),
        published_criterion=None,
        metric=EXACT,
        smallest_change=0.5,
    )
    for source in AUDITED
)
