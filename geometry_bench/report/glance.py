"""What a run found, in a few lines before its tables: a pure function of judgements."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from geometry_bench.records.facts import PromptInputs
from geometry_bench.records.judgement import NOT_COMPARED, BaselineVerdict, ClaimVerdict, Judgement, Reason

CONTROL = "control."
"""What the ids of controls begin with: they are counted apart."""

WIDTH = 80
_INDENT = 28


def glance(judged: Sequence[Judgement], width: int = WIDTH) -> list[str]:
    """What fails, what moved, what holds beyond its null, what cannot be told and why; then the rest, counted.

    At most 15 lines of ``width`` or 80 columns, whichever is less; empty for no judgements.
    """
    asked = [one for one in judged if one.was_asked]
    controls = [one for one in asked if one.measurement.claim.startswith(CONTROL)]
    claims = [one for one in asked if not one.measurement.claim.startswith(CONTROL)]
    subjects = len({one.measurement.subject.id for one in judged})
    by_verdict = {verdict: [one for one in claims if one.claim.verdict is verdict] for verdict in ClaimVerdict}
    holds, unknown = by_verdict[ClaimVerdict.HOLDS], by_verdict[ClaimVerdict.INCONCLUSIVE]
    beyond = [one for one in holds if one.claim.reason is Reason.BEYOND_NULL]
    plain = [one for one in holds if one.claim.reason is not Reason.BEYOND_NULL]
    rows = [
        _row("FAILS", by_verdict[ClaimVerdict.FAILS], _told_of_failures, always=bool(claims)),
        _told_of_moves(asked),
        _row("HOLDS beyond its null", beyond, _names),
        _row("INCONCLUSIVE", unknown, lambda found: _counted(map(_why_unknown, found))),
        _row("", unknown, _names, counted=False, most=1),
        _row("HOLDS, no null asked", plain, _names, most=1),
        _row(
            "NOT_APPLICABLE", by_verdict[ClaimVerdict.NOT_APPLICABLE], lambda found: _counted(map(_why_absent, found))
        ),
        _row("not asked for", [one for one in judged if not one.was_asked], _how_to_ask),
        ("controls", "", _told_of_controls(controls), 2) if controls else None,
    ]
    head = [f"at a glance: {_number(len(asked), 'case')} on {_number(subjects, 'subject')}"] if judged else []
    return head + [line for row in rows if row is not None for line in _wrapped(*row, min(width, WIDTH))]


_Row = tuple[str, str, Sequence[str], int]
"""Label, count, what is told, and in how many lines at most."""


def _row(
    label: str,
    found: Sequence[Judgement],
    told: Callable[[Sequence[Judgement]], list[str]],
    *,
    counted: bool = True,
    most: int = 2,
    always: bool = False,
) -> _Row | None:
    return (label, str(len(found)) if counted else "", told(found), most) if found or always else None


def _wrapped(label: str, count: str, parts: Sequence[str], most: int, width: int) -> list[str]:
    """The parts in at most so many lines; what does not fit is counted."""
    head = f"  {label:<{_INDENT - 6}}{count:>3} "
    wrapper = textwrap.TextWrapper(width, head, " " * _INDENT, break_long_words=False, break_on_hyphens=False)
    lines = [head.rstrip()]
    for kept in range(len(parts), 0, -1):
        rest = f" and {len(parts) - kept} more" if kept < len(parts) else ""
        lines = wrapper.wrap(", ".join(parts[:kept]) + rest)
        if len(lines) <= most:
            break
    return lines


def _told_of_failures(failed: Sequence[Judgement]) -> list[str]:
    """Those that no baseline has on record come first: they are news."""
    new = _names([one for one in failed if not one.is_on_record])
    known = _names([one for one in failed if one.is_on_record])
    if not known:
        return new
    return [*new, f"on record: {known[0]}", *known[1:]]


def _told_of_moves(judged: Sequence[Judgement]) -> _Row | None:
    """How many moved of those that were compared with a baseline, the claims made to compare models first."""
    valued = [one for one in judged if one.claim.verdict is not ClaimVerdict.NOT_APPLICABLE]
    compared = [one for one in valued if one.baseline.verdict not in NOT_COMPARED]
    if not valued:
        return None
    if not compared:
        return "MOVED", "–", ["nothing was compared with a baseline"], 1
    moved = [one for one in compared if one.baseline.verdict is BaselineVerdict.MOVED]
    undecided = sum(one.baseline.verdict is BaselineVerdict.UNDECIDED for one in compared)
    told = [f"of {len(compared)} compared with baselines", *([f"{undecided} UNDECIDED"] if undecided else [])]
    names = _names(sorted(moved, key=lambda one: not one.decides))
    if names:
        told[-1] += f": {names[0]}"
    return "MOVED", str(len(moved)), [*told, *names[1:]], 2


def _told_of_controls(controls: Sequence[Judgement]) -> list[str]:
    kinds = {verdict: [one for one in controls if one.claim.verdict is verdict] for verdict in ClaimVerdict}
    told = [f"{len(kinds[ClaimVerdict.HOLDS])} of {len(controls)} as they should be"]
    others = {
        ClaimVerdict.FAILS: "not",
        ClaimVerdict.INCONCLUSIVE: "cannot be told",
        ClaimVerdict.NOT_APPLICABLE: "absent",
    }
    for verdict, word in others.items():
        names = _names(kinds[verdict])
        told += [f"{word}: {names[0]}", *names[1:]] if names else []
    return told


def _names(found: Sequence[Judgement]) -> list[str]:
    return _counted(one.measurement.claim for one in found)


def _counted(names: Iterable[str]) -> list[str]:
    """Each name with how often it comes, the most frequent first."""
    return [f"{name} ×{count}" if count > 1 else name for name, count in Counter(names).most_common()]


def _why_unknown(judged: Judgement) -> str:
    inputs = judged.measurement.inputs
    if isinstance(inputs, PromptInputs) and inputs.is_guessed:
        return "the model cannot read the text"
    return str(judged.claim.reason)


def _why_absent(judged: Judgement) -> str:
    missing = judged.measurement.missing
    return str(judged.claim.reason) if missing is None else str(missing.reason)


def _how_to_ask(found: Sequence[Judgement]) -> list[str]:
    """The options with which they would be measured, as the sentences about them name these."""
    options = (re.search(r"--[\w-]+", one.claim.sentence) for one in found)
    return _counted(option[0] if option else one.claim.sentence for option, one in zip(options, found, strict=True))


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
