"""From judgements to what a case shows and what a run returns: pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from geometry_bench.records.judgement import NOT_COMPARED, BaselineVerdict, ClaimVerdict, Judgement
from geometry_bench.report.summary import null_text, value_text

CLEAN, FAILED, NOT_ANSWERED = 0, 1, 2
"""Exit codes: nothing fails; a claim fails or a value has moved; bad input, or nothing could be compared."""


@dataclass(frozen=True)
class Outcome:
    """A pytest outcome, its sentence, and a line for the warnings of the summary where there is one."""

    kind: Literal["passed", "failed", "xfailed", "skipped"]
    message: str = ""
    warning: str | None = None


def outcome_of(judged: Judgement, updating: Collection[str] = (), *, require: bool = False) -> Outcome:
    """What a case shows. A failure that a baseline has on record is known, whether or not the values can be compared.

    With ``require`` a case that could not be compared fails.

    ``updating`` holds the baseline update modes of the run: what it stores as a new baseline, with a reason, it does not at
    the same time report as a failure.
    """
    claim, baseline, where = judged.claim, judged.baseline, judged.where
    if baseline.verdict is BaselineVerdict.REGRESSION and "changed" not in updating:
        return Outcome("failed", f"REGRESSION: {where} moved from its baseline: {baseline.sentence}")
    if judged.flipped and "changed" not in updating:
        return Outcome(
            "failed",
            f"verdict flipped: {where} was {judged.stored_claim} in the baseline and now {claim.verdict}: {claim.sentence}",
        )
    warning = _warning(judged)
    if require and warning is not None and baseline.verdict in NOT_COMPARED:
        return Outcome("failed", f"not compared: {warning}")
    if claim.verdict is ClaimVerdict.NOT_APPLICABLE:
        return Outcome("skipped", claim.sentence, warning)
    if claim.verdict is ClaimVerdict.INCONCLUSIVE:
        return Outcome("xfailed", f"INCONCLUSIVE: {claim.sentence}", warning)
    if claim.verdict is ClaimVerdict.FAILS:
        known = judged.stored_claim in (ClaimVerdict.FAILS, ClaimVerdict.INCONCLUSIVE)
        stored_now = "changed" in updating or (baseline.verdict is BaselineVerdict.NO_BASELINE and "new" in updating)
        if known or stored_now:
            note = f" (baseline {judged.stored_claim}: {judged.stored_note})" if known else ""
            return Outcome("xfailed", f"FAILS here: {claim.sentence}{note}", warning)
        return Outcome("failed", f"the claim does not hold: {where}: {claim.sentence}", warning)
    return Outcome("passed", claim.sentence, warning)


def exit_code(
    judged: Iterable[Judgement],
    updating: Collection[str] = (),
    *,
    faults: int = 0,
    comparing: bool = False,
    require: bool = False,
) -> int:
    """What a run returns.

    ``faults`` is the number of cases that ended in bad input. ``comparing`` says that a comparison was asked for: where
    nothing could be compared, that has no answer; with ``require``, where any case could not be.
    """
    judgements = list(judged)
    unanswered = require and any(
        one.baseline.verdict in NOT_COMPARED and _warning(one) is not None for one in judgements
    )
    if faults or unanswered or (comparing and judgements and comparison_code(judgements) == NOT_ANSWERED):
        return NOT_ANSWERED
    return FAILED if any(outcome_of(one, updating).kind == "failed" for one in judgements) else CLEAN


def comparison_code(judged: Iterable[Judgement]) -> int:
    """What a comparison alone returns: whether something moved or flipped, or nothing could be compared."""
    compared = [one for one in judged if one.baseline.verdict not in NOT_COMPARED]
    if not compared:
        return NOT_ANSWERED
    moved = any(one.flipped or one.baseline.verdict is BaselineVerdict.REGRESSION for one in compared)
    return FAILED if moved else CLEAN


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
    nothing_to_store = verdict is BaselineVerdict.NO_BASELINE and judged.claim.verdict is ClaimVerdict.NOT_APPLICABLE
    if verdict in (BaselineVerdict.MATCH, BaselineVerdict.REGRESSION) or nothing_to_store:
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
