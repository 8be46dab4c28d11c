"""``geometry-bench docs``: the pages that help texts name, also where the package alone is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geometry_bench.checked import did_you_mean
from geometry_bench.errors import GeometryBenchError
from geometry_bench.resources import data_root


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("docs")(docs)


def docs(
    page: Annotated[str | None, typer.Argument(help="Name of a page, such as groups; all names without.")] = None,
) -> None:
    """Print a page of the documentation, or the names of all."""
    pages: dict[str, Path] = {path.stem: path for path in sorted((data_root() / "docs").glob("*.md"))}
    if page is None:
        typer.echo("\n".join(pages))
    elif page in pages:
        typer.echo(pages[page].read_text(encoding="utf-8"))
    else:
        raise GeometryBenchError(
            f"There is no page {page!r}{did_you_mean(page, pages)}: `geometry-bench docs` names them."
        )
