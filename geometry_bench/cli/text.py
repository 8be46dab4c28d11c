"""How commands print tables: as wide as the terminal, or as JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Collection, Sequence
from typing import Annotated, Any

import typer
from tabulate import tabulate

from geometry_bench.report.terminal import columns, is_wanted, painted

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

LEAST = 16
"""Characters that a wrapped column keeps; where there is no room for these, rows become paragraphs."""


def print_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    as_json: bool = False,
    wraps: Collection[str] = (),
    style: str = "simple",
    above: str = "",
    below: str = "",
) -> None:
    """Print rows under headers within the terminal: columns in ``wraps`` are wrapped, or rows become paragraphs.

    As JSON a list of objects, one a row, with the headers as keys, and nothing ``above`` or ``below``.
    """
    if as_json:
        typer.echo(json.dumps([dict(zip(headers, row, strict=True)) for row in rows], indent=1, ensure_ascii=False))
        return
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    table = _fitted(headers, texts, wraps, style, columns()) if texts else ""
    whole = "\n".join(part for part in (above, table, below) if part)
    typer.echo(painted(whole) if is_wanted() else whole)  # which takes colours out where there is no terminal


def _fitted(
    headers: Sequence[str], texts: Sequence[Sequence[str]], wraps: Collection[str], style: str, width: int
) -> str:
    widths = [
        max(len(line) for cell in column for line in cell.split("\n")) for column in zip(headers, *texts, strict=True)
    ]
    taken = sum(size for header, size in zip(headers, widths, strict=True) if header not in wraps)
    gap = 3 if style == "grid" else 2
    share = (width - taken - gap * len(headers) - 1) // max(1, len(wraps))
    if share < LEAST and taken + gap * (len(headers) - 1) + LEAST * len(wraps) > width:
        return "\n".join(_paragraph(headers, row, wraps, width) for row in texts)
    most = [max(share, LEAST) if header in wraps else size for header, size in zip(headers, widths, strict=True)]
    return tabulate(texts, headers, style, disable_numparse=True, maxcolwidths=most, maxheadercolwidths=most)


def _paragraph(headers: Sequence[str], row: Sequence[str], wraps: Collection[str], width: int) -> str:
    """The first cell on a line, below it the short ones with their headers, then the long ones."""
    first, *others = zip(headers, row, strict=True)
    short = "; ".join(f"{header} {cell}" for header, cell in others if cell and header not in wraps)
    long = (cell for header, cell in others if cell and header in wraps)
    wrapper = textwrap.TextWrapper(width, "  ", "  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join([first[1], *(line for text in (short, *long) for line in wrapper.wrap(text))])
