"""Figures over the blocks of one model: a claim's profile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geometry_bench.claims.registry import CLAIMS
from geometry_bench.records.estimates import Curve, Estimate
from geometry_bench.records.facts import ModelFacts
from geometry_bench.records.judgement import Judgement
from geometry_bench.records.measurement import main_estimate
from geometry_bench.report.figures.model import Figure, Row
from geometry_bench.report.figures.parts import heading, layered, part, points, tips

if TYPE_CHECKING:
    from altair.typing import ChartType

PROFILE = "profile"


def read_at(estimate: Estimate, window: Sequence[int] = ()) -> tuple[int, int] | None:
    """First and last block at which a value is read off its profile, as a point or a mean; None where it is neither."""
    curve, value = estimate.curves[PROFILE], estimate.value
    known = {int(x): y for x, y in zip(curve.x, curve.y, strict=True) if y is not None}
    if value is None or not known:
        return None
    if estimate.block is not None:
        return (estimate.block, estimate.block) if _same(known.get(estimate.block), value) else None
    in_window = [known[block] for block in window if block in known]
    if in_window and _same(float(np.mean(in_window)), value):
        return window[0], window[-1]
    points_of_it = [block for block, y in known.items() if _same(y, value)]
    if points_of_it:
        return points_of_it[0], points_of_it[0]
    return (min(known), max(known)) if _same(float(np.mean(list(known.values()))), value) else None


def _same(a: float | None, b: float) -> bool:
    return a is not None and abs(a - b) <= 1e-6 * max(1.0, abs(b))


def profile_rows(judged: Sequence[Judgement]) -> list[Row]:
    """Profiles of both variants of one measurement; null, value and reported value where they are read off the profile."""
    rows: list[Row] = []
    for one in judged:
        main = main_estimate(one.measurement.estimates)
        for variant, estimate in one.measurement.estimates.items():
            if PROFILE in estimate.curves:
                rows += _profile(one, variant, estimate, is_main=estimate is main)
    return rows


def _profile(one: Judgement, variant: str, estimate: Estimate, *, is_main: bool) -> list[Row]:
    claim, curve = CLAIMS.get(one.measurement.claim), estimate.curves[PROFILE]
    layers = one.measurement.subject.layers if isinstance(one.measurement.subject, ModelFacts) else None
    window = list(claim.window(layers)) if claim is not None and claim.window is not None and layers else []
    named = {"variant": variant, "unit": claim.unit_of_profile if claim is not None else PROFILE}
    rows: list[Row] = [{"part": "line", **row} for row in points(curve, **named)]
    at = None if claim is not None and claim.profile is not None else read_at(estimate, window)
    if is_main and window:
        rows.append({"part": "window", **_across(window[0], window[-1])})
    if at is not None:
        middle = {"x": (at[0] + at[1]) / 2, "first": at[0], "last": at[1]}
        rows.append(
            {"part": "value", **named, **middle, "y": estimate.value, "low": estimate.low, "high": estimate.high}
        )
        if is_main:
            rows += _references(one, estimate, at, curve)
        reported = one.published.number("reported")
        if variant == "published" and reported is not None:
            rows.append({"part": "reported", **middle, "y": reported})
    return rows


def _references(one: Judgement, estimate: Estimate, at: tuple[int, int], curve: Curve) -> list[Row]:
    claim, null = CLAIMS.get(one.measurement.claim), estimate.null
    rows: list[Row] = [{"part": "bound", "y": bound} for bound in (claim.criterion.bounds if claim is not None else ())]
    if null is not None:
        ends: dict[str, Any] = {"low": null.low, "high": null.high, "null": null.name}
        rows.append({"part": "around", **ends, **_across(int(min(curve.x)), int(max(curve.x)))})
        rows.append({"part": "null", **ends, **_across(*at)})
    return rows


def _across(first: int, last: int) -> dict[str, float]:
    return {"from": first - 0.5, "to": last + 0.5}


def _profile_chart() -> ChartType:
    import altair as alt

    block = alt.X(
        "x:Q",
        title="decoder block (from 0)",
        axis=alt.Axis(tickMinStep=1, format="d"),
        scale=alt.Scale(zero=False, nice=False),
    )
    variants = ["corrected", "published"]
    colour = alt.Color(
        "variant:N", title="variant", scale=alt.Scale(domain=variants), legend=alt.Legend(symbolStrokeWidth=0)
    )
    dash = alt.StrokeDash("variant:N", title="variant", scale=alt.Scale(domain=variants, range=[[1, 0], [6, 3]]))
    shape = alt.Shape("variant:N", title="variant", scale=alt.Scale(domain=variants))
    y = alt.Y("y:Q", title=None, scale=alt.Scale(zero=False))
    null = tips("null:N=null", "low:Q=5 %", "high:Q=95 %")
    span, told = {"x": alt.X("from:Q"), "x2": "to:Q"}, tips("variant:N=variant", "x:Q=block", "y:Q=value")
    return layered(
        part("window").mark_rect(style="window").encode(**span),
        part("around").mark_rect(style="around").encode(**span, y="low:Q", y2="high:Q", tooltip=null),
        part("null").mark_rect(style="null").encode(**span, y="low:Q", y2="high:Q", tooltip=null),
        part("bound").mark_rule(style="bound").encode(y=y, tooltip=tips("y:Q=criterion")),
        part("line").mark_line().encode(x=block, y=y, color=colour, strokeDash=dash),
        part("line").mark_point(size=28).encode(x=block, y=y, color=colour, shape=shape, tooltip=told),
        part("value").mark_rule(style="interval").encode(x=block, y="low:Q", y2="high:Q", color=colour),
        part("value")
        .mark_point(size=110)
        .encode(x=block, y=y, color=colour, shape=shape, tooltip=[*told, *tips("low:Q=low", "high:Q=high")]),
        part("reported").mark_point(style="reported").encode(x=block, y=y, tooltip=tips("y:Q=reported by the source")),
        title=heading("unit"),
    )


FIGURES = (
    Figure(
        name="profile",
        title="Profile over blocks",
        caption="The value at every decoder block, in both variants. The large mark is the value with its 95 % interval, at "
        "the block or in the middle of the blocks that it is read at. The grey band is its null, from 5 to 95 %: dark at "
        "those blocks, pale at the others, whose own null is not kept. The dashed line is the criterion, the hollow diamond "
        "what the source reports for this model; shaded blocks are those that the claim analyses.",
        scope="measurement",
        rows=profile_rows,
        chart=_profile_chart,
    ),
)
