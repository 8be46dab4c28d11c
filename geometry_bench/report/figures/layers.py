"""Figures over the blocks of one model: a claim's profile, and the magnitudes of two classes side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geometry_bench.claims.registry import CLAIMS
from geometry_bench.records.estimates import VARIANTS, Estimate
from geometry_bench.records.facts import ModelFacts
from geometry_bench.records.judgement import Judgement
from geometry_bench.report.figures.model import Figure, Row
from geometry_bench.report.figures.parts import (
    VARIANT_SHOWN,
    choice_of_variant,
    heading,
    layered,
    lines,
    panels,
    part,
    placed,
    points,
    series,
    tips,
    variants,
)

if TYPE_CHECKING:
    from altair.typing import ChartType

PROFILE = "profile"
MAGNITUDES = {
    "magnitude.peak_depth": "L2 distance of the class means",
    "magnitude.parallel_means[raw]": "cosine of the class means",
    "magnitude.parallel_means[centred]": "the same, centred",
    "magnitude.variance_inversion": "variance, safe over harmful",
    "magnitude.norm_gap": "norm, safe less harmful (relative)",
}
"""Titles of the panels by case."""


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
    of_it = [block for block, y in known.items() if _same(y, value)]
    if of_it:
        return of_it[0], of_it[0]
    return (min(known), max(known)) if _same(float(np.mean(list(known.values()))), value) else None


def _same(a: float | None, b: float) -> bool:
    return a is not None and abs(a - b) <= 1e-6 * max(1.0, abs(b))


def profile_rows(judged: Sequence[Judgement]) -> list[Row]:
    """Profiles of the variants of a measurement; null, value and reported value where they are read off the profile."""
    return [
        row
        for one in judged
        for estimate, shown in variants(one)
        if PROFILE in estimate.curves
        for row in _profile(one, estimate, shown)
    ]


def _profile(one: Judgement, estimate: Estimate, shown: Mapping[str, Any]) -> list[Row]:
    claim, curve = CLAIMS.get(one.measurement.claim), estimate.curves[PROFILE]
    layers = one.measurement.subject.layers if isinstance(one.measurement.subject, ModelFacts) else None
    window = list(claim.window(layers)) if claim is not None and claim.window is not None and layers else []
    at = None if claim is not None and claim.profile is not None else read_at(estimate, window)
    rows: list[Row] = points(curve, part="line", unit=claim.unit_of_profile if claim is not None else PROFILE, **shown)
    if window:
        rows.append({"part": "window", **_across(window[0], window[-1]), **shown})
    if at is None:
        return rows
    middle = (at[0] + at[1]) / 2
    ends = {"low": estimate.low, "high": estimate.high}
    rows.append({"part": "value", "x": middle, "y": estimate.value, **ends, **shown})
    bounds = claim.criterion.bounds if claim is not None else ()
    rows += [{"part": "bound", "y": bound, **shown} for bound in bounds]
    if estimate.null is not None:
        null = {"low": estimate.null.low, "high": estimate.null.high, "null": estimate.null.name, **shown}
        rows.append({"part": "around", **null, **_across(int(min(curve.x)), int(max(curve.x)))})
        rows.append({"part": "null", **null, **_across(*at)})
    reported = one.published.number("reported")
    if shown["variant"] == "published" and reported is not None:
        rows.append({"part": "reported", "x": middle, "y": reported, "alone": True})
    return rows


def _across(first: int, last: int) -> dict[str, float]:
    return {"from": first - 0.5, "to": last + 0.5}


def magnitude_rows(judged: Sequence[Judgement]) -> list[Row]:
    """The profiles of the claims on magnitude of one model, a panel each."""
    found = {one.measurement.key: one for one in judged}
    own = {title: profile_rows([found[key]]) for key, title in MAGNITUDES.items() if key in found}
    return placed([{**row, "panel": title} for title, rows in own.items() for row in rows])


def _layers() -> list[Any]:
    import altair as alt

    block = alt.X(
        "x:Q",
        title="decoder block (from 0)",
        axis=alt.Axis(tickMinStep=1, format="d"),
        scale=alt.Scale(zero=False, nice=False),
    )
    told = series("variant", sorted(VARIANTS), "variant")
    y = alt.Y("y:Q", title=None, scale=alt.Scale(zero=False))
    null = tips("null:N=null", "low:Q=5 %", "high:Q=95 %")
    span = {"x": alt.X("from:Q"), "x2": "to:Q"}
    shown = tips("variant:N=variant", "x:Q=block", "y:Q=value")
    colour, shape = told["color"], told["shape"]
    drawn = [
        part("window").mark_rect(style="window").encode(**span),
        part("around").mark_rect(style="around").encode(**span, y="low:Q", y2="high:Q", tooltip=null),
        part("null").mark_rect(style="null").encode(**span, y="low:Q", y2="high:Q", tooltip=null),
        part("bound").mark_rule(style="bound").encode(y=y, tooltip=tips("y:Q=criterion")),
        *lines(block, y, told, shown),
        part("value").mark_rule(style="interval").encode(x=block, y="low:Q", y2="high:Q", color=colour),
        part("value")
        .mark_point(size=110)
        .encode(x=block, y=y, color=colour, shape=shape, tooltip=[*shown, *tips("low:Q=low", "high:Q=high")]),
        part("reported").mark_point(style="reported").encode(x=block, y=y, tooltip=tips("y:Q=reported by the source")),
    ]
    return [layer.transform_filter(VARIANT_SHOWN) for layer in drawn]


def _profile_chart() -> ChartType:
    return layered(*_layers(), title=heading("unit"), params=[choice_of_variant("both")])


def _magnitude_chart() -> ChartType:
    found: ChartType = panels(*_layers(), params=[choice_of_variant()])
    return found


_READ = (
    "The large mark is the value with its 95 % interval, at the block or in the middle of the blocks that it is "
    "read at. The grey band is its null, from 5 to 95 %: dark at those blocks, pale at the others, whose own null "
    "is not kept. The dashed line is the criterion, the hollow diamond what the source reports for this model."
)

FIGURES = (
    Figure(
        name="profile",
        title="Profile over blocks",
        caption=f"The value at every decoder block. {_READ} Shaded blocks are those that the claim reads.",
        scope="measurement",
        rows=profile_rows,
        chart=_profile_chart,
    ),
    Figure(
        name="magnitude",
        title="Distance, cosine, variance and norm over blocks",
        caption=f"How far safe and harmful requests lie apart at every decoder block, and how: the "
        f"distance is that of the means, over their norm in the corrected variant. {_READ}",
        scope="subject",
        rows=magnitude_rows,
        chart=_magnitude_chart,
    ),
)
