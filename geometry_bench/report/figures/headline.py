"""Safety↔compassion against safety↔baseline over models, source A's headline figure, with the block as a slider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import floor
from typing import TYPE_CHECKING, Any

from geometry_bench.errors import GeometryBenchError
from geometry_bench.published.alignment import alignment_group_of
from geometry_bench.published.load import load_publication
from geometry_bench.records.estimates import Estimate
from geometry_bench.records.facts import ModelFacts
from geometry_bench.records.judgement import Judgement
from geometry_bench.report.figures.model import Figure, Row
from geometry_bench.report.figures.parts import (
    NARROW,
    VARIANT_SHOWN,
    choice_of_variant,
    layered,
    line_at,
    tips,
    variants,
)

if TYPE_CHECKING:
    from altair.typing import ChartType

X, Y = "safety.baseline_sign", "safety.compassion_alignment"
SOURCE = "safety_compassion"
METHODS: Mapping[str, str] = {
    "sft": "supervised",
    "preference": "preferences",
    "distilled": "distilled",
    "undisclosed": "undisclosed",
}
NOT_ALIGNED, NOT_SAID = "none (base)", "not said"
KINDS = ("published", "measured", "zoo")
MOST_NAMES = 24
NAME_WIDTH, NAME_HEIGHT = 0.023, 0.035
"""Room that a letter of a name takes, in units of the axes."""

PRECISION = 4
"""Decimals of a cosine: one row holds those of all blocks as text, so that a board of hundreds of models stays small."""


@dataclass(frozen=True)
class Course:
    """Both cosines of a model by block, and how it is shown; ``ends`` are those of its intervals, at the block ``at``."""

    facts: Row
    layers: int
    points: Mapping[int, tuple[float, float]]
    ends: Row = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What stands beside the mark."""
        return str(self.facts["subject"]).rpartition("/")[2]

    @property
    def is_named(self) -> bool:
        """Whether a name does."""
        return self.facts["kind"] != "zoo"

    def near(self, depth: float) -> tuple[float, float] | None:
        """Both cosines at the block that is nearest to a relative depth; None where they are unknown."""
        return self.points.get(floor(depth * (self.layers - 1) + 0.5))

    def row(self, courses: Sequence[Course]) -> Row:
        """The row, with the name's distance from the mark at each block where names are few."""
        blocks = range(min(self.points), max(self.points) + 1)
        xs, ys = ([self.points[one][axis] if one in self.points else None for one in blocks] for axis in (0, 1))
        heights = [*ys, self.ends.get("y_low")]
        row: dict[str, Any] = {
            **self.facts,
            "layers": self.layers,
            "first": blocks[0],
            "xs": _text(xs),
            "ys": _text(ys),
        }
        row["least"] = min(float(one) for one in heights if one is not None)
        if self.is_named and courses:
            depths = [block / max(self.layers - 1, 1) for block in blocks]
            row |= {"label": self.name, "ups": _text([_up(self, courses, depth) for depth in depths])}
        return {**row, **self.ends}


def _text(values: Sequence[float | None]) -> str:
    return " ".join("" if value is None else f"{value:.{PRECISION}f}" for value in values)


def headline_rows(judged: Sequence[Judgement]) -> list[Row]:
    """A row a model and variant with both cosines by block; the source's own models first."""
    found: dict[tuple[str, ...], dict[str, Judgement]] = {}
    for one in judged:
        if one.measurement.claim in (X, Y) and isinstance(one.measurement.subject, ModelFacts):
            found.setdefault(one.measurement.whose, {})[one.measurement.claim] = one
    measured = [row for both in found.values() if len(both) == 2 for row in _measured(both[X], both[Y])]
    courses = [course for course in (*_published(), *measured) if course.points]
    named = [course for course in courses if course.is_named]
    few = len({course.facts["subject"] for course in named}) <= MOST_NAMES
    return [course.row(named if few else []) for course in courses]


def _up(course: Course, courses: Sequence[Course], depth: float) -> float:
    """By how much the name of a course is moved up while the slider stands at a depth."""
    together = [one for one in courses if one.facts["variant"] == course.facts["variant"] or one.facts["alone"]]
    shown = [(one, at) for one in together if (at := one.near(depth)) is not None]
    moved = apart([_box(one.name, *at) for one, at in shown])
    return next((up for (one, _), up in zip(shown, moved, strict=True) if one is course), 0.0)


def _box(name: str, x: float, y: float) -> tuple[float, float, float]:
    reach = NAME_WIDTH * (len(name) + 2)
    return (x, x + reach, y) if x + reach <= 1 else (x - reach, x, y)


def apart(names: Sequence[tuple[float, float, float]]) -> list[float]:
    """By how much to move each name (left, right, height) up or down so that none meets another: the lowest one first."""
    moved, taken = [0.0] * len(names), list[tuple[float, float, float]]()
    for place in sorted(range(len(names)), key=lambda place: names[place][2]):
        left, right, height = names[place]
        steps = (sign * step * NAME_HEIGHT / 2 for step in range(4 * len(names)) for sign in (1, -1))
        moved[place] = next(
            by
            for by in steps
            if not any(left < b and a < right and abs(height + by - at) < NAME_HEIGHT for a, b, at in taken)
        )
        taken.append((left, right, height + moved[place]))
    return moved


def _measured(on_x: Judgement, on_y: Judgement) -> list[Course]:
    facts, courses = on_x.measurement.subject, list[Course]()
    assert isinstance(facts, ModelFacts)
    others = on_y.measurement.estimates
    for x, shown in variants(on_x):
        y = others.get(shown["variant"])
        if y is None or "profile" not in x.curves or "profile" not in y.curves:
            continue
        named: Row = {
            "subject": facts.id,
            "kind": "zoo" if facts.id.startswith("zoo/") else "measured",
            "method": NOT_ALIGNED if facts.role == "base" else _method(facts.alignment),
            "alignment": facts.alignment,
            **shown,
        }
        on_both = zip(_by_block(x).items(), _by_block(y).values(), strict=True)
        points = {block: (a, b) for (block, a), b in on_both if a is not None and b is not None}
        ends = {"at": x.block, "x_low": x.low, "x_high": x.high, "y_low": y.low, "y_high": y.high}
        courses.append(Course(named, facts.layers, points, ends if x.block == y.block else {}))
    return courses


def _by_block(estimate: Estimate) -> dict[int, float | None]:
    curve = estimate.curves["profile"]
    return {int(block): y for block, y in zip(curve.x, curve.y, strict=True)}


def _published() -> list[Course]:
    courses: list[Course] = []
    for subject in load_publication(SOURCE).subjects.values():
        x, y = (subject.cosine("benign", "safety", other) for other in ("empty", "chenrezig"))
        if x is None or y is None:
            continue
        named: Row = {
            "subject": subject.label,
            "kind": "published",
            "method": METHODS[subject.alignment_group] if subject.alignment_group is not None else NOT_SAID,
            "alignment": subject.alignment_method,
            "variant": "published",
            "alone": True,
        }
        courses.append(Course(named, subject.layers, {int(one): (x[one], y[one]) for one in x if one in y}))
    return courses


def _method(alignment: str | None) -> str:
    if not alignment:
        return NOT_SAID
    try:
        return METHODS[alignment_group_of(alignment)]
    except GeometryBenchError:
        return NOT_SAID


def _headline_chart() -> ChartType:
    import altair as alt

    slider = alt.binding_range(min=0, max=1, step=0.01, name="relative depth of the block (1 is the last): ")
    depth = alt.param(name="depth", value=1, bind=slider)
    x = alt.X("x:Q", title="safety↔baseline (cosine)", scale=alt.Scale(domain=[-1, 1]), axis=alt.Axis(tickCount=10))
    y = alt.Y("y:Q", title="safety↔compassion (cosine)", scale=alt.Scale(domainMax=1))
    colour = alt.Color(
        "method:N",
        title="alignment method",
        scale=alt.Scale(domain=[*METHODS.values(), NOT_ALIGNED, NOT_SAID]),
        legend=alt.Legend(columns=2),
    )
    shapes = alt.Scale(domain=list(KINDS), range=["diamond", "circle", "triangle-up"])
    shape = alt.Shape("kind:N", title="value", scale=shapes, legend=alt.Legend(columns=1))
    at = "datum.block - datum.first"
    shown = (
        alt.Chart()
        .transform_filter(VARIANT_SHOWN)
        .transform_calculate(block="floor(depth * (datum.layers - 1) + 0.5)")
        .transform_calculate(x=f"toNumber(split(datum.xs, ' ')[{at}])", y=f"toNumber(split(datum.ys, ' ')[{at}])")
        .transform_filter("isValid(datum.x) && isValid(datum.y)")
    )
    crosses = shown.transform_filter("datum.block === datum.at").mark_rule(style="interval", opacity=0.5)
    told = tips(
        "subject:N=model", "kind:N=value", "alignment:N=alignment", "x:Q=safety↔baseline", "y:Q=safety↔compassion",
        "block:O=block", "layers:O=of blocks",
    )  # fmt: skip
    before = f"datum.x + {NAME_WIDTH} * (length(datum.label) + 2) > 1"
    beside: Any = {
        "align": alt.ExprRef(f"{before} ? 'right' : 'left'"),
        "dx": alt.ExprRef(f"{before} ? -8 : 8"),
        "opacity": alt.ExprRef(f"width < {NARROW} ? 0 : 1"),
    }
    named = (
        shown.transform_filter("isValid(datum.label)")
        .transform_calculate(height=f"datum.y + toNumber(split(datum.ups, ' ')[{at}])")
        .mark_text(style="note", dy=-7, **beside)
    )
    # Drawn by none, of all blocks: the axis stands still under the slider.
    least = alt.Chart().transform_aggregate(least="min(least)").mark_rule(opacity=0)
    return layered(
        least.encode(y="least:Q"),
        line_at(x=0),
        line_at(y=0),
        crosses.encode(x="x_low:Q", x2="x_high:Q", y=y, color=colour),
        crosses.encode(x=x, y="y_low:Q", y2="y_high:Q", color=colour),
        shown.mark_point(size=90).encode(x=x, y=y, color=colour, shape=shape, tooltip=told),
        named.encode(x=x, y="height:Q", text="label:N"),
        height=420,
        params=[depth, choice_of_variant()],
    )


FIGURES = (
    Figure(
        name="headline",
        title="Safety↔compassion against safety↔baseline",
        caption="One mark a model: how far its safety axis agrees with its compassion axis, against how far it "
        "agrees with the model's own default. Colour is the alignment method, shape whether the value is published, "
        "measured here or of the zoo's tiny models. The slider chooses the block by its relative depth; of the "
        "published models the source kept only the last third. Crosses are 95 % intervals, at the block of the "
        "value.",
        scope="board",
        rows=headline_rows,
        chart=_headline_chart,
    ),
)
