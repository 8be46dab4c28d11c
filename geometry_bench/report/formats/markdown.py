"""Markdown: a heading and a table a claim."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from geometry_bench.report.board import Table, headers, texts


def render(tables: Sequence[Table]) -> str:
    """The board as markdown."""
    return "\n\n".join(["## Leaderboard", *map(_section, tables)]) + "\n"


def cell_of(text: str) -> str:
    """Text as a cell of a table: on one line, its bars no borders."""
    return text.replace("|", "\\|").replace("\n", " ")


def _section(table: Table) -> str:
    rows = [[cell_of(cell) for cell in row] for row in texts(table)]
    cells = tabulate(rows, headers(table), tablefmt="pipe", disable_numparse=True)
    return f"### {table.claim}\n\n{table.statement} ({table.source})\n\n{cells}"
