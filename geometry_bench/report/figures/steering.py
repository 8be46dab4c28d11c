"""Figures of directions in use: how well they separate, what steering by them does, and where they point while speaking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from geometry_bench.judging import published_model
from geometry_bench.published.load import load_publication
from geometry_bench.published.subject import PublishedSubject
from geometry_bench.records.facts import GroupFacts, PublicationFacts
from geometry_bench.records.judgement import Judgement
from geometry_bench.report.figures.model import Figure, Row
from geometry_bench.report.figures.parts import (
    VARIANT_SHOWN,
    choice_of_variant,
    layered,
    line_at,
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

AUROC, SOURCE = "universal.auroc", "universal_direction"
DIRECTIONS = {"native": "own direction", "universal": "shared direction"}
DOSES = {
    "refused": ("refused", "direction"),
    "over_refused": ("over-refused", "direction"),
    "refused_random": ("refused", "random direction of equal length"),
    "nats_per_token": ("nats", "direction"),
    "capped_share": ("capped", "direction"),
}
"""By curve: its panel and its line."""

DOSE_PANELS = {
    "refused": "share of requests refused",
    "over-refused": "share of harmless requests refused",
    "nats": "loss on neutral text (nats a token)",
    "capped": "share of positions capped",
}
SAID = {
    "unsafe_own_words": ("unsafe requests", "own words"),
    "safe_own_words": ("safe requests", "own words"),
    "unsafe_given_words": ("unsafe requests", "words put in its mouth"),
    "safe_given_words": ("safe requests", "words put in its mouth"),
}


# Separation


def auroc_rows(judged: Sequence[Judgement]) -> list[Row]:
    """AUROC of each member's own and of the shared direction with intervals, and what the source reports for the member.

    Of the source itself, all that it reports.
    """
    rows: list[Row] = []
    if any(
        isinstance(one.measurement.subject, PublicationFacts) and one.measurement.subject.id == SOURCE for one in judged
    ):
        rows += [row for model in load_publication(SOURCE).subjects.values() for row in _reported(model.label, model)]
    for one in judged:
        if one.measurement.claim != AUROC or not isinstance(one.measurement.subject, GroupFacts):
            continue
        member = one.measurement.case
        for estimate, facts in variants(one):
            for name, label in DIRECTIONS.items():
                ends = {end: estimate.details.get(f"{name}_{end}") for end in ("low", "high")}
                row = {"member": member, "direction": label, "x": estimate.details.get(name), **ends}
                rows.append({"part": "value", **row, **facts})
        published = published_model(load_publication(SOURCE), one.measurement.subject.members[member])
        rows += _reported(member, published) if published is not None else []
    return [row for row in rows if row["x"] is not None]


def _reported(member: str, published: PublishedSubject) -> list[Row]:
    return [
        {"part": "reported", "member": member, "direction": label, "x": published.value(f"auroc_{name}"), "alone": True}
        for name, label in DIRECTIONS.items()
    ]


def _auroc_chart() -> ChartType:
    import altair as alt

    x = alt.X("x:Q", title="AUROC of harmful against harmless requests", scale=alt.Scale(domain=[0, 1]))
    y = alt.Y("member:N", title=None, sort=None)
    told = series("direction", list(DIRECTIONS.values()))
    aside = alt.YOffset("direction:N", scale=alt.Scale(domain=list(DIRECTIONS.values())))
    value = part("value").transform_filter(VARIANT_SHOWN)
    shown = tips("member:N=member", "direction:N=direction", "x:Q=AUROC", "low:Q=low", "high:Q=high")
    return layered(
        line_at(x=0.5),
        value.mark_rule(style="interval").encode(x="low:Q", x2="high:Q", y=y, yOffset=aside, color=told["color"]),
        value.mark_point(size=80).encode(
            x=x, y=y, yOffset=aside, color=told["color"], shape=told["shape"], tooltip=shown
        ),
        part("reported")
        .mark_point(style="reported")
        .encode(x=x, y=y, yOffset=aside, tooltip=tips("member:N=member", "x:Q=reported by the source")),
        height=alt.Step(24),
        params=[choice_of_variant()],
    )


# Steering


def dose_rows(judged: Sequence[Judgement]) -> list[Row]:
    """Refusals and loss over how strongly a direction is added, removed or capped."""
    rows: list[Row] = []
    for one in judged:
        estimate = one.measurement.estimate
        if estimate is None or "refused" not in estimate.curves or estimate.curves["refused"].axis == "score":
            continue
        for name, (panel, line) in DOSES.items():
            if name in estimate.curves:
                rows += points(estimate.curves[name], part="line", panel=DOSE_PANELS[panel], line=line)
    return placed(rows)


def _dose_chart() -> ChartType:
    import altair as alt

    x = alt.X("x:Q", title="dose (1 is the whole direction)", axis=alt.Axis(tickCount=5))
    y = alt.Y("y:Q", title=None, scale=alt.Scale(zero=False))
    told = series("line", list(dict.fromkeys(line for _, line in DOSES.values())), "steered by")
    band = part("line").transform_filter("isValid(datum.low)").mark_area(opacity=0.18)
    found: ChartType = panels(
        band.encode(x=x, y="low:Q", y2="high:Q", color=told["color"]),
        *lines(x, y, told, tips("line:N=steered by", "x:Q=dose", "y:Q=value", "low:Q=low", "high:Q=high")),
    )
    return found


# While speaking


def drift_rows(judged: Sequence[Judgement]) -> list[Row]:
    """Mean projection of answers on the unsafe direction by token."""
    rows: list[Row] = []
    for one in judged:
        estimate = one.measurement.estimate
        curves = estimate.curves if estimate is not None else {}
        for name, (requests, words) in SAID.items():
            if name in curves:
                rows += points(curves[name], part="line", requests=requests, words=words)
    return rows


def _drift_chart() -> ChartType:
    import altair as alt

    x = alt.X("x:Q", title="token of the answer (from 0)", axis=alt.Axis(tickMinStep=1, format="d"))
    y = alt.Y("y:Q", title="projection (1: distance between the class means)")
    requests, words = ["unsafe requests", "safe requests"], ["own words", "words put in its mouth"]
    told = series("requests", requests, "answers to")
    stroke = alt.Legend(symbolType="stroke", symbolSize=300, symbolStrokeWidth=2)
    told["strokeDash"] = series("words", words, "said in")["strokeDash"].legend(stroke)
    drawn: list[Any] = lines(x, y, told, tips("requests:N=answers to", "words:N=in", "x:Q=token", "y:Q=projection"))
    return layered(line_at(y=0), *(one.encode(detail="words:N") for one in drawn))


FIGURES = (
    Figure(
        name="auroc",
        title="Own against shared direction",
        caption="How well each member's own direction and the direction that the group shares separate harmful from "
        "harmless requests, with 95 % intervals; 0.5 is chance. Hollow diamonds are what the source reports for the "
        "model.",
        scope="subject",
        rows=auroc_rows,
        chart=_auroc_chart,
    ),
    Figure(
        name="dose",
        title="Refusals over the dose",
        caption="Share of requests that the model refuses, with its 95 % interval, the more strongly it is steered "
        "by the direction, and by random directions of the same length; and what steering costs on neutral text. A "
        "direction that only breaks the model raises the loss as much as it lowers refusals.",
        scope="measurement",
        rows=dose_rows,
        chart=_dose_chart,
    ),
    Figure(
        name="drift",
        title="Projection while speaking",
        caption="Mean projection of the states on the unsafe direction at each token of the answer: in the model's "
        "own words, and in the same words given to it for every request. The first less the second is what the "
        "model itself adds.",
        scope="measurement",
        rows=drift_rows,
        chart=_drift_chart,
    ),
)
