"""Comma-separated values, long: one value a line, so that all claims fit one file and no value loses digits."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from geometry_bench.report.board import Table

HEADERS = ("claim", "case", "subject", "kind", "alignment", "revision", "value", "error", "verdict")


def render(tables: Sequence[Table]) -> str:
    """The board as csv."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEADERS)
    for table in tables:
        for row in table.rows:
            for case, cell in row.cells.items():
                place = (table.claim, case, row.subject, row.kind, row.alignment, row.revision)
                writer.writerow((*place, cell.value, cell.error, cell.verdict))
    return buffer.getvalue()
