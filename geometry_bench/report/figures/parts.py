"""What several kinds of figures are drawn with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from geometry_bench.records.estimates import Curve
from geometry_bench.report.figures.model import DATA, Row

if TYPE_CHECKING:
    from altair.typing import ChartType


def points(curve: Curve, **facts: Any) -> list[Row]:
    """One row a place on a curve: ``x``, ``y``, and ``low`` and ``high`` where the curve has them."""
    low, high = (curve.low or [None] * len(curve.x)), (curve.high or [None] * len(curve.x))
    return [
        {**facts, "x": x, "y": y, "low": a, "high": b}
        for x, y, a, b in zip(curve.x, curve.y, low, high, strict=True)
        if y is not None
    ]


def part(*names: str) -> Any:
    """A layer without data of its own that draws the rows whose ``part`` is one of some."""
    import altair as alt

    return alt.Chart().transform_filter(alt.FieldOneOfPredicate(field="part", oneOf=list(names)))


def layered(*layers: Any, height: int = 260, **more: Any) -> ChartType:
    """Layers over the named data, as wide as the page allows."""
    import altair as alt

    return alt.layer(*layers, data=alt.NamedData(name=DATA)).properties(width="container", height=height, **more)


def heading(field: str) -> Any:
    """A line over the axes that says what the first row's ``field`` says: the unit of y, which differs by row."""
    import altair as alt

    return alt.TitleParams(text=alt.ExprRef(expr=f"length(data('{DATA}')) ? data('{DATA}')[0].{field} : ''"))


def tips(*fields: str) -> list[Any]:
    """Tooltips: ``name:T=title``; numbers with four digits."""
    import altair as alt

    found = []
    for one in fields:
        field, _, title = one.partition("=")
        found.append(alt.Tooltip(field, title=title, format=".4~f" if field.endswith(":Q") else alt.Undefined))
    return found


def in_order(names: Iterable[str | None]) -> Sequence[str]:
    """Each name once, in the order in which they come."""
    return [name for name in dict.fromkeys(names) if name is not None]
