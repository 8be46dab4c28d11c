"""Figures over the blocks of one model: a claim's profile, and the magnitudes of two classes side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geometry_bench.claims.registry import CLAIMS
from geometry_bench.records.estimates import VARIANTS, Curve, Estimate
from geometry_bench.records.facts import ModelFacts
from geometry_bench.records.judgement import Judgement
from geometry_bench.records.measurement import main_estimate
from geometry_bench.report.figures.model import Figure, Row
from geometry_bench.report.figures.parts import heading, layered, lines, panels, part, points, series, tips

if TYPE_CHECKING:
    from altair.typing import ChartType

PROFILE = "profile"
MAGNITUDES = {
    "magnitude.peak_depth": "L2: {unit}",
    "magnitude.parallel_means[raw]": "cosine of the class means",
    "magnitude.parallel_means[centred]": "cosine of the class means, centred",
    "magnitude.variance_inversion": "variance of safe over that of harmful requests",
    "magnitude.norm_gap": "norm of safe less harmful requests, over their mean",
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
    at = None if claim is not None and claim.profile is not None else read_at(estimate, window)
    named = {"variant": variant, "unit": claim.unit_of_profile if claim is not None else PROFILE}
    rows: list[Row] = points(curve, part="line", **named)
    if is_main and window:
        rows.append({"part": "window", **_across(window[0], window[-1])})
    if at is None:
        return rows
    middle = {"x": (at[0] + at[1]) / 2}
    rows.append({"part": "value", **named, **middle, "y": estimate.value, "low": estimate.low, "high": estimate.high})
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


def magnitude_rows(judged: Sequence[Judgement]) -> list[Row]:
    """The profiles of the claims on magnitude of one model, a panel each."""
    found = {one.measurement.key: one for one in judged}
    rows: list[Row] = []
    for key, title in MAGNITUDES.items():
        own = profile_rows([found[key]]) if key in found else []
        panel = title.format(unit=own[0]["unit"]) if own else title
        rows += [{**row, "panel": panel} for row in own]
    return rows


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
    return [
        part("window").mark_rect(style="window").encode(**span),
        part("around").mark_rect(style="around").encode(**span, y="low:Q", y2="high:Q", tooltip=null),
        part("null").mark_rect(style="null").encode(**span, y="low:Q", y2="high:Q", tooltip=null),
        part("bound").mark_rule(style="bound").encode(y=y, tooltip=tips("y:Q=criterion")),
        *lines(block, y, told, shown, "line"),
        part("value").mark_rule(style="interval").encode(x=block, y="low:Q", y2="high:Q", color=colour),
        part("value")
        .mark_point(size=110)
        .encode(x=block, y=y, color=colour, shape=shape, tooltip=[*shown, *tips("low:Q=low", "high:Q=high")]),
        part("reported").mark_point(style="reported").encode(x=block, y=y, tooltip=tips("y:Q=reported by the source")),
    ]


def _profile_chart() -> ChartType:
    return layered(*_layers(), title=heading("unit"))


def _magnitude_chart() -> ChartType:
    found: ChartType = panels(*_layers())
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
        caption=f"The value at every decoder block, in both variants. {_READ} Shaded blocks are those that the claim reads.",
        scope="measurement",
        rows=profile_rows,
        chart=_profile_chart,
    ),
    Figure(
        name="magnitude",
        title="Distance, cosine, variance and norm over blocks",
        caption=f"How far safe and harmful requests lie apart at every decoder block, and how. {_READ}",
        scope="subject",
        rows=magnitude_rows,
        chart=_magnitude_chart,
    ),
)
