"""What several kinds of figures are drawn with: series told apart by colour, dash and shape, layers, panels, tooltips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from geometry_bench.claims.model import Case
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.records.estimates import Curve, Estimate
from geometry_bench.records.judgement import Judgement
from geometry_bench.report.figures.model import DATA, Row
from geometry_bench.report.figures.theme import DASHES, SHAPES

if TYPE_CHECKING:
    from altair.typing import ChartType

VARIANT_SHOWN = "datum.variant === variant || variant === 'both' || datum.alone"
"""Keeps the rows of the chosen variant, and those of the only one that there is."""

NARROW = 420
"""Width in pixels below which a figure has no room for long text."""


# Rows


def points(curve: Curve, **facts: Any) -> list[Row]:
    """One row a defined place on a curve: ``x``, ``y``, and ``low`` and ``high`` where the curve has them."""
    low, high = (curve.low or [None] * len(curve.x)), (curve.high or [None] * len(curve.x))
    return [
        {**facts, "x": x, "y": y} | ({} if a is None or b is None else {"low": a, "high": b})
        for x, y, a, b in zip(curve.x, curve.y, low, high, strict=True)
        if y is not None
    ]


def placed(rows: Sequence[Row]) -> list[Row]:
    """The rows with the ``place`` of their panel, in order of first appearance."""
    places = {panel: place for place, panel in enumerate(dict.fromkeys(row["panel"] for row in rows))}
    return [{**row, "place": places[row["panel"]]} for row in rows]


def variants(one: Judgement) -> list[tuple[Estimate, dict[str, Any]]]:
    """The estimates of a measurement, each with the facts by which a figure shows one of them."""
    found = one.measurement.estimates
    return [(estimate, {"variant": name, "alone": len(found) == 1}) for name, estimate in found.items()]


def case_of(one: Judgement) -> Case:
    """The declared case of a measurement, or one of its name."""
    claim, key = CLAIMS.get(one.measurement.claim), one.measurement.case
    return next((case for case in (claim.cases if claim is not None else ()) if case.key == key), Case(key, (key,)))


# Charts


def part(*names: str) -> Any:
    """A layer without data of its own that draws the rows whose ``part`` is one of some."""
    import altair as alt

    return alt.Chart().transform_filter(alt.FieldOneOfPredicate(field="part", oneOf=list(names)))


def layered(*layers: Any, height: Any = 260, params: Sequence[Any] = (), **more: Any) -> ChartType:
    """Layers over the named data, as wide as the page allows."""
    import altair as alt

    found = alt.layer(*layers, data=alt.NamedData(name=DATA)).properties(width="container", height=height, **more)
    return found.add_params(*params)


def panels(
    *layers: Any,
    width: int = 220,
    height: Any = 150,
    shared: Sequence[str] = ("x",),
    params: Sequence[Any] = (),
) -> Any:
    """The same layers for each ``panel`` of ``placed`` rows, two beside each other; axes that are not shared differ."""
    import altair as alt

    own: Any = {axis: "independent" for axis in ("x", "y") if axis not in shared}
    order = alt.EncodingSortField(field="place", op="min")
    panel = alt.Facet("panel:N", title=None, sort=order, header=alt.Header(labelAnchor="start"))
    each = alt.layer(*layers).properties(width=width, height=height)
    found = each.facet(facet=panel, data=alt.NamedData(name=DATA), columns=2)
    return found.resolve_scale(**own).resolve_axis(x="independent").add_params(*params)


def series(field: str, names: Sequence[str], title: str | None = None) -> dict[str, Any]:
    """Colour, dash and shape of lines by a field; ``names`` are its values in order."""
    import altair as alt

    def scale(values: Sequence[Any] | None) -> Any:
        return alt.Scale(domain=list(names), range=alt.Undefined if values is None else list(values)[: len(names)])

    return {
        "color": alt.Color(
            field, type="nominal", title=title, scale=scale(None), legend=alt.Legend(symbolStrokeWidth=0)
        ),
        "strokeDash": alt.StrokeDash(field, type="nominal", title=title, scale=scale(DASHES)),
        "shape": alt.Shape(field, type="nominal", title=title, scale=scale(SHAPES)),
    }


def lines(x: Any, y: Any, told: dict[str, Any], tooltip: Sequence[Any]) -> list[Any]:
    """Lines with a mark at each place, of the rows of the part ``line``; the look is that of ``series``."""
    ends = {"x": x, "y": y, "color": told["color"]}
    return [
        part("line").mark_line().encode(**ends, strokeDash=told["strokeDash"]),
        part("line").mark_point(size=30).encode(**ends, shape=told["shape"], tooltip=list(tooltip)),
    ]


def line_at(*, x: float | None = None, y: float | None = None) -> Any:
    """A reference line at one place of an axis, drawn once however many rows there are."""
    import altair as alt

    once = alt.Chart().transform_aggregate(rows="count()").mark_rule(style="bound")
    return once.encode(y=alt.YDatum(y)) if x is None else once.encode(x=alt.XDatum(x))


def choice_of_variant(*more: str) -> Any:
    """Buttons that choose between the corrected and the published variant."""
    import altair as alt

    bind = alt.binding_radio(options=["corrected", "published", *more], name="variant: ")
    return alt.param(name="variant", value="corrected", bind=bind)


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
