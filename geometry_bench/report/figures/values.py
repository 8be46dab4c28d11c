"""Figures of any claim: its values over subjects, and the curves that no other figure draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from geometry_bench.claims.model import Claim
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.published.load import load_publication
from geometry_bench.records.judgement import ClaimVerdict, Judgement
from geometry_bench.report.figures.model import Figure, Row
from geometry_bench.report.figures.parts import panels, part, placed, points, series, tips

if TYPE_CHECKING:
    from altair.typing import ChartType

VERDICTS = [str(one) for one in ClaimVerdict]
DRAWN = frozenset(
    {"profile", "overlap", "mso", "haar", "refused", "over_refused", "refused_random", "nats_per_token", "capped_share"}
    | {"unsafe_own_words", "safe_own_words", "unsafe_given_words", "safe_given_words", "by_step"}
    | {"top", "random_k", "random", "dimensions"}
)
"""Curves that have a figure of their own."""


def value_rows(judged: Sequence[Judgement]) -> list[Row]:
    """The value of each case and subject of a claim with interval, null and verdict, and what the source reports."""
    claims = dict.fromkeys(one.measurement.claim for one in judged)
    rows = [row for claim in claims if claim in CLAIMS for row in _published(CLAIMS[claim])]
    for one in judged:
        estimate = one.measurement.estimate
        if estimate is None or estimate.value is None:
            continue
        named = {"panel": one.measurement.key, "subject": one.measurement.subject.id}
        if estimate.null is not None:
            rows.append({"part": "null", **named, "low": estimate.null.low, "high": estimate.null.high})
        ends = {"x": estimate.value, "low": estimate.low, "high": estimate.high}
        rows.append({"part": "value", **named, **ends, "verdict": str(one.claim.verdict)})
    return placed(rows) if any(row["part"] == "value" for row in rows) else []


def _published(claim: Claim) -> list[Row]:
    if claim.reported is None or claim.scope != "model":
        return []
    rows: list[Row] = []
    for subject in load_publication(claim.source.id).subjects.values():
        values = {case.key: claim.reported(subject, case) for case in claim.cases}
        rows += [
            {"part": "reported", "panel": f"{claim.id}[{case}]" if case else claim.id, "subject": subject.label, "x": x}
            for case, x in values.items()
            if x is not None
        ]
    return rows


def _value_chart() -> ChartType:
    import altair as alt

    x = alt.X("x:Q", title="value", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))
    y = alt.Y("subject:N", title=None, sort=None, axis=alt.Axis(labelLimit=240))
    told = series("verdict", VERDICTS, "does the claim hold?")
    shown = tips("subject:N=subject", "verdict:N=verdict", "x:Q=value", "low:Q=low", "high:Q=high")
    null = tips("subject:N=subject", "low:Q=null, 5 %", "high:Q=null, 95 %")
    found: ChartType = panels(
        part("null").mark_bar(style="null", height=9).encode(x=alt.X("low:Q"), x2="high:Q", y=y, tooltip=null),
        part("value").mark_rule(style="interval").encode(x="low:Q", x2="high:Q", y=y, color=told["color"]),
        part("value").mark_point(size=60).encode(x=x, y=y, color=told["color"], shape=told["shape"], tooltip=shown),
        part("reported")
        .mark_point(style="reported")
        .encode(x=x, y=y, tooltip=tips("subject:N=subject", "x:Q=reported by the source")),
        height=alt.Step(16),
        shared=("x", "y"),
    )
    return found


def curve_rows(judged: Sequence[Judgement]) -> list[Row]:
    """Curves of a measurement that no other figure draws, those over one axis in one panel."""
    rows: list[Row] = []
    for one in judged:
        for name, curve in (one.measurement.estimate.curves if one.measurement.estimate is not None else {}).items():
            if name not in DRAWN or (curve.axis == "block" and name != "profile"):
                rows += points(curve, part="line", panel=f"over {curve.axis}", line=name.replace("_", " "))
    return placed(rows)


def _curve_chart() -> ChartType:
    import altair as alt

    x = alt.X("x:Q", title=None, scale=alt.Scale(zero=False))
    y = alt.Y("y:Q", title=None, scale=alt.Scale(zero=False))
    # In one layer, so that the three share a legend whatever the curves are called.
    told: dict[str, Any] = {
        "color": alt.Color("line:N", title="curve"),
        "strokeDash": alt.StrokeDash("line:N", title="curve"),
    }
    told["shape"] = alt.Shape("line:N", legend=None)
    drawn = part("line").mark_line(point=alt.OverlayMarkDef(size=40))
    found: ChartType = panels(
        drawn.encode(x=x, y=y, **told, tooltip=tips("line:N=curve", "x:Q=at", "y:Q=value")), shared=()
    )
    return found


FIGURES = (
    Figure(
        name="values",
        title="Values over subjects",
        caption="The value of every subject with its 95 % interval; the grey bar is its null, from 5 to 95 %. "
        "Colour and shape say whether the claim holds; hollow diamonds are what the source reports for its own "
        "models.",
        scope="claim",
        rows=value_rows,
        chart=_value_chart,
    ),
    Figure(
        name="curves",
        title="Further curves",
        caption="What was kept beside the value, over depth, penalty or block.",
        scope="measurement",
        rows=curve_rows,
        chart=_curve_chart,
    ),
)
