"""The table that ends a run: a pure function of judgements."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from tabulate import tabulate

from geometry_bench.records.baselines import short_revision
from geometry_bench.records.estimates import Estimate
from geometry_bench.records.facts import Facts, ModelFacts, PublicationFacts
from geometry_bench.records.judgement import BaselineVerdict, ClaimVerdict, Judgement

TABLE_NOTE = (
    "value ± jackknife error over prompts, corrected variant; null: central 90 % and the value's percentile in it"
)
HEADERS = ("claim", "value", "null", "published", "baseline", "verdict")
TABLES_OF_THEIR_OWN = 4
"""Up to so many models each get a table; more are set side by side."""

_LETTERS = {
    ClaimVerdict.HOLDS: "H",
    ClaimVerdict.FAILS: "F",
    ClaimVerdict.INCONCLUSIVE: "i",
    ClaimVerdict.NOT_APPLICABLE: "-",
}
_MOVED = {BaselineVerdict.MOVED: "!", BaselineVerdict.UNDECIDED: "~"}


def summary_tables(judged: Sequence[Judgement], *, whole: bool = False) -> str:
    """The values of all subjects, in the order measured.

    One table a subject: value ± error, null, published value, baseline, verdict. More than a few models are set side by
    side instead, a letter each, unless ``whole`` asks for all their tables.
    """
    by_subject: dict[str, list[Judgement]] = {}
    for one in judged:
        by_subject.setdefault(one.measurement.subject.id, []).append(one)
    models = {name: group for name, group in by_subject.items() if not group[0].measurement.subject.is_joint}
    if whole or len(models) <= TABLES_OF_THEIR_OWN:
        return _tables(by_subject)
    others = {name: group for name, group in by_subject.items() if name not in models}
    return "\n\n".join(part for part in (_side_by_side(models), _tables(others)) if part)


def _side_by_side(by_subject: Mapping[str, Sequence[Judgement]]) -> str:
    """Cases × subjects: verdict letters, and the range of the values."""
    cases: dict[str, dict[str, Judgement]] = {}
    for name, group in by_subject.items():
        for one in group:
            cases.setdefault(one.measurement.key, {})[name] = one
    rows = []
    for key, found in cases.items():
        estimates = [one.measurement.estimate for one in found.values()]
        values = [estimate.value for estimate in estimates if estimate is not None and estimate.value is not None]
        span = f"{min(values):+.2f}…{max(values):+.2f}" if values else "–"
        rows.append((key, span, *(_letter(found.get(name)) for name in by_subject)))
    numbers = [str(number) for number in range(1, len(by_subject) + 1)]
    legend = [
        f"{number:>3} {name} ({_subject_line(group[0].measurement.subject)})"
        for number, (name, group) in zip(numbers, by_subject.items(), strict=True)
    ]
    table = tabulate(rows, ("claim", "values", *numbers), tablefmt="simple", disable_numparse=True)
    letters = (
        "H holds, F fails, i inconclusive, - not applicable; ! has moved from its baseline, ~ too few prompts to tell"
    )
    return "\n".join([*legend, "", table, letters, "-v prints each subject's values with error, null and baseline"])


def _letter(judged: Judgement | None) -> str:
    return "" if judged is None else _LETTERS[judged.claim.verdict] + _MOVED.get(judged.baseline.verdict, "")


def _tables(by_subject: Mapping[str, Sequence[Judgement]]) -> str:
    tables = [
        f"{name} ({_subject_line(group[0].measurement.subject)})\n"
        + tabulate([row(one) for one in group], HEADERS, tablefmt="simple", disable_numparse=True)
        for name, group in by_subject.items()
    ]
    return "\n\n".join([*tables, TABLE_NOTE]) if tables else ""


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
    error = "" if estimate.error is None else f" ± {estimate.error:.3f}"
    label = f" {estimate.label}" if estimate.label else ""
    return f"{estimate.value:+.3f}{error}{label}"


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


def counts_line(judged: Sequence[Judgement]) -> str:
    """How many cases hold, fail, are inconclusive or not applicable."""
    counts = Counter(str(one.claim.verdict) for one in judged)
    return ", ".join(f"{counts[name]} {name}" for name in sorted(counts))
