"""A page a publication: what it reports of each model, claim by claim. Published values link here."""

from __future__ import annotations

from collections.abc import Iterator

from geometry_bench.published.load import SOURCES, load_publication
from geometry_bench.records.measurement import case_key
from geometry_bench.report.board import published_rows
from geometry_bench.report.site.contents import Contents
from geometry_bench.report.site.page import Page
from geometry_bench.report.site.places import claim_page, publication_page, reported_anchor


def pages(contents: Contents) -> Iterator[Page]:
    """One page for each publication with reported values."""
    for source in SOURCES:
        publication = load_publication(source)
        subjects: dict[str, list[dict[str, object]]] = {}
        for claim in contents.claims.values():
            if claim.source.id != source:
                continue
            for row in published_rows(claim):
                for case, cell in row.cells.items():
                    key = case_key(claim.id, case)
                    line = {"claim": claim, "page": claim_page(claim.id), "key": key, "value": cell.value}
                    subjects.setdefault(row.subject, []).append({**line, "anchor": reported_anchor(row.subject, key)})
        known = {subject.label: subject for subject in publication.subjects.values()}
        listed = [(name, known.get(name), lines) for name, lines in subjects.items()]
        fields = {"publication": publication, "subjects": listed}
        yield Page(publication_page(source), "published.html", publication.title, "audit", fields)
