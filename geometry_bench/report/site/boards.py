"""The board: one page for the headline, one for each group of claims, filled from inert JSON by a little script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from geometry_bench.report.board import KINDS, Columns, Row, grouped, headline
from geometry_bench.report.site.contents import Contents
from geometry_bench.report.site.page import Page, drawings
from geometry_bench.report.site.places import cell_place, claim_page, columns_page, relative
from geometry_bench.report.site.shown import MARKS, short

_MARKS = list(MARKS)
"""Verdicts by the number that stands for them in the data."""


def pages(contents: Contents) -> Iterator[Page]:
    """The headline first, then each group of columns of which something is known or was tried."""
    groups = [headline(contents.claims), *grouped(contents.claims)]
    tried = [(group, rows) for group in groups if (rows := _rows(group, contents.rows)) or group.name == "headline"]
    tabs = [(group.name, columns_page(group.name)) for group, _ in tried]
    for group, rows in tried:
        place = columns_page(group.name)
        is_first = group.name == "headline"
        figures = drawings(contents.judged, "board") if is_first else []
        fields = {
            "tabs": tabs,
            "group": group,
            "count": len(rows),
            "claims": list(dict.fromkeys(column.claim.id for column in group.columns)),
            "data": data(group, rows, place),
            "drawings": figures,
        }
        yield Page(place, "board.html", "Board" if is_first else f"Board: {group.name}", "board", fields)


def _rows(group: Columns, rows: Sequence[Row]) -> list[Row]:
    """The rows that have anything in these columns."""
    keys = {column.key for column in group.columns}
    return [row for row in rows if not keys.isdisjoint(row.cells)]


def data(group: Columns, rows: Sequence[Row], page: str) -> dict[str, Any]:
    """The board as compact data: what repeats is named once, and a cell is a list."""
    texts: dict[str, int] = {}
    columns = [
        {
            "label": column.label,
            "key": column.key,
            "claim": relative(page, claim_page(column.claim.id)),
            "statement": column.claim.statement,
        }
        for column in group.columns
    ]
    found = [
        {
            "name": row.subject,
            "kind": KINDS.index(row.kind),
            "alignment": row.alignment,
            "revision": short(row.revision).rpartition(":")[2],
            "settings": row.settings,
            "within": row.within,
            "page": _page_of(group, row, page),
            "cells": [_cell(group, place, row, texts, page) for place in range(len(group.columns))],
        }
        for row in rows
    ]
    return {
        "columns": columns,
        "kinds": list(KINDS),
        "marks": [[mark.letter, mark.kind, mark.meaning] for mark in MARKS.values()],
        "rows": found,
        "texts": list(texts),
    }


def _page_of(group: Columns, row: Row, page: str) -> str:
    column = next(column for column in group.columns if column.key in row.cells)
    return relative(page, cell_place(row, column.claim.id, column.case).partition("#")[0])


def _cell(group: Columns, place: int, row: Row, texts: dict[str, int], page: str) -> list[Any] | None:
    """Value, error, null's ends, marks, number of the reason's text, anchor, and 1 where the text is not readable."""
    column = group.columns[place]
    cell = row.cells.get(column.key)
    if cell is None:
        return None
    marks = [
        _MARKS.index(one) for one in (cell.verdict, cell.published, cell.baseline) if one is not None and one in MARKS
    ]
    reason = texts.setdefault(cell.reason, len(texts)) if cell.reason is not None else None
    anchor = cell_place(row, column.claim.id, column.case).partition("#")[2]
    numbers = [_rounded(number) for number in (cell.value, cell.error, cell.null_low, cell.null_high)]
    return [*numbers, marks, reason, anchor, *([] if cell.readable else [1])]


def _rounded(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.4g}")
