"""Figures of source D: overlap of subspaces over the energy that they hold, energy kept, and what projected models do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from geometry_bench.records.judgement import Judgement
from geometry_bench.report.figures.model import Figure, Row
from geometry_bench.report.figures.parts import (
    VARIANT_SHOWN,
    case_of,
    choice_of_variant,
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

MEASURED, HAAR = "measured", "random (Haar)"
OVERLAPS = {"overlap": MEASURED, "mso": MEASURED, "haar": HAAR}
LEVELS = {
    "ceiling": "ceiling: halves of one set",
    "floor": "floor: random, with the covariance of both",
    "alignment_control": "control task with the alignment",
    "useful_control": "control task with the useful one",
    "harmful_control": "control task with the harmful one",
}
"""Details that are drawn as levels: numbers that are means over the shares, as the value is."""

BASES = {
    "top": "Top-K of the alignment",
    "random_k": "K others of its directions",
    "random": "random subspace",
}
DIMENSION = "its share of dimensions"
KEPT = {**BASES, "dimensions": DIMENSION}
ENERGY = "weights.energy_linear"
PROJECTIONS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "weights.parallel_projection": ("kept inside", {"useful": "utility", "harmful": "harm"}),
    "weights.orthogonal_projection": ("removed", {"utility": "utility", "harm": "harm"}),
}
"""By claim, what is done with the directions, and what each last word of a case measures."""


# Overlap


def overlap_rows(judged: Sequence[Judgement]) -> list[Row]:
    """Overlap over the share of energy that subspaces hold, the Haar expectation, and the levels beside them."""
    rows: list[Row] = []
    for one in judged:
        for estimate, facts in variants(one):
            if HAAR not in (OVERLAPS.get(name) for name in estimate.curves):
                continue
            for name, label in OVERLAPS.items():
                if name in estimate.curves:
                    rows += points(estimate.curves[name], part="line", line=label, **facts)
            levels = ((label, estimate.details.get(name)) for name, label in LEVELS.items())
            rows += [{"part": "level", "level": label, "y": y, **facts} for label, y in levels if y is not None]
    return rows


def _overlap_chart() -> ChartType:
    import altair as alt

    x = alt.X("x:Q", title="share of energy η that the subspaces hold", scale=alt.Scale(domain=[0, 1]))
    y = alt.Y("y:Q", title="overlap (MSO)", scale=alt.Scale(domainMin=0))
    told = series("line", [MEASURED, HAAR])
    level = part("level").transform_filter(VARIANT_SHOWN)
    at_right = {"x": alt.value("width"), "y": y, "text": "level:N"}
    drawn = [
        one.transform_filter(VARIANT_SHOWN) for one in lines(x, y, told, tips("line:N=line", "x:Q=η", "y:Q=overlap"))
    ]
    return layered(
        level.mark_rule(style="bound").encode(y=y, tooltip=tips("level:N=level", "y:Q=overlap")),
        level.mark_text(style="note", align="right", dy=-5, dx=-2).encode(**at_right),
        *drawn,
        params=[choice_of_variant()],
    )


# Energy


def energy_rows(judged: Sequence[Judgement]) -> list[Row]:
    """Energy of an update that subspaces of each share of the dimensions keep."""
    rows: list[Row] = []
    for one in judged:
        if one.measurement.claim == ENERGY:
            for estimate, facts in variants(one):
                for name, label in KEPT.items():
                    rows += points(estimate.curves[name], part="line", line=label, **facts)
    return rows


def _energy_chart() -> ChartType:
    import altair as alt

    x = alt.X("x:Q", title="ρ: dimension of the subspace over the rank", scale=alt.Scale(domain=[0, 1]))
    y = alt.Y("y:Q", title="share of the update's energy that is kept", scale=alt.Scale(domain=[0, 1]))
    told = series("line", list(KEPT.values()))
    drawn = lines(x, y, told, tips("line:N=basis", "x:Q=ρ", "y:Q=energy kept"))
    return layered(*(one.transform_filter(VARIANT_SHOWN) for one in drawn), params=[choice_of_variant()])


# What projected models do


def removal_rows(judged: Sequence[Judgement]) -> list[Row]:
    """Utility and harm of fine-tunes whose update was projected, along ρ; a panel for each start and projection."""
    found: dict[tuple[str, str], dict[str, Judgement]] = {}
    for one in judged:
        if one.measurement.claim in PROJECTIONS and one.measurement.estimate is not None:
            how, measures = PROJECTIONS[one.measurement.claim]
            start, *_, what = case_of(one).parameters
            found.setdefault((start, how), {})[measures[what]] = one
    paths = [
        _path(f"{start}: {how}", both["utility"], both["harm"])
        for (start, how), both in sorted(found.items())
        if len(both) == 2
    ]
    return placed([row for path in paths for row in path])


def _path(panel: str, utility: Judgement, harm: Judgement) -> list[Row]:
    x, y = utility.measurement.estimate, harm.measurement.estimate
    assert x is not None
    assert y is not None
    rows: list[Row] = []
    for name, label in BASES.items():
        pairs = zip(x.curves[name].x, x.curves[name].y, y.curves[name].y, strict=True)
        rows += [
            {"part": "line", "panel": panel, "line": label, "share": share, "x": a, "y": b, "order": order}
            for order, (share, a, b) in enumerate(pairs)
            if a is not None and b is not None
        ]
    for name, label in (("start", "before"), ("fine_tuned", "after")):
        rows.append({"part": "end", "panel": panel, "end": label, "x": x.details[name], "y": y.details[name]})
    return rows


def _removal_chart() -> ChartType:
    import altair as alt

    x = alt.X(
        "x:Q", title="utility: share of sums right", scale=alt.Scale(domain=[0, 1.02]), axis=alt.Axis(tickCount=5)
    )
    y = alt.Y("y:Q", title="harm: share answered", scale=alt.Scale(domain=[0, 1.02]), axis=alt.Axis(tickCount=5))
    told = series("line", list(BASES.values()), "directions")
    shown = tips("line:N=directions", "share:Q=ρ", "x:Q=utility", "y:Q=harm")
    drawn: list[Any] = lines(x, y, told, shown)
    drawn[0] = drawn[0].encode(order="order:Q")
    ends = part("end")
    at = {"x": x, "y": y, "tooltip": tips("end:N=fine-tuning", "x:Q=utility", "y:Q=harm")}
    found: ChartType = panels(
        *drawn,
        ends.transform_filter("datum.end === 'before'").mark_point(style="reported", shape="square").encode(**at),
        ends.transform_filter("datum.end === 'after'").mark_point(style="reported").encode(**at),
        shared=("x", "y"),
    )
    return found


FIGURES = (
    Figure(
        name="overlap",
        title="Overlap of subspaces",
        caption="Overlap (MSO) of the subspaces that hold a share η of the energy. The second line is what random "
        "subspaces of the same dimensions have on average (Haar). Dashed levels are means over η: the ceiling is "
        "what two halves of one set reach, the floor what random subspaces with the covariance of both sets have.",
        scope="measurement",
        rows=overlap_rows,
        chart=_overlap_chart,
    ),
    Figure(
        name="energy",
        title="Energy kept",
        caption="Share of a fine-tuning update's energy that a subspace keeps, over its dimension. The last line is "
        "the share of the dimensions alone: what a subspace that knows nothing of the update keeps.",
        scope="measurement",
        rows=energy_rows,
        chart=_energy_chart,
    ),
    Figure(
        name="removal",
        title="Utility against harm",
        caption="What fine-tuned models do when their update is kept inside some directions, or these are removed "
        "from it: harm against utility, along the share ρ of the directions (1 % to 99 %), from the model before "
        "fine-tuning (hollow square) to the whole fine-tune (hollow diamond). Directions that carry harm alone "
        "would move a model straight down.",
        scope="subject",
        rows=removal_rows,
        chart=_removal_chart,
    ),
)
