"""What a run found, in a few lines before its tables: a pure function of judgements."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from geometry_bench.records.facts import PromptInputs
from geometry_bench.records.judgement import ClaimVerdict, Judgement, Reason

CONTROL = "control."
"""What the ids of controls begin with: they are counted apart."""

WIDTH = 80
_INDENT = 28


def glance(judged: Sequence[Judgement]) -> list[str]:
    """What holds beyond its null, what fails, what cannot be told and why, and whether controls are as they should be.

    At most 12 lines of 80 columns; empty for no judgements.
    """
    controls = [one for one in judged if one.measurement.claim.startswith(CONTROL)]
    claims = [one for one in judged if not one.measurement.claim.startswith(CONTROL)]
    subjects = len({one.measurement.subject.id for one in judged})
    lines = [f"at a glance: {_number(len(judged), 'case')} on {_number(subjects, 'subject')}"] if judged else []
    by_verdict = {verdict: [one for one in claims if one.claim.verdict is verdict] for verdict in ClaimVerdict}
    holds = by_verdict[ClaimVerdict.HOLDS]
    beyond = [one for one in holds if one.claim.reason is Reason.BEYOND_NULL]
    plain = [one for one in holds if one.claim.reason is not Reason.BEYOND_NULL]
    unknown, absent = by_verdict[ClaimVerdict.INCONCLUSIVE], by_verdict[ClaimVerdict.NOT_APPLICABLE]
    lines += _row("holds beyond its null", beyond, _names)
    lines += _row("holds, no null asked", plain, _names, most=1)
    lines += _row("fails", by_verdict[ClaimVerdict.FAILS], _names)
    lines += _row("cannot be told", unknown, lambda found: _counted(map(_why_unknown, found)))
    lines += _row("", unknown, _names, counted=False, most=1)
    lines += _row("not applicable", absent, lambda found: _counted(map(_why_absent, found)), most=1)
    if controls:
        lines += _wrapped("controls", "", _told_of_controls(controls))
    return lines


def _row(
    label: str,
    found: Sequence[Judgement],
    told: Callable[[Sequence[Judgement]], list[str]],
    *,
    counted: bool = True,
    most: int = 2,
) -> list[str]:
    return _wrapped(label, str(len(found)) if counted else "", told(found), most) if found else []


def _wrapped(label: str, count: str, parts: Sequence[str], most: int = 2) -> list[str]:
    """The parts in at most so many lines; what does not fit is counted."""
    head = f"  {label:<{_INDENT - 6}}{count:>3} "
    wrapper = textwrap.TextWrapper(WIDTH, head, " " * _INDENT, break_long_words=False, break_on_hyphens=False)
    for kept in range(len(parts), 0, -1):
        rest = f" and {len(parts) - kept} more" if kept < len(parts) else ""
        lines = wrapper.wrap(", ".join(parts[:kept]) + rest)
        if len(lines) <= most:
            return lines
    return [head.rstrip()]


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


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
