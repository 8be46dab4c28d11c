"""The plot of the page: δ and the change of refusals against the dose."""

from __future__ import annotations

import io
from collections.abc import Sequence

from outcomes import Outcome, Stored, is_edit

PANELS: Sequence[tuple[str, str, str, dict[str, str]]] = (
    ("rotation", "rotation (degrees)", "", {"refusal": "refusal direction", "safety": "safety direction"}),
    (
        "ablation",
        "ablation (%)",
        "",
        {"refusal": "refusal direction", "safety": "safety direction", "random": "random"},
    ),
    ("contamination", "contamination (% of rows)", "", {"": "complying placeholders"}),
    ("LoRA", "LoRA (rank)", "log", {"complying": "complying", "chats": "aligned chats", "refusals": "refusals"}),
)
COLOURS = ("#1f6f8b", "#c8553d", "#7a7a7a")
MARKERS = ("o", "^")
KINDS = {"harmful": "harmful", "benign": "benign"}


def drawn(stored: Stored) -> str:
    """The figure as SVG, the same text for the same outcomes and matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    margin = stored.facts["margin"]
    style = {
        "svg.hashsalt": "calibration",
        "svg.fonttype": "none",
        "font.size": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style):
        figure, axes = pyplot.subplots(3, len(PANELS), figsize=(10, 6.4), sharey="row", layout="constrained")
        for column, (edit, label, scale, kinds) in enumerate(PANELS):
            top, *below = axes[:, column]
            for (what, name), colour in zip(kinds.items(), COLOURS, strict=False):
                for group, marker in zip(stored.groups, MARKERS, strict=False):
                    own = stored.of(is_edit(edit, what=(what,)), lambda one, group=group: one.group == group)
                    label_of = name if marker == MARKERS[0] else None
                    _points(top, own, [one.largest for one in own], colour, marker, label_of)
                    for axis, kind in zip(below, KINDS, strict=True):
                        _points(axis, own, [100 * one.change(kind) for one in own], colour, marker)
            top.axhline(margin, color="black", linewidth=0.6, linestyle="--")
            if top.get_legend_handles_labels()[0]:
                top.legend(frameon=False, fontsize=7)
            for axis in below:
                axis.axhline(0, color="black", linewidth=0.4)
            for axis in axes[:, column]:
                if scale:
                    axis.set_xscale("log", base=4)
                    axis.xaxis.set_major_formatter("{x:g}")
            below[-1].set_xlabel(label)
        axes[0, 0].set_ylabel(f"largest δ (dashed: margin {margin:g})")
        for axis, kind in zip(axes[1:, 0], KINDS, strict=True):
            axis.set_ylabel(f"refusals of {kind}\nrequests, change (points)")
        figure.suptitle(
            f"filled: MOVED, hollow: not; circles: {stored.groups[0]}, triangles: {stored.groups[-1]}", fontsize=8
        )
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    return out.getvalue()


def _points(
    axis: object, own: list[Outcome], values: list[float], colour: str, marker: str, label: str | None = None
) -> None:
    for moved in (True, False):
        some = [(one.dose, value) for one, value in zip(own, values, strict=True) if one.moved() is moved]
        if some:
            x, y = zip(*some, strict=True)
            face = colour if moved else "none"
            axis.scatter(x, y, s=16, marker=marker, facecolors=face, edgecolors=colour, linewidths=0.8, label=label)  # type: ignore[attr-defined]
            label = None
