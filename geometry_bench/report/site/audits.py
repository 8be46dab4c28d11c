"""The audit of the publications: their statements held against the values that they report."""

from __future__ import annotations

from collections.abc import Iterator

from geometry_bench.claims.audit import AUDITED, audit
from geometry_bench.published.load import load_publication
from geometry_bench.report.site.contents import Contents
from geometry_bench.report.site.page import Page
from geometry_bench.report.site.places import AUDIT, anchor, publication_page


def pages(contents: Contents) -> Iterator[Page]:
    """One page: a table a publication. Nothing of it depends on what was measured."""
    audited = []
    for source in AUDITED:
        publication = load_publication(source)
        found = [(anchor(f"{source}.{one.statement}"), one) for one in audit(publication)]
        audited.append((publication, publication_page(source), found))
    counts = [one.consistent for _, _, found in audited for _, one in found]
    fields = {"audited": audited, "count": len(counts), "contradicted": counts.count(False)}
    yield Page(AUDIT, "audit.html", "Audit of the publications", "audit", fields)
