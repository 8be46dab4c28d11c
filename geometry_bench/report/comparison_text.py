"""Comparisons as text, as markdown or for a terminal: the answer, what moved, how far and where, and how to see more."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from geometry_bench.records.baselines import short_revision
from geometry_bench.records.facts import ModelFacts
from geometry_bench.records.judgement import BaselineVerdict, Judgement, Reason
from geometry_bench.records.measurement import case_key
from geometry_bench.report.comparison import Comparison, comparisons, how_far, rulers
from geometry_bench.report.formats.markdown import cell_of
from geometry_bench.report.narrow import Line, grouped
from geometry_bench.report.outcomes import Undecided
from geometry_bench.report.summary import value_text

_HEADERS = ("case", "how far", "matters from", "old → new", "blocks, or first tokens")


@dataclass(frozen=True)
class _Style:
    """How the parts of a comparison are written."""

    strong: Callable[[str], str]
    code: Callable[[str], str]
    heading: Callable[[str], str]
    prose: Callable[[str], str]
    bullet: Callable[[str], str]
    cases: Callable[[Sequence[str], Sequence[Line]], str]
    """A row a case under the headers, the last of which is that of the remark."""
    table: Callable[[Sequence[str], Sequence[Sequence[str]]], str]


def markdown(judged: Iterable[Judgement], against: str, undecided: Undecided = "fail") -> str:
    """The comparisons as markdown, for a pull request; ``against`` names what was compared with."""
    return _written(judged, against, undecided, _MARKDOWN)


def plain(judged: Iterable[Judgement], against: str, undecided: Undecided = "fail", width: int = 80) -> str:
    """The same for a terminal of ``width`` columns."""
    return _written(judged, against, undecided, _plain_style(width))


def _written(judged: Iterable[Judgement], against: str, undecided: Undecided, style: _Style) -> str:
    return "\n\n".join(_section(one, against, style) for one in comparisons(judged, undecided)) + "\n"


def _section(found: Comparison, against: str, style: _Style) -> str:
    facts = found.judged[0].measurement.subject
    dtype = f", {facts.dtype}" if isinstance(facts, ModelFacts) else ""
    subject, revision = style.code(found.subject), style.code(short_revision(facts.revision))
    parts = [
        style.strong(found.answer),
        style.prose(f"{subject} at {revision}{dtype}, against {style.code(against)}."),
        *(style.bullet(line) for line in found.findings),
        _cases("Moved", found.of(BaselineVerdict.MOVED), style),
        _rulers(found.judged, style),
        _cases("Too few prompts to tell", found.of(BaselineVerdict.UNDECIDED), style, most=12),
        _cases("The same", [one for one in found.of(BaselineVerdict.SAME) if one.decides], style),
        _derived(found.derived, style),
        _reasons("Not compared", found.not_compared, style),
        style.prose(
            f"To see all values: run it again with {style.code('-v')}. What the words mean: "
            f"{style.code('geometry-bench docs guard-a-fine-tune')}."
        ),
    ]
    return "\n\n".join(part for part in parts if part)


def _cases(title: str, judged: Sequence[Judgement], style: _Style, most: int = 40) -> str:
    if not judged:
        return ""
    more = f"\n\nand {len(judged) - most} more" if len(judged) > most else ""
    lines = []
    for one in judged[:most]:
        *cells, where = how_far(one)
        lines.append(Line(one.measurement.claim, one.measurement.case, tuple(cells), where))
    return f"{style.heading(title)}\n\n{style.cases(_HEADERS, lines)}{more}"


def _reasons(title: str, judged: Sequence[Judgement], style: _Style) -> str:
    """Reasons with the number of cases that each is about."""
    counts: dict[str, list[str]] = {}
    for one in judged:
        alike = one.baseline.reason is Reason.NONE_STORED
        sentence = one.baseline.sentence if not alike or one.decides else "the baseline has no such case"
        counts.setdefault(f"{one.baseline.verdict}: {sentence}", []).append(one.measurement.key)
    if not counts:
        return ""
    lines = [
        style.bullet(f"{reason} ({style.code(keys[0])}{f' and {len(keys) - 1} more' if len(keys) > 1 else ''})")
        for reason, keys in counts.items()
    ]
    return "\n".join([style.heading(title), "", *lines])


def _derived(judged: Sequence[Judgement], style: _Style) -> str:
    """What claims about the subject and its parent say, where they have a value."""
    lines = [
        Line(
            one.measurement.claim,
            one.measurement.case,
            (value_text(one.measurement.estimate), str(one.claim.verdict)),
            one.claim.sentence,
        )
        for one in judged
        if one.measurement.estimate is not None
    ]
    if not lines:
        return ""
    table = style.cases(("case", "value", "verdict", "why"), lines)
    return f"{style.heading('Child and parent together')}\n\n{table}"


def _rulers(judged: Sequence[Judgement], style: _Style) -> str:
    measured = rulers(judged)
    if not measured:
        return ""
    copies = list(next(iter(measured.values())))
    rows = [(style.code(key), *(f"{value:.3f}" for value in values.values())) for key, values in measured.items()]
    table = style.table(("δ of the parent's copies", *copies), rows)
    return f"{style.heading('A ruler')}\n\n{table}"


# Styles


def _piped(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return tabulate(rows, headers, "pipe", disable_numparse=True)


_MARKDOWN = _Style(
    strong=lambda text: f"**{text}**",
    code=lambda text: f"`{text}`",
    heading=lambda text: f"### {text}",
    prose=str,
    bullet=lambda text: f"- {text}",
    cases=lambda headers, lines: _piped(
        headers, [(f"`{case_key(one.claim, one.case)}`", *map(cell_of, (*one.cells, one.remark))) for one in lines]
    ),
    table=_piped,
)


def _plain_style(width: int) -> _Style:
    def wrapped(text: str, first: str = "", rest: str = "") -> str:
        return textwrap.fill(text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)

    return _Style(
        strong=wrapped,
        code=str,
        heading=str.upper,
        prose=wrapped,
        bullet=lambda text: wrapped(text, "- ", "  "),
        cases=lambda headers, lines: grouped(lines, headers[:-1], width),
        table=lambda headers, rows: tabulate(rows, headers, disable_numparse=True),
    )
