"""A kind of figure, as data: its rows are a pure function of judgements, its drawing a Vega-Lite specification."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from geometry_bench.errors import GeometryBenchError
from geometry_bench.records.judgement import Judgement

if TYPE_CHECKING:
    from altair.typing import ChartType

DATA = "values"
"""Name of the data source that specifications draw from."""

Row = Mapping[str, float | int | str | bool | None]
Scope = Literal["measurement", "subject", "claim", "board", "comparison"]
"""What the judgements of one figure have in common: one measurement, one subject, one claim, or all; or a comparison."""


@dataclass(frozen=True)
class Figure:
    """One kind of figure, declared once: what it draws of judgements, and how.

    ``name`` is its file and anchor name, ``caption`` says what is drawn and how to read it. ``rows`` is pure, and empty
    where there is nothing to draw. ``chart`` draws the data source ``values`` and holds no data; text of users stands in
    rows alone, never in a specification.
    """

    name: str
    title: str
    caption: str
    scope: Scope
    rows: Callable[[Sequence[Judgement]], list[Row]]
    chart: Callable[[], ChartType]

    def specification(self) -> dict[str, Any]:
        """Vega-Lite JSON over the named data, made once: not to be changed. Theme and rows are added where it is shown.

        Raises:
            GeometryBenchError: altair is not installed.
        """
        return _specification(self)


@cache
def _specification(figure: Figure) -> dict[str, Any]:
    if not has_altair():
        raise needs("altair")
    found: dict[str, Any] = figure.chart().to_dict()
    found.pop("config", None)
    return {**found, "description": figure.caption}


@cache
def has_altair() -> bool:
    """Whether figures can be drawn."""
    try:
        import altair  # noqa: F401
    except ImportError:
        return False
    return True


def needs(package: str) -> GeometryBenchError:
    """What to do where a package of the extra is missing."""
    return GeometryBenchError(f"Figures need {package}: pip install 'geometry-bench[report]'.")
