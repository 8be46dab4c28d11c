"""How commands print tables: as wide as the terminal, or as JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Sequence
from typing import Annotated, Any

import typer
from tabulate import tabulate

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

LEAST = 16
"""Characters that a wrapped column keeps."""


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
    """Print rows under headers; columns in ``wraps`` are wrapped so that the table fits the terminal.

    As JSON a list of objects, one a row, with the headers as keys, and nothing ``above`` or ``below``.
    """
    if as_json:
        typer.echo(json.dumps([dict(zip(headers, row, strict=True)) for row in rows], indent=1, ensure_ascii=False))
        return
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    columns = zip(headers, *texts, strict=True)
    widths = [max(len(line) for cell in column for line in cell.split("\n")) for column in columns]
    spare = shutil.get_terminal_size().columns - sum(
        width for header, width in zip(headers, widths, strict=True) if header not in wraps
    )
    gap = 3 if style == "grid" else 2
    share = max(LEAST, (spare - gap * len(headers) - 1) // max(1, len(wraps)))
    most = [share if header in wraps else None for header in headers]
    table = tabulate(texts, headers, tablefmt=style, disable_numparse=True, maxcolwidths=most) if texts else ""
    typer.echo("\n".join(part for part in (above, table, below) if part))
