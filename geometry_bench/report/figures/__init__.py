"""Figures of judgements: each kind declared once, drawn by one specification, exported without a browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from geometry_bench.records.judgement import Judgement
from geometry_bench.report.figures import axes, changes, headline, layers, steering, subspaces, values
from geometry_bench.report.figures.export import png, standing, svg
from geometry_bench.report.figures.model import DATA, Figure, Row, Scope
from geometry_bench.report.figures.theme import config

__all__ = ["DATA", "FIGURES", "Figure", "Row", "Scope", "config", "drawn", "png", "standing", "svg"]

FIGURES: Mapping[str, Figure] = {
    figure.name: figure
    for module in (headline, axes, layers, steering, subspaces, changes, values)
    for figure in module.FIGURES
}
"""All kinds of figures by name, in the order in which a page shows them."""


def drawn(judged: Sequence[Judgement], scope: Scope) -> list[tuple[Figure, list[Row]]]:
    """The kinds of figures of a scope that have something to draw of judgements, each with its rows."""
    found = ((figure, figure.rows(judged)) for figure in FIGURES.values() if figure.scope == scope)
    return [(figure, rows) for figure, rows in found if rows]
