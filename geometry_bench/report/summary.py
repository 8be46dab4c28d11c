"""The tables that end a run: pure functions of judgements."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from tabulate import tabulate

from geometry_bench.records.baselines import short_revision
from geometry_bench.records.estimates import Estimate
from geometry_bench.records.facts import Facts, ModelFacts, PublicationFacts
from geometry_bench.records.judgement import BaselineVerdict, ClaimVerdict, Judgement
from geometry_bench.report.narrow import Line, grouped

TABLE_NOTE = "value ± standard error over prompts\nnull: central 90 %, and the value's percentile in it"
LETTERS = "H holds, F fails, i inconclusive\n! moved from its baseline, ~ too few prompts to tell"
HEADERS = ("claim", "value", "null", "published", "baseline", "verdict")
TABLES_OF_THEIR_OWN = 4
"""Up to so many models each get a table; more are set side by side."""

_LEAST = 20
"""Characters that the column of cases keeps."""
_LETTERS = {ClaimVerdict.HOLDS: "H", ClaimVerdict.FAILS: "F", ClaimVerdict.INCONCLUSIVE: "i"}
_MOVED = {BaselineVerdict.MOVED: "!", BaselineVerdict.UNDECIDED: "~"}


def summary_tables(judged: Sequence[Judgement], *, whole: bool = False, width: int | None = None) -> str:
    """The values of all subjects, in the order measured, in lines of so many columns (None: as many as they take).

    One table a subject: value ± error, null, published value, baseline, verdict. More than a few models are set side by
    side instead, value and a letter each, unless ``whole`` asks for all their tables. What was not asked for is left out.
    """
    by_subject: dict[str, list[Judgement]] = {}
    for one in judged:
        if one.was_asked:
            by_subject.setdefault(one.measurement.subject.id, []).append(one)
    models = {name: group for name, group in by_subject.items() if not group[0].measurement.subject.is_joint}
    if whole or len(models) <= TABLES_OF_THEIR_OWN:
        return _tables(by_subject, width)
    others = {name: group for name, group in by_subject.items() if name not in models}
    return "\n\n".join(part for part in (_side_by_side(models, width), _tables(others, width)) if part)


def _side_by_side(by_subject: Mapping[str, Sequence[Judgement]], width: int | None) -> str:
    """Cases × subjects: value and letter of each; as many subjects in a table as fit, then the next."""
    cases: dict[str, dict[str, Judgement]] = {}
    for name, group in by_subject.items():
        for one in group:
            cases.setdefault(one.measurement.key, {})[name] = one
    numbers = {name: str(number) for number, name in enumerate(by_subject, start=1)}
    named = [(f"{numbers[name]:>3} {name}", group[0].measurement.subject) for name, group in by_subject.items()]
    whole = [_titled(name, facts, None) for name, facts in named]
    fits = width is None or max(map(len, whole)) <= width
    legend = whole if fits else [_titled(name, facts, 0) for name, facts in named]
    keys = [next(iter(found.values())).measurement for found in cases.values()]
    cells = {name: [_cell(found.get(name)) for found in cases.values()] for name in by_subject}
    tables = []
    for names in _fitting(cells, max(len(one.key) for one in keys), width):
        rows = [
            Line(one.claim, one.case, tuple(cells[name][place] for name in names))
            for place, one in enumerate(keys)
            if any(cells[name][place] for name in names)
        ]
        tables.append(grouped(rows, ("claim", *(numbers[name] for name in names)), width))
    text = "\n\n".join(tables)
    return "\n".join([*legend, "", text, LETTERS, "-v prints each subject's values with error, null and baseline"])


def _fitting(cells: Mapping[str, Sequence[str]], longest: int, width: int | None) -> list[list[str]]:
    """The subjects in runs of as many as fit beside the column of cases."""
    runs: list[list[str]] = [[]]
    room = free = math.inf if width is None else width - min(longest, _LEAST + 10)
    for name, column in cells.items():
        taken = 2 + max(map(len, column))
        if taken > free and runs[-1]:
            runs.append([])
            free = room
        runs[-1].append(name)
        free -= taken
    return runs


def _cell(judged: Judgement | None) -> str:
    """``+0.91 H!``; a dash where there is no value, nothing where it was not measured."""
    estimate = None if judged is None else judged.measurement.estimate
    if judged is None:
        return ""
    if estimate is None or estimate.value is None or judged.claim.verdict not in _LETTERS:
        return "–"
    return f"{estimate.value:+.2f} {_LETTERS[judged.claim.verdict]}{_MOVED.get(judged.baseline.verdict, '')}"


def _tables(by_subject: Mapping[str, Sequence[Judgement]], width: int | None) -> str:
    tables = [
        f"{_titled(name, group[0].measurement.subject, width)}\n{_table(group, width)}"
        for name, group in by_subject.items()
    ]
    return "\n\n".join([*tables, TABLE_NOTE]) if tables else ""


def _table(group: Sequence[Judgement], width: int | None) -> str:
    """One row a case with all its columns, or where these do not fit, what differs from the usual below it."""
    rows = [row(one) for one in group]
    used = [place for place in range(len(HEADERS)) if any(cells[place] for cells in rows)]
    headers = [HEADERS[place] for place in used]
    wide = tabulate(
        [[cells[place] for place in used] for cells in rows], headers, tablefmt="simple", disable_numparse=True
    )
    if width is None or max(map(len, wide.splitlines())) <= width:
        return wide
    lines = [
        Line(
            one.measurement.claim,
            one.measurement.case,
            (_number(one.measurement.estimate), null, str(one.claim.verdict)),
            _remark(one),
        )
        for one, (_, _, null, *_) in zip(group, rows, strict=True)
    ]
    return grouped(lines, ("claim", "value", "null", "verdict"), width)


def _remark(judged: Judgement) -> str:
    """What a narrow table has no column for: label, published value, a baseline that is not the same."""
    estimate, (*_, published, baseline, _) = judged.measurement.estimate, row(judged)
    usual = (BaselineVerdict.SAME, BaselineVerdict.NO_BASELINE)
    parts = [
        estimate.label if estimate is not None and estimate.label else "",
        f"published {published}" if published else "",
        f"baseline {baseline}" if judged.baseline.verdict not in usual else "",
    ]
    return ", ".join(part for part in parts if part)


def _titled(name: str, facts: Facts, width: int | None) -> str:
    """A subject with its facts, which go to a line of their own where they do not fit beside it."""
    line = f"{name} ({_subject_line(facts)})"
    return line if width is None or len(line) <= width else f"{name}\n    {_subject_line(facts)}"


def _subject_line(facts: Facts) -> str:
    if isinstance(facts, ModelFacts):
        size = f"{facts.layers} blocks × {facts.width}"
        return ", ".join(map(str, (short_revision(facts.revision), size, facts.dtype, facts.device, facts.attention)))
    return "its own reported values" if isinstance(facts, PublicationFacts) else f"{len(facts.members)} members"


def row(judged: Judgement) -> tuple[str, ...]:
    """A case's cells, under :data:`HEADERS`."""
    estimate, reported, old = (
        judged.measurement.estimate,
        judged.published.number("reported"),
        judged.baseline.number("old"),
    )
    moved = judged.baseline.verdict
    return (
        judged.measurement.key,
        value_text(estimate),
        null_text(estimate),
        "" if reported is None else f"{reported:+.2f} {judged.published.verdict}",
        str(moved) if old is None else f"{old:+.3f} {moved}",
        str(judged.claim.verdict),
    )


def value_text(estimate: Estimate | None) -> str:
    """``+0.912 ± 0.013 chenrezig-tara``; a dash where there is no value."""
    if estimate is None or estimate.value is None:
        return "–"
    return _number(estimate) + (f" {estimate.label}" if estimate.label else "")


def _number(estimate: Estimate | None) -> str:
    if estimate is None or estimate.value is None:
        return "–"
    return f"{estimate.value:+.3f}" + ("" if estimate.error is None else f" ± {estimate.error:.3f}")


def null_text(estimate: Estimate | None) -> str:
    """The null's central 90 % and the value's percentile in it."""
    if estimate is None or estimate.null is None:
        return ""
    null = estimate.null
    return f"{null.low:+.2f}…{null.high:+.2f} (p{null.percentile:.0f})"


def notes_of(judged: Sequence[Judgement]) -> list[str]:
    """What was skipped, cut, guessed or substituted, once a subject; what is said of many subjects, once for all of them.

    Sentences that differ in their numbers alone are one.
    """
    subjects: dict[str, dict[str, str]] = {}
    for one in judged:
        subject, inputs = one.measurement.subject, one.measurement.inputs
        for note in (*getattr(subject, "notes", ()), *getattr(inputs, "notes", ())):
            subjects.setdefault(re.sub(r"[\d.]+", "#", note), {}).setdefault(subject.id, note)
    lines = []
    for found in subjects.values():
        first, *others = found
        more = f" and {len(others)} more" if len(others) > 1 else "".join(f" and {other}" for other in others)
        lines.append(f"{first}{more}: {found[first]}")
    return lines
