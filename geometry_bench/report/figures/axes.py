"""The cosines of source A's axes in one model, as a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from geometry_bench.records.estimates import Estimate
from geometry_bench.records.judgement import Judgement
from geometry_bench.report.figures.model import Figure, Row
from geometry_bench.report.figures.parts import (
    NARROW,
    VARIANT_SHOWN,
    case_of,
    choice_of_variant,
    layered,
    tips,
    variants,
)

if TYPE_CHECKING:
    from altair.typing import ChartType

PAIRS: Mapping[str, tuple[str, ...]] = {
    "compassion.cross_tradition_cosine": (),
    "compassion.unified_axis": ("unified",),
    "safety.compassion_alignment": ("safety", "chenrezig"),
    "safety.tradition_alignment": ("safety",),
    "safety.strict_agreement": ("safety", "strict safety"),
    "safety.baseline_sign": ("safety", "default"),
}
"""The axes between which a claim takes a cosine, before those that its case names."""

AXES = ("default", "safety", "strict safety", "chenrezig", "tara", "agape", "rahma", "unified", "secular")


def cosine_rows(judged: Sequence[Judgement]) -> list[Row]:
    """The cosine of each pair of axes of a model that a claim takes, once on either side of the diagonal."""
    rows: list[Row] = []
    for one in judged:
        for estimate, facts in variants(one):
            for (a, b), value in _cosines(one, estimate).items():
                rows += [_cell(x, y, value, estimate, facts, one) for x, y in ((a, b), (b, a))]
    return rows


def _cosines(one: Judgement, estimate: Estimate) -> dict[tuple[str, str], float]:
    claim = one.measurement.claim
    if claim == "compassion.secular_divergence":
        named = {tuple(name.split("-")): value for name, value in estimate.details.items() if name.endswith("-secular")}
        return {(a, b): value for (a, b), value in named.items() if value is not None}
    if claim not in PAIRS or estimate.value is None:
        return {}
    first = PAIRS[claim]
    a, b = first if len(first) == 2 else (*first, *case_of(one).parameters)
    return {(a, b): estimate.value}


def _cell(a: str, b: str, value: float, estimate: Estimate, facts: Mapping[str, Any], one: Judgement) -> Row:
    null = estimate.null if one.measurement.claim in PAIRS else None
    inside = null is not None and null.low <= value <= null.high
    return {
        **facts,
        "a": a,
        "b": b,
        "value": value,
        "text": f"({value:+.2f})" if inside else f"{value:+.2f}",
        "case": one.measurement.key,
        "null": None if null is None else f"{null.low:+.2f} to {null.high:+.2f}",
        "block": estimate.block,
    }


def _cosine_chart() -> ChartType:
    import altair as alt

    bare: Any = {"grid": False, "domain": False, "ticks": False, "labelOverlap": False}
    x = alt.X(
        "a:N",
        title=None,
        scale=alt.Scale(domain=list(AXES)),
        axis=alt.Axis(orient="top", labelAngle=-35, **bare),
    )
    y = alt.Y("b:N", title=None, scale=alt.Scale(domain=list(AXES)), axis=alt.Axis(**bare))
    colour = alt.Color(
        "value:Q",
        title="cosine",
        scale=alt.Scale(scheme="blueorange", domain=[1, -1]),
        legend=alt.Legend(gradientLength=180, values=[-1, -0.5, 0, 0.5, 1], format=".1f"),
    )
    told = tips("a:N=axis", "b:N=and", "value:Q=cosine", "null:N=null, 5 to 95 %", "block:O=block", "case:N=case")
    ink = alt.condition("abs(datum.value) > 0.72", alt.value("#FFFFFF"), alt.value("#1A1A1A"))
    shown = alt.Chart().transform_filter(VARIANT_SHOWN)
    size = alt.ExprRef(f"width < {NARROW} ? 7 : 11")
    return layered(
        shown.mark_rect(cornerRadius=3).encode(x=x, y=y, color=colour, tooltip=told),
        shown.mark_text(fontSize=size).encode(x=x, y=y, text="text:N", color=ink, tooltip=told),
        height=300,
        params=[choice_of_variant()],
    )


FIGURES = (
    Figure(
        name="axes",
        title="Cosines of the axes",
        caption="The cosine of each pair of axes that a claim takes, at the block of its value; a value in brackets "
        "lies inside its null. Compassion axes are taken on messages of suffering, safety axes on everyday "
        "requests. Cells without a claim are empty.",
        scope="subject",
        rows=cosine_rows,
        chart=_cosine_chart,
    ),
)
