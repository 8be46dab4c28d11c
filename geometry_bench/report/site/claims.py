"""A page a claim: what it says, how it is tested, and its values on all subjects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from geometry_bench.claims.model import Claim
from geometry_bench.records.facts import GroupFacts
from geometry_bench.records.judgement import Judgement
from geometry_bench.records.measurement import case_key
from geometry_bench.report.board import KINDS, Kind, is_readable, kind_of, published_rows
from geometry_bench.report.site.contents import Contents
from geometry_bench.report.site.page import Page, drawings
from geometry_bench.report.site.places import CLAIMS, anchor, claim_page, measurement_place, reported_place
from geometry_bench.report.site.shown import interval, marks, null_text, number, tally, value_text

Line = dict[str, object]


def pages(contents: Contents) -> Iterator[Page]:
    """The list of claims, and a page for each."""
    claims = list(contents.claims.values())
    listed: dict[str, list[dict[str, object]]] = {}
    for claim in claims:
        found = tally(one.claim.verdict for one in contents.by_claim[claim.id])
        row = {"claim": claim, "page": claim_page(claim.id), "counts": found}
        listed.setdefault(f"{claim.source.letter}: {claim.source.citation}", []).append(row)
    yield Page(CLAIMS, "claims.html", "Claims", "claims", {"sources": listed})
    for claim in claims:
        yield _page(claim, contents.by_claim[claim.id])


def _page(claim: Claim, judged: Sequence[Judgement]) -> Page:
    lines: dict[str, list[Line]] = {case.key: [] for case in claim.cases}
    for row in published_rows(claim):
        assert row.source is not None
        for case, cell in row.cells.items():
            key = case_key(claim.id, case)
            line = {
                "subject": row.subject,
                "kind": "published",
                "alignment": row.alignment or "",
                "value": number(cell.value, 2),
            }
            lines.setdefault(case, []).append({**line, "place": reported_place(row.source, row.subject, key)})
    ordered: list[tuple[Kind, Judgement]] = sorted(
        ((kind_of(one.measurement.subject), one) for one in judged), key=lambda item: KINDS.index(item[0])
    )
    for kind, one in ordered:
        lines.setdefault(one.measurement.case, []).append(_line(kind, one))
    cases = [(case, f"case-{anchor(case) if case else 'value'}", found) for case, found in lines.items() if found]
    described = " ".join((claim.measure.__doc__ or "").split())
    fields = {"claim": claim, "described": described, "cases": cases, "drawings": drawings(judged, "claim")}
    return Page(claim_page(claim.id), "claim.html", claim.id, "claims", fields)


def _line(kind: Kind, one: Judgement) -> Line:
    measured, estimate = one.measurement, one.measurement.estimate
    facts = measured.subject
    reported, old = one.published.number("reported"), one.baseline.number("old")
    alignment = getattr(facts, "alignment", None)
    if isinstance(facts, GroupFacts) and measured.case in facts.members:
        alignment = facts.members[measured.case].alignment
    missing = measured.missing
    return {
        "subject": facts.id,
        "kind": kind,
        "alignment": alignment or "",
        "value": value_text(estimate),
        "label": (estimate.label or "") if estimate is not None else "",
        "interval": interval(estimate.low, estimate.high) if estimate is not None else "",
        "null": null_text(estimate.null) if estimate is not None else "",
        "reported": "" if reported is None else number(reported, 2),
        "old": "" if old is None else number(old),
        "marks": marks(one.claim.verdict, one.published.verdict, one.baseline.verdict),
        "reason": str(one.claim.reason if missing is None else missing.reason),
        "sentence": one.claim.sentence,
        "readable": is_readable(one),
        "revision": facts.revision,
        "settings": facts.settings,
        "place": measurement_place(measured.whose, measured.key),
    }
