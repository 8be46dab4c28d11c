"""Where things stand in the site: names of pages and anchors that any file system and any name allow."""

from __future__ import annotations

import hashlib
import re

from geometry_bench.records.measurement import case_key
from geometry_bench.report.board import MEMBER, Row
from geometry_bench.report.site.contents import Subject

INDEX, CLAIMS, SUBJECTS, COMPARISONS, AUDIT = (
    f"{name}.html" for name in ("index", "claims", "subjects", "comparisons", "audit")
)
_LONGEST = 48
_PLAIN = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_PLAIN_KEY = re.compile(rf"{_PLAIN.pattern}(\[[a-z0-9_.-]+\])?")


def slug(*names: str) -> str:
    """A name for a file in small ASCII letters; a digest of the names makes it that of no other."""
    text = re.sub(r"[^a-z0-9]+", "-", names[0].lower())[:_LONGEST].strip("-")
    digest = hashlib.sha256("\0".join(names).encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{text}-{digest}" if text else digest


def anchor(key: str) -> str:
    """A case's id within a page: ``claim:case`` where both are plain."""
    return key.replace("[", ":").rstrip("]") if _PLAIN_KEY.fullmatch(key) else slug(key)


def subject_page(subject: Subject) -> str:
    """Page of a subject."""
    return f"subjects/{slug(*subject)}.html"


def claim_page(claim: str) -> str:
    """Page of a claim."""
    return f"claims/{claim if _PLAIN.fullmatch(claim) else slug(claim)}.html"


def columns_page(name: str) -> str:
    """Page of the board with a group of columns."""
    return INDEX if name == "headline" else f"board/{name if _PLAIN.fullmatch(name) else slug(name)}.html"


def comparison_page(subject: Subject, against: str) -> str:
    """Page of a comparison."""
    return f"comparisons/{slug(f'{subject[0]} against {against}', *subject, against)}.html"


def publication_page(source: str) -> str:
    """Page of a publication's reported values."""
    return f"published/{source}.html"


def measurement_place(subject: Subject, key: str) -> str:
    """Page and anchor of a measurement."""
    return f"{subject_page(subject)}#{anchor(key)}"


def reported_place(source: str, subject: str, key: str) -> str:
    """Page and anchor of a reported value."""
    return f"{publication_page(source)}#{reported_anchor(subject, key)}"


def reported_anchor(subject: str, key: str) -> str:
    """Anchor of a reported value."""
    return slug(f"{subject} {key}")


def cell_place(row: Row, claim: str, case: str) -> str:
    """Page and anchor of a cell of the board."""
    if row.kind == "published":
        assert row.source is not None
        return reported_place(row.source, row.subject, case_key(claim, case))
    owner = (row.subject, row.revision) if row.within is None else (row.within, row.within_revision)
    own_case = row.member if row.member is not None and case == MEMBER else case
    return measurement_place((owner[0], owner[1] or "", row.settings or ""), case_key(claim, own_case))


def relative(page: str, place: str) -> str:
    """A place as it is linked from a page."""
    return "../" * page.count("/") + place
