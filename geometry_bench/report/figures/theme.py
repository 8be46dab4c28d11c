"""How figures look: fonts, greys and colours, for light and dark pages. No specification names a colour of its own page."""

from __future__ import annotations

from typing import Any

# Hues of Okabe & Ito (2008), "Color Universal Design", their lightness spread so that all seven are told apart with
# deuteranopia and protanopia too, and so that each keeps a contrast of 3 : 1 to its page (both tested).
_LIGHT = ("#0072B2", "#D55E00", "#009E73", "#85286A", "#5E4200", "#666666", "#4E9BC8")
_DARK = ("#4BA3DB", "#E8702A", "#2BC79A", "#C76FA3", "#F7D84F", "#E0E0E0", "#A8DCFF")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [1, 3], [10, 4], [4, 1])
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
FONT = "system-ui, 'Liberation Sans', 'DejaVu Sans', Arial, sans-serif"


def palette(dark: bool) -> tuple[str, ...]:
    """Colours of categories, in order."""
    return _DARK if dark else _LIGHT


def config(dark: bool) -> dict[str, Any]:
    """Vega-Lite configuration of a light or a dark page.

    The styles ``null``, ``window``, ``bound``, ``reported`` and ``note`` are those of bands, reference lines, values of a
    source and small text.
    """
    ink, soft, grid, page = (
        ("#E8E8E8", "#B4B4B4", "#3A3A3A", "#16181B") if dark else ("#1A1A1A", "#595959", "#E3E3E3", "#FFFFFF")
    )
    colours = list(palette(dark))
    return {
        "background": page,
        "font": FONT,
        "padding": 8,
        "view": {"stroke": None, "continuousWidth": 460, "continuousHeight": 260},
        "axis": {
            "domainColor": soft,
            "tickColor": soft,
            "gridColor": grid,
            "labelColor": ink,
            "titleColor": ink,
            "labelFontSize": 11,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelLimit": 260,
            "labelOverlap": True,
        },
        "legend": {
            "orient": "bottom",
            "columns": 2,
            "labelColor": ink,
            "titleColor": ink,
            "labelFontSize": 11,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
            "labelLimit": 300,
            "titleLimit": 400,
            "symbolSize": 70,
            "symbolOpacity": 1,
            "symbolBaseFillColor": ink,
            "symbolBaseStrokeColor": ink,
            "offset": 8,
        },
        "header": {
            "labelColor": ink,
            "titleColor": ink,
            "labelFontSize": 12,
            "labelFontWeight": "bold",
            "labelLimit": 300,
        },
        "title": {"color": ink, "fontSize": 12, "fontWeight": "normal", "anchor": "start", "offset": 8},
        "range": {"category": colours, "symbol": list(SHAPES), "ordinal": colours},
        "line": {"strokeWidth": 2},
        "point": {"size": 60, "filled": True, "opacity": 1},
        "rule": {"color": soft},
        "text": {"color": ink, "fontSize": 11},
        "style": {
            "null": {"color": soft, "fillOpacity": 0.32},
            "around": {"color": soft, "fillOpacity": 0.12},
            "window": {"color": "#E69F00", "fillOpacity": 0.14},
            "bound": {"color": soft, "strokeDash": [4, 3], "strokeWidth": 1},
            "interval": {"strokeWidth": 1.5},
            "reported": {"filled": False, "color": ink, "strokeWidth": 1.5, "shape": "diamond", "size": 90},
            "note": {"fill": soft, "fontSize": 10.5},
        },
    }
