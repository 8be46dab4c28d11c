"""Figures of source A's axes: their cosines in one model, and safety↔compassion against safety↔baseline over models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from geometry_bench.errors import GeometryBenchError
from geometry_bench.published.alignment import alignment_group_of
from geometry_bench.published.load import load_publication
from geometry_bench.records.estimates import Estimate
from geometry_bench.records.facts import ModelFacts
from geometry_bench.records.judgement import Judgement
from geometry_bench.report.figures.model import Figure, Row
from geometry_bench.report.figures.parts import (
    VARIANT_SHOWN,
    case_of,
    choice_of_variant,
    layered,
    line_at,
    tips,
    variants,
)
from geometry_bench.report.figures.theme import SHAPES

if TYPE_CHECKING:
    from altair.typing import ChartType

X, Y = "safety.baseline_sign", "safety.compassion_alignment"
SOURCE = "safety_compassion"
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
METHODS: Mapping[str, str] = {
    "sft": "supervised (SFT)",
    "preference": "preferences (DPO, RLHF)",
    "distilled": "distilled",
    "undisclosed": "undisclosed in part",
}
NOT_ALIGNED, NOT_SAID = "none (base model)", "not said"
KINDS = ("published", "measured", "zoo")
LAST = 2.0
"""Beyond every relative depth, so that the last block is shown at the end of the slider."""


# Cosines of the axes of one model


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

    x = alt.X(
        "a:N", title=None, scale=alt.Scale(domain=list(AXES)), axis=alt.Axis(orient="top", labelAngle=-35, grid=False)
    )
    y = alt.Y("b:N", title=None, scale=alt.Scale(domain=list(AXES)), axis=alt.Axis(grid=False))
    colour = alt.Color(
        "value:Q",
        title="cosine",
        scale=alt.Scale(scheme="blueorange", domain=[1, -1]),
        legend=alt.Legend(gradientLength=180, values=[-1, -0.5, 0, 0.5, 1]),
    )
    told = tips("a:N=axis", "b:N=and", "value:Q=cosine", "null:N=null, 5 to 95 %", "block:O=block", "case:N=case")
    ink = alt.condition("abs(datum.value) > 0.72", alt.value("#FFFFFF"), alt.value("#1A1A1A"))
    shown = alt.Chart().transform_filter(VARIANT_SHOWN)
    return layered(
        shown.mark_rect(cornerRadius=3).encode(x=x, y=y, color=colour, tooltip=told),
        shown.mark_text(fontSize=11).encode(x=x, y=y, text="text:N", color=ink, tooltip=told),
        height=300,
        params=[choice_of_variant()],
    )


# Safety↔compassion against safety↔baseline


def headline_rows(judged: Sequence[Judgement]) -> list[Row]:
    """Both cosines of every model at every block, the source's own models among them where it measured any."""
    found: dict[tuple[str, ...], dict[str, Judgement]] = {}
    for one in judged:
        if one.measurement.claim in (X, Y) and isinstance(one.measurement.subject, ModelFacts):
            subject = one.measurement.subject
            found.setdefault((subject.id, subject.revision, subject.settings), {})[one.measurement.claim] = one
    measured = [row for both in found.values() if len(both) == 2 for row in _measured(both[X], both[Y])]
    return [*_published(), *measured] if measured else []


def _measured(on_x: Judgement, on_y: Judgement) -> list[Row]:
    facts, rows = on_x.measurement.subject, list[Row]()
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
        pairs = {block: (a, b) for (block, a), b in on_both if a is not None and b is not None}
        for row in _over_depth(pairs, facts.layers, named):
            of_value = row["block"] == x.block == y.block
            ends = {"x_low": x.low, "x_high": x.high, "y_low": y.low, "y_high": y.high} if of_value else {}
            rows.append({**row, **ends})
    return rows


def _by_block(estimate: Estimate) -> dict[int, float | None]:
    curve = estimate.curves["profile"]
    return {int(block): y for block, y in zip(curve.x, curve.y, strict=True)}


def _published() -> list[Row]:
    rows: list[Row] = []
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
        pairs = {int(block): (x[block], y[block]) for block in x if block in y}
        rows += _over_depth(pairs, subject.layers, named)
    return rows


def _over_depth(pairs: Mapping[int, tuple[float, float]], layers: int, facts: Row) -> list[Row]:
    """A row a block, shown while the slider is nearer to it than to its neighbours."""
    last = max(layers - 1, 1)
    return [
        {
            **facts,
            "x": x,
            "y": y,
            "block": block,
            "layers": layers,
            "from": (block - 0.5) / last,
            "to": LAST if block == last else (block + 0.5) / last,
        }
        for block, (x, y) in pairs.items()
    ]


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
    ends = alt.Scale(domain=[-1, 1])
    x = alt.X("x:Q", title="safety↔baseline (cosine)", scale=ends)
    y = alt.Y("y:Q", title="safety↔compassion (cosine)", scale=ends)
    colour = alt.Color(
        "method:N",
        title="alignment method",
        scale=alt.Scale(domain=[*METHODS.values(), NOT_ALIGNED, NOT_SAID]),
        legend=alt.Legend(columns=2),
    )
    shape = alt.Shape(
        "kind:N", title="value", scale=alt.Scale(domain=list(KINDS), range=["diamond", *SHAPES[:1], "triangle-up"])
    )
    shown = alt.Chart().transform_filter(f"({VARIANT_SHOWN}) && datum.from <= depth && depth < datum.to")
    told = tips(
        "subject:N=model", "kind:N=value", "alignment:N=alignment", "x:Q=safety↔baseline", "y:Q=safety↔compassion",
        "block:O=block", "layers:O=of blocks",
    )  # fmt: skip
    named = shown.transform_filter("datum.kind !== 'zoo'")
    return layered(
        line_at(x=0),
        line_at(y=0),
        shown.mark_rule(style="interval", opacity=0.5).encode(x="x_low:Q", x2="x_high:Q", y=y, color=colour),
        shown.mark_rule(style="interval", opacity=0.5).encode(x=x, y="y_low:Q", y2="y_high:Q", color=colour),
        shown.mark_point(size=90).encode(x=x, y=y, color=colour, shape=shape, tooltip=told),
        named.mark_text(style="note", align="left", dx=8, dy=-6).encode(x=x, y=y, text="subject:N"),
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
