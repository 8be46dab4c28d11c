"""The table that ends a run: a pure function of records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tabulate import tabulate

from geometry_bench.geometry.resampling import holm
from geometry_bench.records.schema import BaselineVerdict, ClaimVerdict, Estimate, Record
from geometry_bench.records.verdicts import FAMILY_WISE_ERROR

TABLE_NOTE = (
    "value ± jackknife error over prompts, corrected variant; null: central 90 % and the value's percentile in it"
)
HEADERS = ("claim", "value", "null", "published", "baseline", "verdict")


TABLES_OF_THEIR_OWN = 4
"""Up to so many subjects each get a table; more are set side by side."""
_LETTERS = {
    ClaimVerdict.HOLDS: "H",
    ClaimVerdict.FAILS: "F",
    ClaimVerdict.INCONCLUSIVE: "i",
    ClaimVerdict.NOT_APPLICABLE: "-",
}
_MOVED = {BaselineVerdict.REGRESSION: "!", BaselineVerdict.DRIFT: "~"}


def summary_tables(records: Sequence[Record], *, whole: bool = False) -> str:
    """The values of all subjects, in the order measured.

    One table a subject: value ± error, null, published figure, baseline, verdict. More than a few subjects are set side by
    side instead, a letter each, unless ``whole`` asks for all their tables.
    """
    by_subject: dict[str, list[Record]] = {}
    for record in records:
        by_subject.setdefault(record.subject_name, []).append(record)
    several = {name: group for name, group in by_subject.items() if "members" not in group[0].subject}
    if whole or len(several) <= TABLES_OF_THEIR_OWN:
        return _tables(by_subject)
    others = {name: group for name, group in by_subject.items() if name not in several}
    return "\n\n".join(part for part in (_side_by_side(several), _tables(others)) if part)


def _side_by_side(by_subject: Mapping[str, Sequence[Record]]) -> str:
    """Cases × subjects: verdict letters, and the range of the values."""
    cases: dict[str, dict[str, Record]] = {}
    for name, group in by_subject.items():
        for record in group:
            cases.setdefault(record.key, {})[name] = record
    rows = []
    for key, found in cases.items():
        values = [
            record.estimate.value for record in found.values() if record.estimate and record.estimate.value is not None
        ]
        span = f"{min(values):+.2f}…{max(values):+.2f}" if values else "–"
        rows.append((key, span, *(_letter(found.get(name)) for name in by_subject)))
    numbers = [str(number) for number in range(1, len(by_subject) + 1)]
    legend = [
        f"{number:>3} {name} ({_subject_line(by_subject[name][0])})"
        for number, name in zip(numbers, by_subject, strict=True)
    ]
    return "\n".join(
        [
            *legend,
            "",
            tabulate(rows, ("claim", "values", *numbers), tablefmt="simple", disable_numparse=True),
            "H holds, F fails, i inconclusive, - not applicable; ! has moved from its baseline, ~ within sampling noise",
            "-v prints each subject's values with error, null and baseline",
        ]
    )


def _letter(record: Record | None) -> str:
    if record is None:
        return ""
    return _LETTERS[record.verdicts.claim] + _MOVED.get(record.verdicts.baseline, "")


def _tables(by_subject: Mapping[str, Sequence[Record]]) -> str:
    if not by_subject:
        return ""
    tables = [
        f"{name} ({_subject_line(group[0])})\n"
        + tabulate([_row(record) for record in group], HEADERS, tablefmt="simple", disable_numparse=True)
        for name, group in by_subject.items()
    ]
    return "\n\n".join([*tables, TABLE_NOTE])


def _subject_line(record: Record) -> str:
    subject = record.subject
    if "members" in subject:
        return f"{len(subject['members'])} members"
    return ", ".join(
        str(part)
        for part in (
            str(subject["revision"])[:19],
            f"{subject['layers']} blocks × {subject['width']}",
            subject["dtype"],
            subject["device"],
            subject["attention"],
        )
    )


def _row(record: Record) -> tuple[str, ...]:
    estimate, verdicts = record.estimate, record.verdicts
    published = "" if verdicts.published_figure is None else f"{verdicts.published_figure:+.2f} {verdicts.published}"
    return (
        record.key,
        value_text(estimate),
        null_text(estimate),
        published,
        verdicts.baseline if verdicts.baseline_value is None else f"{verdicts.baseline_value:+.3f} {verdicts.baseline}",
        str(verdicts.claim),
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


def holm_lines(records: Sequence[Record]) -> list[str]:
    """Cases that Holm's later steps add to the regressions already reported.

    Each case is judged at once with the first step's bound; when that step has rejected something, the later ones allow
    more, and this is where they are told. Empty where there is no regression, since Holm then rejects nothing.
    """
    tested = [record for record in records if record.verdicts.p_value is not None]
    if not any(record.verdicts.baseline is BaselineVerdict.REGRESSION for record in tested):
        return []
    adjusted = holm([float(record.verdicts.p_value or 0.0) for record in tested])
    return [
        f"{record.key} on {record.subject_name} has moved too, by Holm's later steps (adjusted p = {p:.2g}): "
        f"{record.verdicts.baseline_reason}"
        for record, p in zip(tested, adjusted, strict=True)
        if p <= FAMILY_WISE_ERROR
        and record.verdicts.baseline is BaselineVerdict.DRIFT
        and "within sampling noise" in record.verdicts.baseline_reason
    ]


def counts_line(records: Sequence[Record]) -> str:
    """How many cases hold, fail, are inconclusive or not applicable."""
    verdicts = [str(record.verdicts.claim) for record in records]
    return ", ".join(f"{verdicts.count(name)} {name}" for name in dict.fromkeys(sorted(verdicts)))
