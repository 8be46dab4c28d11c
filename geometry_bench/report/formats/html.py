"""HTML: one file, no scripts, nothing fetched, so that it can be mailed or archived."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader

from geometry_bench.report.board import Table, headers, texts


def render(tables: Sequence[Table]) -> str:
    """The board as a page."""
    loader = PackageLoader("geometry_bench.report")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=loader).get_template("board.html")
    sections = [{"table": table, "headers": headers(table), "rows": texts(table)} for table in tables]
    return page.render(sections=sections).rstrip("\n") + "\n"
