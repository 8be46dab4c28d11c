"""Audit of source D: its sentences against its own tables of projected models.

The sentences, their places and their figures stand in ``baselines/published/safety_subspaces.json``; each has its check
here, by the same id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from geometry_bench.claims.audit import Checks, Finding, Observation, Statement
from geometry_bench.errors import GeometryBenchError
from geometry_bench.published.schema import PublishedTables, TabledSubject, agrees, load_tables
from geometry_bench.published.tables import BASES, MEASURES, Basis, Measure, SweepRow

SOURCE = "safety_subspaces"

Stated = Mapping[str, Any]
_check: Checks[PublishedTables] = Checks()
_SAID = {
    "top_k": "Top-K",
    "random_k": "Random-K",
    "random": "Random",
    "base": "base",
    "aligned": "aligned",
    "safety_tuned": "safety-tuned",
    "fine_tuned": "fine-tuned",
}


def statements(published: PublishedTables) -> tuple[Statement, ...]:
    """The audited sentences in the file's order."""
    return _check.statements(published)


def audit(published: PublishedTables | None = None) -> list[Finding]:
    """Check every sentence of source D, against ``published`` or against the stored figures."""
    return _check.audit(load_tables(SOURCE) if published is None else published)


# -- tables among themselves ------------------------------------------------------------------------------------------


def _excerpt(stated: Stated, published: PublishedTables) -> Observation:
    shared, off = 0, []
    for subject, row in published.rows(stated["excerpt"]):
        full = subject.row(stated["full"], row.variant)
        if full is None:
            off.append(f"{_name(subject, row)} is absent from table {stated['full']}")
            continue
        cells = full.cells()
        for place, value in row.cells().items():
            if place in cells:
                shared += 1
                if value != cells[place]:
                    off.append(f"{_name(subject, row)} {_place(*place)} {_value(value)} against {_value(cells[place])}")
    return Observation(
        {"cells": shared, "off": off},
        not off,
        f"{len(off)} of {shared} shared entries differ (table {stated['excerpt']} against {stated['full']}): "
        f"{_some(off)}."
        if off
        else f"All {shared} entries of table {stated['excerpt']} stand in table {stated['full']} alike.",
    )


_check("tables.4_extends_1")(_excerpt)
_check("tables.5_extends_2")(_excerpt)


@_check("tables.same_start")
def _same_start(stated: Stated, published: PublishedTables) -> Observation:
    first, second = ({(s.key, row.variant): (s, row) for s, row in published.rows(t)} for t in stated["tables"])
    shared, off = 0, []
    for key, (subject, row) in first.items():
        other = second[key][1].cells() if key in second else {}
        for place, value in row.cells().items():
            if place[0] in stated["stages"] and place in other:
                shared += 1
                if value != other[place]:
                    off.append(f"{_name(subject, row)} {_place(*place)} {_value(value)} against {_value(other[place])}")
    return Observation(
        {"figures": shared, "off": off},
        not off,
        f"{len(off)} of {shared} figures differ: {_some(off)}." if off else f"All {shared} figures are the same.",
    )


@_check("tables.2_orthogonal")
def _orthogonal_caption(stated: Stated, published: PublishedTables) -> Observation:
    facts = published.tables[stated["table"]]
    curves = list(_curves(published, stated["table"]))
    rising = sum(curve.rises for curve in curves)
    return Observation(
        {"caption": facts.caption, "section": facts.section, "rising": rising, "curves": len(curves)},
        facts.caption == facts.section == stated["projection"],
        f"It stands in the section on {facts.section} projection; its caption says {facts.caption}. Utility and harm end "
        f"higher at the largest SVD fraction than at the smallest in {rising} of {len(curves)} sweeps.",
    )


# -- what projection does ---------------------------------------------------------------------------------------------


@_check("parallel.top_k_consistently")
def _top_k(stated: Stated, published: PublishedTables) -> Observation:
    counts = {"higher": 0, "equal": 0, "lower": 0}
    lower = []
    for subject, row in published.rows(stated["table"]):
        for measure in MEASURES:
            for fraction in published.svd_fractions:
                mine = _projected(row, measure, stated["basis"], fraction)
                name, best = max(
                    ((control, _projected(row, measure, control, fraction)) for control in stated["controls"]),
                    key=lambda item: item[1],
                )
                order = "higher" if mine > best else "equal" if mine == best else "lower"
                counts[order] += 1
                if order == "lower":
                    lower.append(
                        f"{_name(subject, row)} {measure} at ρ={fraction:g} ({_value(mine)}, {_SAID[name]} {_value(best)})"
                    )
    return Observation(
        {**counts, "exceptions": lower},
        not lower,
        f"Of {sum(counts.values())} entries {_SAID[stated['basis']]} is above both controls in {counts['higher']}, level "
        f"with the better one in {counts['equal']}, below it in {counts['lower']}"
        + (f": {_some(lower)}." if lower else "."),
    )


@_check("parallel.together")
def _together(stated: Stated, published: PublishedTables) -> Observation:
    curves = list(_curves(published, stated["table"]))
    apart = [curve.name for curve in curves if not curve.rises]
    steps = sum(len(curve.utility) - 1 for curve in curves)
    parted = sum(curve.parted for curve in curves)
    return Observation(
        {"sweeps": len(curves), "not_both_rising": apart, "steps": steps, "parted_steps": parted},
        not apart,
        f"Both end higher at the largest SVD fraction than at the smallest in {len(curves) - len(apart)} of "
        f"{len(curves)} sweeps"
        + (f", not in {_some(apart)}" if apart else "")
        + f"; in {parted} of {steps} single steps one rises while the other falls.",
    )


@_check("orthogonal.removal_lowers_both")
def _removal_lowers(stated: Stated, published: PublishedTables) -> Observation:
    # Orthogonal: W + (I − P_k)Δ_T loses more of the update with k, so that both measures have to fall toward the start.
    curves = list(_curves(published, stated["table"]))
    falling = sum(curve.falls for curve in curves)
    rising = sum(curve.rises for curve in curves)
    return Observation(
        {"sweeps": len(curves), "falling": falling, "rising": rising},
        falling == len(curves),
        f"From the smallest SVD fraction to the largest both fall in {falling} and both rise in {rising} of "
        f"{len(curves)} sweeps"
        + (", as under a parallel projection, which keeps what this one removes." if rising > falling else "."),
    )


@_check("orthogonal.no_selective_removal")
def _no_selective_removal(stated: Stated, published: PublishedTables) -> Observation:
    entries, selective = 0, []
    for subject, row in published.rows(stated["table"]):
        tuned = row.scalars["fine_tuned"]
        for basis in BASES:
            for fraction in published.svd_fractions:
                entries += 1
                utility, harm = (_projected(row, measure, basis, fraction) for measure in MEASURES)
                if harm < tuned.harm and utility >= tuned.utility - published.resolution - 1e-9:
                    selective.append(f"{_name(subject, row)} {_SAID[basis]} at ρ={fraction:g}")
    return Observation(
        {"entries": entries, "selective": selective},
        not selective,
        f"{len(selective)} of {entries} projected models are less harmful than the fine-tuned one and as useful within "
        f"{published.resolution:g}" + (f": {_some(selective)}." if selective else "."),
    )


# -- training, and what projection leaves alone -----------------------------------------------------------------------


@_check("training.contamination")
def _contamination(stated: Stated, published: PublishedTables) -> Observation:
    useful, harmful = (published.training_examples[name] for name in ("useful", "harmful"))
    share = harmful / (useful + harmful)
    return Observation(
        {"share": share, "harmful_per_useful": harmful / useful},
        agrees(stated["share"], share),
        f"{harmful:,} of {useful + harmful:,} examples are harmful, {share:.1%} ({harmful / useful:.1%} of the useful "
        f"ones); stated {stated['share']:.0%}.",
    )


def _text_range(stated: Stated, published: PublishedTables) -> Observation:
    ranges = {
        s.label: (s.figures[f"{stated['figure']}_low"], s.figures[f"{stated['figure']}_high"])
        for s in published.subjects.values()
        if f"{stated['figure']}_low" in s.figures
    }
    if not ranges:
        raise GeometryBenchError(f"{published.id} has no figures {stated['figure']!r} to check; restore the file.")
    low, high = min(r[0] for r in ranges.values()), max(r[1] for r in ranges.values())
    said = ", ".join(f"{label} {a:.0%} to {b:.0%}" for label, (a, b) in ranges.items())
    return Observation(
        {"low": low, "high": high, "models": len(ranges)},
        agrees(stated["low"], low) and agrees(stated["high"], high),
        f"{said}: {low:.0%} to {high:.0%} over the {len(ranges)} of {len(published.subjects)} models with figures.",
    )


_check("general_ability.mmlu")(_text_range)
_check("over_refusal.xstest")(_text_range)


# -- helpers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Curves:
    """Utility and harm of one model on one basis, by ascending SVD fraction."""

    name: str
    utility: Sequence[float]
    harm: Sequence[float]

    @property
    def rises(self) -> bool:
        """Whether both end higher than they begin."""
        return self.utility[-1] > self.utility[0] and self.harm[-1] > self.harm[0]

    @property
    def falls(self) -> bool:
        """Whether both end lower than they begin."""
        return self.utility[-1] < self.utility[0] and self.harm[-1] < self.harm[0]

    @property
    def parted(self) -> int:
        """Steps in which one rises and the other falls."""
        steps = zip(pairwise(self.utility), pairwise(self.harm), strict=True)
        return sum((u1 - u0) * (h1 - h0) < 0 for (u0, u1), (h0, h1) in steps)


def _curves(published: PublishedTables, table: str) -> Iterator[_Curves]:
    for subject, row in published.rows(table):
        for basis in BASES:
            utility, harm = (list(row.projections[basis].curve(measure).values()) for measure in MEASURES)
            yield _Curves(f"{_name(subject, row)} {_SAID[basis]}", utility, harm)


def _projected(row: SweepRow, measure: Measure, basis: Basis, fraction: float) -> float:
    value = row.projected(measure, basis, fraction)
    if value is None:
        raise GeometryBenchError(
            f"Table {row.table} gives no {measure} of {basis} at ρ={fraction:g}; restore the file."
        )
    return value


def _place(part: str, measure: Measure, fraction: float | None) -> str:
    return f"{_SAID[part]} {measure}" + ("" if fraction is None else f" at ρ={fraction:g}")


def _value(value: float) -> str:
    """With the source's decimals: two, or three where it prints three."""
    return f"{value:.2f}" if round(value, 2) == value else f"{value:.3f}"


def _name(subject: TabledSubject, row: SweepRow) -> str:
    return subject.label if row.variant == "aligned" else f"{subject.label} ({_SAID[row.variant]})"


def _some(parts: Sequence[str], at_most: int = 7) -> str:
    """All of a short list, the beginning of a longer one with the number left out."""
    left = len(parts) - at_most
    return "; ".join(parts[:at_most]) + (f"; and {left} more" if left > 0 else "")
