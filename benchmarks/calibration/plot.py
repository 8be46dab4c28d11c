"""The plot of the page: δ and the change of refusals against the dose."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from outcomes import Outcome, Stored, is_edit

from geometry_bench.report.figures import config

PANELS: Mapping[str, tuple[str, Sequence[str]]] = {
    "rotation": ("rotation (degrees)", ("refusal", "safety")),
    "ablation": ("ablation (%)", ("refusal", "safety", "random")),
    "contamination": ("contamination (% of rows)", ("",)),
    "LoRA": ("LoRA (rank)", ("complying", "chats", "refusals")),
}
WHAT = {
    "refusal": "refusal direction",
    "safety": "safety direction",
    "random": "random direction",
    "": "complying placeholders",
    "complying": "complying answers",
    "chats": "aligned chats",
    "refusals": "refusals",
}
KINDS = ("harmful", "benign")


def drawn(stored: Stored) -> str:
    """The figure as SVG, the same text for the same outcomes, altair and vl-convert."""
    import altair as alt
    import vl_convert

    margin = stored.facts["margin"]
    titles = {
        "delta": f"largest δ (margin {margin:g})",
        **{kind: f"refusals, {kind}" for kind in KINDS},
    }
    levels = {"delta": margin, **dict.fromkeys(KINDS, 0.0)}
    chart = alt.vconcat(*(_row(quantity, title, levels[quantity]) for quantity, title in titles.items()))
    whole = {**chart.to_dict(), "datasets": {"values": _rows(stored)}, "config": config(dark=False)}
    return str(vl_convert.vegalite_to_svg(json.dumps(whole), allowed_base_urls=[]))


def _rows(stored: Stored) -> list[dict[str, Any]]:
    return [
        {
            "panel": title,
            "what": WHAT[what],
            "group": one.group,
            "moved": one.moved(),
            "dose": one.dose,
            **_measured(one),
        }
        for edit, (title, kinds) in PANELS.items()
        for what in kinds
        for one in stored.of(is_edit(edit, what=(what,)))
    ]


def _measured(one: Outcome) -> dict[str, float]:
    return {"delta": one.largest, **{kind: one.change(kind) for kind in KINDS}}


def _row(quantity: str, title: str, level: float) -> Any:
    """One quantity: a panel for each edit."""
    import altair as alt

    percent = {"format": "%"} if quantity in KINDS else {}
    looks = {
        "x": alt.X("dose:Q", title=None, axis=alt.Axis(tickCount=4)),
        "y": alt.Y(f"{quantity}:Q", title=title, axis=alt.Axis(tickCount=4, **percent)),
        "color": alt.Color(
            "what:N",
            title="edited, or trained on (filled: MOVED, hollow: not)",
            scale=alt.Scale(domain=list(WHAT.values())),
            legend=alt.Legend(columns=4),
        ),
        "shape": alt.Shape("group:N", title="parents", legend=alt.Legend(columns=1)),
    }
    points = [
        alt.Chart().transform_filter(chosen).mark_point(size=36, filled=filled, strokeWidth=1).encode(**looks)
        for chosen, filled in (("datum.moved", True), ("!datum.moved", False))
    ]
    line = alt.Chart().transform_aggregate(rows="count()").mark_rule(style="bound").encode(y=alt.YDatum(level))
    panels = alt.layer(line, *points).properties(width=150, height=120)
    order = [panel for panel, _ in PANELS.values()]
    column = alt.Column("panel:N", title=None, sort=order, header=None if level == 0.0 else alt.Header())
    return panels.facet(column=column, data=alt.NamedData(name="values")).resolve_scale(x="independent")
