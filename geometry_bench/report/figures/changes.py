"""Figures of models that change: how far a fine-tune has moved, along which checkpoints, and what the gate would notice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from geometry_bench.claims.changes import ContrastDisplacement
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.errors import GeometryBenchError
from geometry_bench.records.judgement import NOT_COMPARED, BaselineVerdict, Judgement
from geometry_bench.report.figures.model import Figure, Row
from geometry_bench.report.figures.parts import (
    heading,
    layered,
    line_at,
    lines,
    panels,
    part,
    placed,
    points,
    series,
    tips,
)
from geometry_bench.resources import data_root

if TYPE_CHECKING:
    from altair.typing import ChartType

VERDICTS = [str(one) for one in BaselineVerdict if one not in NOT_COMPARED]
TRAJECTORY = "finetune.trajectory"
EDITS = {
    "rotation": "direction rotated (degrees)",
    "ablation": "direction ablated (%)",
    "contamination": "trained on complying rows (%)",
    "LoRA": "fine-tuned with LoRA (rank)",
}
WHAT = {
    "refusal": "refusal direction",
    "safety": "safety direction",
    "random": "random direction",
    "complying": "on complying answers",
    "": "on complying answers",
    "chats": "on aligned chats",
    "refusals": "on refusals",
}


# Comparison with a baseline


def change_rows(judged: Sequence[Judgement]) -> list[Row]:
    """How far each compared case moved, in units of the smallest change that matters; first those that decide."""
    rows: list[Row] = []
    for one in sorted(judged, key=lambda one: not one.decides):
        found, margin = one.baseline, one.baseline.number("margin")
        if found.verdict in NOT_COMPARED or not margin:
            continue
        if (delta := found.number("delta")) is not None:
            x, low, high = delta, found.number("delta_low"), found.number("delta_high")
        else:
            shift = found.number("share")
            x_or_none = shift if shift is not None else found.number("difference")
            if x_or_none is None:
                continue
            x, error = x_or_none, found.number("error")
            low, high = (None, None) if error is None else (x - 2 * error, x + 2 * error)
        ends = {"low": low, "high": high}
        scaled = {name: None if end is None else end / margin for name, end in ends.items()}
        named: Row = {"case": one.measurement.key, "verdict": str(found.verdict), "change": x, "margin": margin}
        rows.append({"part": "change", **named, "x": x / margin, **scaled})
    return rows


def _change_chart() -> ChartType:
    import altair as alt

    x = alt.X("x:Q", title="change, in units of the smallest that matters")
    y = alt.Y("case:N", title=None, sort=None)
    told = series("verdict", VERDICTS, "against the baseline")
    shown = tips("case:N=case", "verdict:N=verdict", "change:Q=change", "margin:Q=matters from", "x:Q=in margins")
    return layered(
        line_at(x=-1),
        line_at(x=1),
        part("change").mark_rule(style="interval").encode(x="low:Q", x2="high:Q", y=y, color=told["color"]),
        part("change").mark_point(size=80).encode(x=x, y=y, color=told["color"], shape=told["shape"], tooltip=shown),
        height=alt.Step(18),
    )


def displacement_rows(judged: Sequence[Judgement]) -> list[Row]:
    """Displacement δ of each compared contrast at every block that it is read at, and the margin."""
    rows: list[Row] = []
    for one in judged:
        curve = one.compared.curves.get("by_block") if one.compared is not None else None
        if curve is not None:
            rows += points(curve, part="line", case=one.measurement.key)
            rows.append({"part": "bound", "y": one.baseline.number("margin")})
    return rows


def _displacement_chart() -> ChartType:
    import altair as alt

    cases = [claim.id for claim in CLAIMS.values() if isinstance(claim.comparison, ContrastDisplacement)]
    x = alt.X(
        "x:Q", title="decoder block (from 0)", axis=alt.Axis(tickMinStep=1, format="d"), scale=alt.Scale(zero=False)
    )
    y = alt.Y("y:Q", title="δ: length of the change over that of the contrast", scale=alt.Scale(domainMin=0))
    told = series("case", cases, "contrast")
    shown = tips("case:N=contrast", "x:Q=block", "y:Q=δ")
    return layered(
        part("bound").mark_rule(style="bound").encode(y=y, tooltip=tips("y:Q=matters from")),
        *lines(x, y, told, shown),
    )


# Along training


def trajectory_rows(judged: Sequence[Judgement]) -> list[Row]:
    """A value at every checkpoint of a training run, with its interval."""
    rows: list[Row] = []
    for one in judged:
        estimate = one.measurement.estimate
        if one.measurement.claim == TRAJECTORY and estimate is not None:
            rows += points(estimate.curves["by_step"], part="line", case=one.measurement.case)
    return rows


def _trajectory_chart() -> ChartType:
    import altair as alt

    x = alt.X("x:Q", title="training step")
    y = alt.Y("y:Q", title=None, scale=alt.Scale(zero=False))
    shown = tips("case:N=value", "x:Q=step", "y:Q=value", "low:Q=low", "high:Q=high")
    line = part("line")
    return layered(
        line.transform_filter("isValid(datum.low)").mark_area(style="null").encode(x=x, y="low:Q", y2="high:Q"),
        line.mark_line().encode(x=x, y=y),
        line.mark_point(size=50).encode(x=x, y=y, tooltip=shown),
        title=heading("case"),
    )


# What the gate would notice


@cache
def _calibration() -> list[dict[str, Any]]:
    file = data_root() / "benchmarks" / "calibration" / "outcomes.json"
    try:
        found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["runs"]
    except (OSError, ValueError, KeyError) as error:
        raise GeometryBenchError(f"{file} cannot be read ({error}); reinstall geometry-bench.") from None
    return found


def power_rows(judged: Sequence[Judgement]) -> list[Row]:
    """Share of edited models in which a case of the gate was MOVED, by the dose of the edit; of several cases, in any."""
    claims = {one.measurement.claim for one in judged if one.decides and one.measurement.claim.startswith("gate.")}
    if not claims:
        return []
    counts: dict[tuple[str, str, float], list[bool]] = {}
    for run in _calibration():
        if run["edit"] in EDITS and not run["harmless"]:
            moved = any(found["verdict"] == "MOVED" for case, found in run["cases"].items() if case in claims)
            counts.setdefault((run["edit"], run["what"], run["dose"]), []).append(moved)
    order = sorted(counts, key=lambda key: (list(EDITS).index(key[0]), key[1], key[2]))
    return placed(
        [
            {"part": "line", "panel": EDITS[edit], "line": WHAT[what], "x": dose, **_share(counts[edit, what, dose])}
            for edit, what, dose in order
        ]
    )


def _share(hits: Sequence[bool]) -> dict[str, float | int]:
    from geometry_bench.behavior.refusals import rate

    found = rate(hits)
    return {"y": found.value, "low": found.low, "high": found.high, "moved": sum(hits), "runs": found.n}


def _power_chart() -> ChartType:
    import altair as alt

    x = alt.X("x:Q", title="dose", axis=alt.Axis(tickCount=5))
    y = alt.Y(
        "y:Q", title="share of models MOVED", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%", tickCount=5)
    )
    told = series("line", list(dict.fromkeys(WHAT.values())), "what is edited")
    shown = tips("line:N=edited", "x:Q=dose", "moved:O=MOVED", "runs:O=of runs", "low:Q=low", "high:Q=high")
    found: ChartType = panels(
        part("line").mark_rule(style="interval", opacity=0.6).encode(x=x, y="low:Q", y2="high:Q", color=told["color"]),
        *lines(x, y, told, shown),
        shared=("y",),
    )
    return found


FIGURES = (
    Figure(
        name="changes",
        title="What moved",
        caption="The change of every compared case, in units of the smallest change that matters (dashed lines at 1 "
        "and −1), with twice its standard error. Of a contrast it is δ, the length of its change over its own, "
        "which has no sign.",
        scope="comparison",
        rows=change_rows,
        chart=_change_chart,
    ),
    Figure(
        name="displacement",
        title="Where contrasts moved",
        caption="Displacement δ of each contrast at the blocks that it is read at: how long the change is, as a "
        "share of the contrast. The dashed line is the smallest that matters.",
        scope="comparison",
        rows=displacement_rows,
        chart=_displacement_chart,
    ),
    Figure(
        name="trajectory",
        title="Along training",
        caption="The value at each checkpoint of the training run, with its 95 % interval. Of a contrast it is the "
        "displacement δ from the first checkpoint.",
        scope="measurement",
        rows=trajectory_rows,
        chart=_trajectory_chart,
    ),
    Figure(
        name="power",
        title="What the gate notices",
        caption="Share of the calibration's edited models in which this was MOVED, by the dose of the edit, with 95 "
        "% Wilson intervals: 4 to 12 models each, all of them the zoo's.",
        scope="claim",
        rows=power_rows,
        chart=_power_chart,
    ),
)
