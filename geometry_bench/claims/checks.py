"""The declared checks of :mod:`geometry_bench.published.statements`, carried out: what the data say of a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

import numpy as np

from geometry_bench.claims.readings import Item, Lookup, Stated
from geometry_bench.errors import GeometryBenchError
from geometry_bench.published.publication import Publication
from geometry_bench.published.statements import (
    AlignmentCheck,
    AllCheck,
    Bounds,
    Check,
    CountCheck,
    FunctionCheck,
    MeanCheck,
    OrderCheck,
    PrintedCheck,
    RangeCheck,
    SameCheck,
)
from geometry_bench.published.tables import agrees


@dataclass(frozen=True)
class Observation:
    """What a check saw in the data: numbers or lists by name, whether they bear the sentence out, and one sentence why."""

    found: Mapping[str, Any]
    consistent: bool
    explanation: str


def observe(check: Check, stated: Stated, publication: Publication) -> Observation:
    """Carry out a declared check on what a sentence states.

    Raises ``GeometryBenchError`` where a value that it needs is missing, ``KeyError`` for a word that is not stated and
    ``ValueError`` for a check by a function.
    """
    return _observe(check, Lookup(stated, publication))


def listing(parts: Sequence[object], at_most: int = 7) -> str:
    """All of a short list, the beginning of a longer one with the number left out."""
    left = len(parts) - at_most
    return "; ".join(str(part) for part in parts[:at_most]) + (f"; and {left} more" if left > 0 else "")


def _observe(check: Check, lookup: Lookup) -> Observation:
    match check:
        case RangeCheck():
            return _range(check, lookup)
        case CountCheck():
            return _count(check, lookup)
        case MeanCheck():
            return _mean(check, lookup)
        case OrderCheck():
            return _order(check, lookup)
        case PrintedCheck():
            return _printed(check, lookup)
        case SameCheck():
            return _same(check, lookup)
        case AlignmentCheck():
            return _alignment(check, lookup)
        case AllCheck():
            return _all([_observe(one, lookup) for one in check.checks])
        case FunctionCheck():
            raise ValueError("a check by a function stands in the audit of its source")


def _all(seen: Sequence[Observation]) -> Observation:
    return Observation(
        {f"{i}.{key}": value for i, one in enumerate(seen, 1) for key, value in one.found.items()},
        all(one.consistent for one in seen),
        " ".join(one.explanation for one in seen),
    )


def _lowest(items: Sequence[Item]) -> Item:
    return min(items, key=lambda item: item.value)


def _highest(items: Sequence[Item]) -> Item:
    return max(items, key=lambda item: item.value)


def _span(items: Sequence[Item]) -> str:
    low, high = _lowest(items), _highest(items)
    return str(low) if low == high else f"{low.value:.4g} ({low.place}) to {high.value:.4g} ({high.place})"


def _average(items: Sequence[Item]) -> float:
    return float(np.mean([item.value for item in items]))


def _range(check: RangeCheck, lookup: Lookup) -> Observation:
    (title, items), low, high = lookup.items(check), lookup.stated["low"], lookup.stated["high"]
    least, greatest = _lowest(items).value, _highest(items).value
    return Observation(
        {"low": least, "high": greatest, "count": len(items)},
        agrees(low, least) and agrees(high, greatest),
        f"{title}: {len(items)} values run from {_span(items)}; stated {low:g} to {high:g}.",
    )


def _within(check: Bounds, lookup: Lookup, value: float) -> bool:
    above, at_least, below = (lookup.number(bound) for bound in (check.above, check.at_least, check.below))
    return (
        (above is None or value > above)
        and (at_least is None or value >= at_least)
        and (below is None or value < below)
    )


def _bounds(check: Bounds, lookup: Lookup) -> str:
    given = {"above": check.above, "at least": check.at_least, "below": check.below}
    return " and ".join(f"{said} {lookup.number(bound):g}" for said, bound in given.items() if bound is not None)


def _count(check: CountCheck, lookup: Lookup) -> Observation:
    title, items = lookup.items(check)
    if check.one_sign:
        negative = [item for item in items if item.value < 0]
        positive = [item for item in items if item.value > 0]
        held, said = max(positive, negative, key=len), "of one sign"
    else:
        held, said = [item for item in items if _within(check, lookup, item.value)], _bounds(check, lookup)
    rest = [item for item in items if item not in held]
    if check.exactly:
        enough, tail = {item.subject for item in held} == set(lookup.keys(check.exactly)), f" ({listing(held)})"
    else:
        enough = 2 * len(held) > len(items) if check.needed == "most" else not rest
        tail = f", not {listing(rest)}" if rest else f": {_span(items)}"
    return Observation(
        {"count": len(items), "held": len(held), "exceptions": [str(item) for item in rest]},
        enough and len(items) == lookup.stated.get("count", len(items)),
        f"{title}: {len(held)} of {len(items)} are {said}{tail}.",
    )


def _mean(check: MeanCheck, lookup: Lookup) -> Observation:
    (title, items), publication, near = lookup.items(check), lookup.publication, lookup.number(check.near)
    references = {group.reference for group in publication.groups.values()}
    parts = {
        **{f"in {name}": [i for i in items if i.subject in g.members] for name, g in publication.groups.items()},
        "without the references": [i for i in items if i.subject not in references],
    }
    means = {name: _average(held) for name, held in parts.items() if 0 < len(held) < len(items)}
    mean, rungs = _average(items), [[i for i in items if i.subject in lookup.keys((r,))] for r in check.ascending]
    ascending = " < ".join(str(lookup.stated.get(rung, rung)) for rung in check.ascending)
    asked = [_bounds(check, lookup), "" if near is None else f"{near:g}", ascending]
    return Observation(
        {"mean": mean, **means},
        _within(check, lookup, mean)
        and (near is None or abs(mean - near) <= publication.resolution + 1e-9)
        and all(_average(lower) < _average(higher) for lower, higher in pairwise(rungs)),
        f"{title}: the mean is {mean:.4f} over {len(items)} values"
        + "".join(f", {value:.4f} {name}" for name, value in means.items())
        + f"; they run from {_span(items)}; stated {' and '.join(part for part in asked if part)}.",
    )


def _order(check: OrderCheck, lookup: Lookup) -> Observation:
    title, items = lookup.items(check)
    keys = [[set(lookup.keys((word,))) for word in rung] for rung in check.ascending]
    rungs = [[i for i in items if all(i.subject in key or i.name in key for key in rung)] for rung in keys]
    placed = {item for rung in rungs for item in rung}
    others = [item for item in items if item not in placed]
    rungs = [others if name == ("others",) else rung for name, rung in zip(check.ascending, rungs, strict=True)]
    if check.in_each is None:
        breaks = _breaks(rungs)
        return Observation(
            {"/".join(name): [item.value for item in rung] for name, rung in zip(check.ascending, rungs, strict=True)},
            not breaks,
            f"{title}, from low to high: {', then '.join(_span(rung) for rung in rungs)}"
            + (f"; but {listing(breaks)}." if breaks else "."),
        )
    by_subject = {
        key: _breaks([[item for item in rung if item.subject == key] for rung in rungs])
        for key in dict.fromkeys(item.subject for item in items)
    }
    holds = [key for key, found in by_subject.items() if not found]
    exceptions = [one for found in by_subject.values() for one in found]
    return Observation(
        {"holds": holds, "exceptions": exceptions},
        2 * len(holds) > len(by_subject) if check.in_each == "most" else not exceptions,
        f"The order holds in {len(holds)} of {len(by_subject)}"
        + (f", not {listing(exceptions)}." if exceptions else "."),
    )


def _breaks(rungs: Sequence[Sequence[Item]]) -> list[str]:
    """Where a rung reaches the next one: its highest number against the lowest of that one."""
    if not all(rungs):
        raise GeometryBenchError("An order to check has no number on one of its rungs; restore the published file.")
    ends = [(_highest(lower), _lowest(upper)) for lower, upper in pairwise(rungs)]
    return [f"{high} against {low}" for high, low in ends if high.value >= low.value]


def _printed(check: PrintedCheck, lookup: Lookup) -> Observation:
    publication, off = lookup.publication, lookup.subject(check.less_subject)
    if check.table is not None:
        table = publication.table(check.table)
        cells = [(publication.subjects[r.subject], n, v) for r in table.rows for n, v in table.printed(r).items()]
    else:
        cells = [(s, n, v) for s in lookup.subjects(check.subjects) for n, v in lookup.stated[check.values].items()]
    data = [s.number(name) - (off.number(name) if off is not None else 0.0) for s, name, _ in cells]
    wrong = [
        f"{s.label} {publication.label(name)} is printed {printed:+.2f}, the data give {value:+.4f}"
        for (s, name, printed), value in zip(cells, data, strict=True)
        if not agrees(printed, value)
    ]
    ordered = not check.sorted or _falls_alike([printed for _, _, printed in cells], data)
    order = f"The order is {'' if ordered else 'not '}that of the data. " if check.sorted else ""
    said = (
        f"{len(wrong)} of {len(cells)} printed values differ: {listing(wrong)}."
        if wrong
        else f"{len(cells)} of {len(cells)} printed values are the rounded data: "
        f"{listing([f'{value:+.4f}' for value in data])}."
    )
    return Observation(
        {"cells": len(cells), "data": data, "off": wrong, **({"order_holds": ordered} if check.sorted else {})},
        not wrong and ordered,
        order + said,
    )


def _falls_alike(printed: Sequence[float], data: Sequence[float]) -> bool:
    """Whether the data are in the printed order; equal printed values are a tie, whose order says nothing."""
    pairs = list(zip(printed, data, strict=True))
    return all(a[1] >= b[1] for i, a in enumerate(pairs) for b in pairs[i + 1 :] if a[0] > b[0])


def _same(check: SameCheck, lookup: Lookup) -> Observation:
    publication, (first, second) = lookup.publication, lookup.stated["tables"]
    one, other = publication.table(first), publication.table(second)
    rows = {(row.subject, row.variant): row for row in other.rows}
    columns = [c for c in one.columns if c in other.columns and any(fnmatchcase(c, p) for p in check.columns)]
    shared, off = 0, []
    for row in one.rows:
        subject, match = publication.subjects[row.subject], rows.get((row.subject, row.variant))
        if match is None:
            off += [f"{subject.label} ({row.variant}) is absent from table {second}"] if check.complete else []
            continue
        for column in columns:
            mine, theirs = subject.points(one.name(row, column)), subject.points(other.name(match, column))
            shared += len(mine)
            off += [
                f"{subject.label} ({row.variant}) {column}{'' if x is None else f' at {x:g}'}: {y:g} against {theirs[x]:g}"
                for x, y in mine.items()
                if theirs[x] != y
            ]
    return Observation(
        {"entries": shared, "off": off},
        not off,
        f"{len(off)} of {shared} entries of table {first} differ in table {second}: {listing(off)}."
        if off
        else f"All {shared} entries of table {first} stand in table {second} alike.",
    )


def _alignment(check: AlignmentCheck, lookup: Lookup) -> Observation:
    subjects = lookup.subjects(check.subjects)
    held = [subject.key for subject in subjects if subject.alignment_group == check.group]
    return Observation(
        {check.group: held},
        len(held) == (len(subjects) if check.needed == "all" else 0),
        f"{len(held)} of {len(subjects)} are of the alignment group {check.group}.",
    )
