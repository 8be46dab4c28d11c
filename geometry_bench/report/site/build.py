"""All pages of a site, in the order in which they are written. The same contents give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from geometry_bench.report.figures import FIGURES, config
from geometry_bench.report.figures.model import has_altair
from geometry_bench.report.site import audits, boards, claims, comparisons, reported, subjects
from geometry_bench.report.site.contents import Contents
from geometry_bench.report.site.page import Page

STATIC = ("site.css", "site.js", "board.js", "figure.js")
"""Assets that are files of the package."""


def build(contents: Contents) -> dict[str, str | bytes]:
    """The whole site: path within its folder -> content."""
    return dict(pages(contents))


def pages(contents: Contents) -> Iterator[tuple[str, str | bytes]]:
    """The site file by file, so that a large one need not be held in memory."""
    for page in _pages(contents):
        yield page.place, page.html()
    for name in STATIC:
        yield f"assets/{name}", (files(__package__) / "assets" / name).read_text(encoding="utf-8")
    if has_altair():
        yield "assets/figures.js", _figures()
        yield "assets/vega.js", _vega()


def _pages(contents: Contents) -> Iterator[Page]:
    yield from boards.pages(contents)
    yield from claims.pages(contents)
    yield from subjects.pages(contents)
    yield from comparisons.pages(contents)
    yield from reported.pages(contents)
    yield from audits.pages(contents)


def _figures() -> str:
    """Every kind of figure once, with the themes: pages hold rows alone."""
    told: dict[str, Any] = {
        "light": config(dark=False),
        "dark": config(dark=True),
        "kinds": {name: figure.specification() for name, figure in FIGURES.items()},
    }
    return f"window.geometryBenchFigures = {json.dumps(told, ensure_ascii=True, sort_keys=True)};\n"


@cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script, as vl-convert ships them."""
    import vl_convert

    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return script
