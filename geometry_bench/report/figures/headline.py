"""Safety↔compassion against safety↔baseline over models, source A's headline figure, with the block as a slider."""

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
from geometry_bench.report.figures.parts import VARIANT_SHOWN, choice_of_variant, layered, line_at, tips, variants
from geometry_bench.report.figures.theme import SHAPES

if TYPE_CHECKING:
    from altair.typing import ChartType

X, Y = "safety.baseline_sign", "safety.compassion_alignment"
SOURCE = "safety_compassion"
METHODS: Mapping[str, str] = {
    "sft": "supervised (SFT)",
    "preference": "preferences (DPO, RLHF)",
    "distilled": "distilled",
    "undisclosed": "undisclosed in part",
}
NOT_ALIGNED, NOT_SAID = "none (base model)", "not said"
KINDS = ("published", "measured", "zoo")
MOST_NAMES = 24
NAME_WIDTH, NAME_HEIGHT = 0.02, 0.05
"""Room that a letter of a name takes, in units of the axes."""

TURN = 0.2
"""Names of marks to the right of it stand to their left."""

LAST = 2.0
"""Beyond every relative depth, so that the last block is shown at the end of the slider."""


def headline_rows(judged: Sequence[Judgement]) -> list[Row]:
    """Both cosines of every model at every block, the source's own models among them where it measured any."""
    found: dict[tuple[str, ...], dict[str, Judgement]] = {}
    for one in judged:
        if one.measurement.claim in (X, Y) and isinstance(one.measurement.subject, ModelFacts):
            subject = one.measurement.subject
            found.setdefault((subject.id, subject.revision, subject.settings), {})[one.measurement.claim] = one
    measured = [row for both in found.values() if len(both) == 2 for row in _measured(both[X], both[Y])]
    return _labelled([*_published(), *measured])


def _labelled(rows: Sequence[Row]) -> list[Row]:
    """The rows with names beside the marks, apart from each other at the last block; without any where there are many."""
    last = [row for row in rows if row["kind"] != "zoo" and row["to"] == LAST and row["variant"] == "published"]
    if len(last) > MOST_NAMES:
        return list(rows)
    names = [str(row["subject"]).rpartition("/")[2] for row in last]
    up = apart([(*_ends(row["x"], name), float(row["y"] or 0.0)) for row, name in zip(last, names, strict=True)])
    named = {row["subject"]: (name, by) for row, name, by in zip(last, names, up, strict=True)}
    found: list[Row] = []
    for row in rows:
        name, by = named.get(row["subject"], (None, 0.0))
        found.append({**row, "label": name, "label_y": float(row["y"] or 0.0) + by})
    return found


def _ends(x: Any, name: str) -> tuple[float, float]:
    reach = NAME_WIDTH * (len(name) + 2)
    return (x - reach, x) if x > TURN else (x, x + reach)


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
    left = f"datum.x > {TURN}"
    beside: Any = {"align": alt.ExprRef(f"{left} ? 'right' : 'left'"), "dx": alt.ExprRef(f"{left} ? -8 : 8")}
    named = shown.transform_filter("isValid(datum.label)").mark_text(style="note", **beside)
    return layered(
        line_at(x=0),
        line_at(y=0),
        shown.mark_rule(style="interval", opacity=0.5).encode(x="x_low:Q", x2="x_high:Q", y=y, color=colour),
        shown.mark_rule(style="interval", opacity=0.5).encode(x=x, y="y_low:Q", y2="y_high:Q", color=colour),
        shown.mark_point(size=90).encode(x=x, y=y, color=colour, shape=shape, tooltip=told),
        named.encode(x=x, y="label_y:Q", text="label:N"),
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
