"""Comma-separated values, long: one case of a subject a line, so that all claims fit one file and no value loses digits."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from geometry_bench.report.board import Cell, Row, Table

OF_ROW = ("subject", "kind", "alignment", "revision", "dtype", "settings", "within")
OF_CELL = (
    *("value", "error", "low", "high", "null_low", "null_high", "label", "reported"),
    *("verdict", "published", "baseline", "reason", "readable"),
)
HEADERS = ("claim", "case", *OF_ROW, *OF_CELL)


def render(tables: Sequence[Table]) -> str:
    """The board as csv."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEADERS)
    for table in tables:
        for row in table.rows:
            for case, cell in row.cells.items():
                writer.writerow((table.claim, case, *_fields(row, OF_ROW), *_fields(cell, OF_CELL)))
    return buffer.getvalue()


def _fields(of: Row | Cell, names: Sequence[str]) -> list[object]:
    return [getattr(of, name) for name in names]
