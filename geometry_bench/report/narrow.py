"""Tables for narrow terminals: cases below the claim that they belong to, so that no column is cut."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest

_LEAST = 12
_GAP = "  "


@dataclass(frozen=True)
class Line:
    """A case's cells, and a remark that goes below them."""

    claim: str
    case: str
    cells: tuple[str, ...]
    remark: str = ""


def grouped(rows: Sequence[Line], headers: Sequence[str], width: int | None = None) -> str:
    """Rows under the first of ``headers`` by claim and case, the cells under the others, within ``width`` columns.

    Where they do not fit beside the name of a case, they are on the line below it. Nothing is cut: cells that together
    are wider than ``width`` stay so.
    """
    columns = list(zip_longest(*(row.cells for row in rows), fillvalue=""))
    widths = [max(map(len, (header, *column))) for header, column in zip(headers[1:], columns, strict=True)]
    longest = max(len(name) for row in rows for name in (row.claim, f"{_GAP}{row.case}"))
    room = longest if width is None else max(_LEAST, width - sum(widths) - len(_GAP) * len(widths))
    first = min(longest, room)

    def line(name: str, cells: Sequence[str]) -> str:
        named = zip((name, *cells), (first, *widths), strict=True)
        return _GAP.join(cell.ljust(size) for cell, size in named).rstrip()

    def told(name: str, row: Line) -> Iterator[str]:
        yield from [line(name, row.cells)] if len(name) <= first else [name, line("", row.cells)]
        if row.remark:
            indent = 2 * _GAP if row.case else _GAP
            yield from textwrap.wrap(row.remark, width or 1000, initial_indent=indent, subsequent_indent=indent)

    lines = [line(headers[0], headers[1:]), line("-" * first, ["-" * size for size in widths])]
    for claim, of_claim in groupby(rows, lambda row: row.claim):
        found = list(of_claim)
        if len(found) > 1 or found[0].case:
            lines.append(claim)
        for row in found:
            lines += told(f"{_GAP}{row.case}" if row.case else claim, row)
    return "\n".join(lines)
