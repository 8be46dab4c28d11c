"""Figures as files: a specification with its rows and a theme, drawn by vl-convert without a browser or a network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from geometry_bench.report.figures.model import DATA, Figure, Row, needs
from geometry_bench.report.figures.theme import config

WIDTH = 520
"""In pixels, of a figure that fills the width of its page."""


def standing(figure: Figure, rows: Sequence[Row], *, dark: bool = False) -> dict[str, Any]:
    """A whole Vega-Lite specification with its rows, of a width of its own.

    Raises:
        GeometryBenchError: altair is not installed.
    """
    found = {**figure.specification(), "datasets": {DATA: [dict(row) for row in rows]}, "config": config(dark)}
    return {**found, "width": WIDTH} if found.get("width") == "container" else found


def svg(figure: Figure, rows: Sequence[Row], *, dark: bool = False) -> str:
    """The figure as SVG.

    Raises:
        GeometryBenchError: altair or vl-convert is not installed.
    """
    drawn: str = _converter().vegalite_to_svg(_text(figure, rows, dark), allowed_base_urls=[])
    return drawn


def png(figure: Figure, rows: Sequence[Row], *, scale: float = 2, dark: bool = False) -> bytes:
    """The figure as PNG, ``scale`` pixels a point.

    Raises:
        GeometryBenchError: altair or vl-convert is not installed.
    """
    drawn: bytes = _converter().vegalite_to_png(_text(figure, rows, dark), scale=scale, allowed_base_urls=[])
    return drawn


def _text(figure: Figure, rows: Sequence[Row], dark: bool) -> str:
    return json.dumps(standing(figure, rows, dark=dark), ensure_ascii=False, allow_nan=False)


def _converter() -> Any:
    try:
        import vl_convert
    except ImportError:
        raise needs("vl-convert-python") from None
    return vl_convert
