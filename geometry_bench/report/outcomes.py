"""From judgements to what a case shows and what a run returns: pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from geometry_bench.records.judgement import NOT_COMPARED, BaselineVerdict, ClaimVerdict, Judgement
from geometry_bench.report.summary import null_text, value_text

CLEAN, FAILED, NOT_ANSWERED = 0, 1, 2
"""Exit codes: nothing fails; a claim fails or something has moved; bad input, nothing could be compared, or the run cannot
tell."""

Undecided = Literal["fail", "pass"]


@dataclass(frozen=True)
class Outcome:
    """A pytest outcome, its sentence, and a line for the warnings of the summary where there is one."""

    kind: Literal["passed", "failed", "xfailed", "skipped"]
    message: str = ""
    warning: str | None = None


@dataclass(frozen=True)
class Asked:
    """What a run was asked that decides what its cases show.

    ``updating`` holds its baseline update modes: what it stores as a new baseline, with a reason, it does not at the same
    time report as a failure. ``comparing`` says that a comparison was asked for, ``require`` that every case must be
    compared, ``undecided`` what a comparison that cannot tell is worth.
    """

    updating: Collection[str] = ()
    comparing: bool = False
    require: bool = False
    undecided: Undecided = "fail"


PLAIN = Asked()


def outcome_of(judged: Judgement, asked: Asked = PLAIN) -> Outcome:
    """What a case shows.

    A failure that a baseline has on record is known, whether or not the values can be compared. Where a comparison was asked
    for, that is what the run answers: a claim that fails is shown, and fails nothing.
    """
    claim, baseline, where = judged.claim, judged.baseline, judged.where
    if baseline.verdict is BaselineVerdict.MOVED and "changed" not in asked.updating:
        return Outcome("failed", f"MOVED: {where} from its baseline: {baseline.sentence}{_flip(judged)}")
    warning = _warning(judged)
    if asked.require and warning is not None and baseline.verdict in NOT_COMPARED:
        return Outcome("failed", f"not compared: {warning}")
    if asked.comparing and asked.undecided == "fail" and _cannot_tell(judged):
        return Outcome("failed", f"cannot tell: {where}: {baseline.sentence}", warning)
    if claim.verdict is ClaimVerdict.NOT_APPLICABLE:
        return Outcome("skipped", claim.sentence, warning)
    if claim.verdict is ClaimVerdict.INCONCLUSIVE:
        return Outcome("xfailed", f"INCONCLUSIVE: {claim.sentence}", warning)
    if claim.verdict is ClaimVerdict.FAILS:
        compared = baseline.verdict not in NOT_COMPARED
        stored_now = "changed" in asked.updating or (
            baseline.verdict is BaselineVerdict.NO_BASELINE and "new" in asked.updating
        )
        if judged.is_on_record or compared or stored_now or asked.comparing:
            note = f" (baseline {judged.stored_claim}: {judged.stored_note})" if judged.stored_note else ""
            return Outcome("xfailed", f"FAILS here: {claim.sentence}{note}", warning)
        return Outcome("failed", f"the claim does not hold: {where}: {claim.sentence}", warning)
    return Outcome("passed", claim.sentence, warning)


def _cannot_tell(judged: Judgement) -> bool:
    """Whether a case that was made to compare models could not."""
    unanswered = (BaselineVerdict.UNDECIDED, *NOT_COMPARED)
    has_value = judged.claim.verdict is not ClaimVerdict.NOT_APPLICABLE
    return judged.decides and has_value and judged.baseline.verdict in unanswered


def _flip(judged: Judgement) -> str:
    return f"; the claim was {judged.stored_claim} there and is {judged.claim.verdict} now" if judged.flipped else ""


def exit_code(judged: Iterable[Judgement], asked: Asked = PLAIN, *, faults: int = 0) -> int:
    """What a run returns; ``faults`` is the number of cases that ended in bad input."""
    judgements = list(judged)
    unanswered = asked.require and any(
        one.baseline.verdict in NOT_COMPARED and _warning(one) is not None for one in judgements
    )
    if faults or unanswered:
        return NOT_ANSWERED
    compared = comparison_code(judgements, asked.undecided) if asked.comparing and judgements else CLEAN
    if compared != CLEAN:
        return compared
    return FAILED if any(outcome_of(one, asked).kind == "failed" for one in judgements) else CLEAN


def comparison_code(judged: Iterable[Judgement], undecided: Undecided = "fail") -> int:
    """What a comparison alone returns.

    1 where anything moved; 2 where nothing could be compared, or where the claims made to compare models cannot tell. In a
    run without any of these, all claims count.
    """
    judgements = list(judged)
    if any(one.baseline.verdict is BaselineVerdict.MOVED for one in judgements):
        return FAILED
    compared = [one for one in judgements if one.baseline.verdict not in NOT_COMPARED]
    if not compared:
        return NOT_ANSWERED
    if undecided == "pass":
        return CLEAN
    deciding = [one for one in judgements if one.decides]
    cannot = any(map(_cannot_tell, deciding)) or (
        not deciding and any(one.baseline.verdict is BaselineVerdict.UNDECIDED for one in compared)
    )
    return NOT_ANSWERED if cannot else CLEAN


def warnings_of(judged: Iterable[Judgement], most: int = 12) -> list[str]:
    """The warnings of a run; where they are many, one for each kind and subject, which says how many cases it is about."""
    warned = [(one, warning) for one in judged if (warning := _warning(one)) is not None]
    if len(warned) <= most:
        return [warning for _, warning in warned]
    alike: dict[tuple[str, str], list[str]] = {}
    for one, warning in warned:
        alike.setdefault((one.baseline.verdict, one.measurement.subject.id), []).append(warning)
    return [first + (f" (and {len(others)} more of its cases)" if others else "") for first, *others in alike.values()]


def _warning(judged: Judgement) -> str | None:
    verdict = judged.baseline.verdict
    derived = judged.measurement.subject.kind in ("pair", "trajectory")  # computed from measurements that are compared
    nothing_to_store = verdict is BaselineVerdict.NO_BASELINE and (
        derived or judged.claim.verdict is ClaimVerdict.NOT_APPLICABLE
    )
    if verdict in (BaselineVerdict.SAME, BaselineVerdict.MOVED) or nothing_to_store:
        return None
    return f"{verdict}: {judged.where}: {judged.baseline.sentence}"


def properties(judged: Judgement) -> dict[str, str]:
    """What JUnit files hold of a case."""
    subject, estimate = judged.measurement.subject, judged.measurement.estimate
    return {
        "claim": judged.measurement.key,
        "subject": subject.id,
        "revision": subject.revision,
        "value": value_text(estimate),
        "null": null_text(estimate),
        "verdict": str(judged.claim.verdict),
        "verdict_published": str(judged.published.verdict),
        "verdict_baseline": str(judged.baseline.verdict),
    }
