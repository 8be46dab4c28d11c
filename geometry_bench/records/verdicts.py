"""The three questions asked of every value, answered apart: pure functions of estimates, figures and baselines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from geometry_bench.geometry.resampling import paired_difference
from geometry_bench.published.alignment import AlignmentGroup, alignment_group_of
from geometry_bench.records.schema import (
    BaselineCase,
    BaselineVerdict,
    ClaimVerdict,
    Estimate,
    PublishedVerdict,
)

FAMILY_WISE_ERROR = 0.01
"""Chance that an unmoved subject raises any ``REGRESSION`` in a whole run."""


@dataclass(frozen=True)
class Criterion:
    """When a claim holds.

    ``sign`` +1 asks for a value above ``threshold``, −1 for one below; ``"by_alignment"`` asks for a negative value of
    subjects trained on preferences (DPO, RLHF) and a positive one of subjects trained by supervision alone. With
    ``beyond_null`` the value must also lie outside the null's central 90 % on that side. ``at_most`` closes the range of a
    claim that asks for a value between two bounds, ends included; beyond its null is then a value whose null does not lie
    between them too.
    """

    sign: Literal[1, -1, "by_alignment"] = 1
    threshold: float = 0.0
    beyond_null: bool = True
    at_most: float | None = None

    def __str__(self) -> str:
        if self.at_most is not None:
            side = f"from {self.threshold:g} to {self.at_most:g}"
        elif self.sign == "by_alignment":
            side = "< 0 after DPO/RLHF, > 0 after supervision alone"
        else:
            side = f"{'>' if self.sign == 1 else '<'} {self.threshold:g}"
        return f"{side}, interval clear of it" + (", beyond the null" if self.beyond_null else "")


def required_sign(criterion: Criterion, method: str | None) -> Literal[1, -1] | None:
    """The sign asked of a subject aligned by ``method``; None where the method does not tell."""
    if criterion.sign != "by_alignment":
        return criterion.sign
    if method is None:
        return None
    return _EXPECTED[alignment_group_of(method)]


_EXPECTED: Mapping[AlignmentGroup, Literal[1, -1] | None] = {
    "preference": -1,
    "sft": 1,
    "distilled": 1,
    "undisclosed": None,
}


def judge_claim(criterion: Criterion, estimate: Estimate, method: str | None = None) -> tuple[ClaimVerdict, str]:
    """Does the claim hold, by value, interval and null? Returns the verdict and one sentence with the numbers."""
    if estimate.value is None:
        return ClaimVerdict.NOT_APPLICABLE, "the value is undefined: " + "; ".join(estimate.notes or ["a zero axis"])
    sign = required_sign(criterion, method)
    if sign is None:
        return (
            ClaimVerdict.NOT_APPLICABLE,
            f"value {_interval(estimate)}, but the sign to expect depends on the alignment method, which is "
            f"{'not declared' if not method else repr(method)}: declare it with --alignment MODEL=METHOD",
        )
    if criterion.at_most is not None:
        return _judge_range(criterion, criterion.at_most, estimate, estimate.value)
    wanted = f"{'>' if sign == 1 else '<'} {criterion.threshold:g}"
    inside = (
        estimate.low is not None and estimate.high is not None and estimate.low <= criterion.threshold <= estimate.high
    )
    if inside:
        return ClaimVerdict.INCONCLUSIVE, f"{_interval(estimate)} straddles the criterion {wanted}"
    if sign * (estimate.value - criterion.threshold) <= 0:
        return ClaimVerdict.FAILS, f"{_interval(estimate)} is not {wanted}"
    null = estimate.null
    if criterion.beyond_null and null is not None:
        bound = null.high if sign == 1 else null.low
        where = f"null {null.mean:+.3f} ± {null.sd:.3f} ({null.name}), percentile {null.percentile:.0f}"
        if sign * (estimate.value - bound) <= 0:
            return ClaimVerdict.INCONCLUSIVE, f"{_interval(estimate)} is {wanted}, but lies inside its {where}"
        return ClaimVerdict.HOLDS, f"{_interval(estimate)} is {wanted} and beyond its {where}"
    return ClaimVerdict.HOLDS, f"{_interval(estimate)} is {wanted}"


def _judge_range(criterion: Criterion, most: float, estimate: Estimate, value: float) -> tuple[ClaimVerdict, str]:
    least, slack = criterion.threshold, 1e-9  # 0.7 = 7/10 in floating point lies on either side of itself
    wanted = f"from {least:g} to {most:g}"

    def within(low: float, high: float) -> bool:
        return least - slack <= low and high <= most + slack

    low, high = (value if end is None else end for end in (estimate.low, estimate.high))
    if high < least - slack or low > most + slack:
        return ClaimVerdict.FAILS, f"{_interval(estimate)} is not {wanted}"
    if not within(low, high):
        return ClaimVerdict.INCONCLUSIVE, f"{_interval(estimate)} straddles the criterion {wanted}"
    null = estimate.null
    if criterion.beyond_null and null is not None and within(null.low, null.high):
        return ClaimVerdict.INCONCLUSIVE, (
            f"{_interval(estimate)} is {wanted}, but so is its null {null.low:+.3f} to {null.high:+.3f} ({null.name})"
        )
    return ClaimVerdict.HOLDS, f"{_interval(estimate)} is {wanted}"


def judge_published(
    estimate: Estimate | None,
    figure: float | None,
    *,
    resolution: float,
    same_wording: bool,
    threshold: float = 0.0,
    at_most: float | None = None,
) -> tuple[PublishedVerdict, str]:
    """Does the published variant meet the published figure, within the source's resolution?

    With prompts worded differently from the source's only the side of the claim's ``threshold`` is compared (for one of 0,
    the sign; with ``at_most``, whether it lies in that range), and the sentence says so.
    """
    if figure is None:
        return PublishedVerdict.NO_FIGURE, "the source has no figure for this subject"
    if estimate is None or estimate.value is None:
        return PublishedVerdict.NO_FIGURE, f"published {figure:+.3f}, but there is no value to hold against it"
    pair = f"{estimate.value:+.3f} against the published {figure:+.3f}"
    if same_wording:
        met = abs(estimate.value - figure) <= resolution
        return (
            PublishedVerdict.REPRODUCED if met else PublishedVerdict.DIFFERS,
            f"{pair}, resolution {resolution:g}",
        )
    compared = "sign" if threshold == 0 else f"side of {threshold:g}"
    if at_most is not None:
        compared = f"place in {threshold:g} to {at_most:g}"
    bounds = [threshold] if at_most is None else [threshold, at_most]
    if any(abs(figure - bound) <= resolution for bound in bounds):
        return (
            PublishedVerdict.NO_FIGURE,
            f"{pair}: the published {compared} is within the source's resolution {resolution:g}",
        )
    met = sum(estimate.value > bound for bound in bounds) == sum(figure > bound for bound in bounds)
    return (
        PublishedVerdict.REPRODUCED if met else PublishedVerdict.DIFFERS,
        f"{pair}: {compared} only, since the prompt pack is not the source's",
    )


@dataclass(frozen=True)
class BaselineAnswer:
    """Answer to the third question."""

    verdict: BaselineVerdict
    reason: str
    value: float | None = None
    p_value: float | None = None


COMPARABLE_SUBJECT = ("dtype", "attention", "quantisation")
COMPARABLE_INPUTS = ("template_hash", "system_policy", "pooling", "site")


def judge_baseline(
    estimate: Estimate | None,
    subject: Mapping[str, Any],
    inputs: Mapping[str, Any],
    claim_version: int,
    stored: BaselineCase | None,
    stored_subject: Mapping[str, Any],
    *,
    floor: float,
    smallest_change: float,
    comparisons: int,
    absent: str = "no baseline is stored for this subject",
) -> BaselineAnswer:
    """Has the value moved?

    ``floor`` is the numerical noise of the metric under this dtype; ``smallest_change`` the smallest difference that the
    claim cares about; ``comparisons`` the number of cases of the run, over which the family-wise error is shared. The
    bound on p is the first step of Holm's procedure: Holm rejects nothing unless its first step does, so whether a *run*
    has a regression is the same under both.
    """
    if stored is None:
        return BaselineAnswer(BaselineVerdict.NO_BASELINE, absent)
    if stored.claim_version != claim_version:
        return BaselineAnswer(
            BaselineVerdict.STALE,
            f"the claim is now version {claim_version}, the baseline of version {stored.claim_version}",
        )
    if stored.inputs.get("pack_hash") != inputs.get("pack_hash"):
        return BaselineAnswer(BaselineVerdict.STALE, "the prompt pack is not the one the baseline was measured with")
    for name, ours, theirs in [
        *((field, subject.get(field), stored_subject.get(field)) for field in COMPARABLE_SUBJECT),
        *((field, inputs.get(field), stored.inputs.get(field)) for field in COMPARABLE_INPUTS),
    ]:
        if ours != theirs:
            return BaselineAnswer(
                BaselineVerdict.INCOMPARABLE, f"{name} is {_short(ours)} here, {_short(theirs)} in the baseline"
            )
    old = stored.estimates.get("corrected") or stored.estimates.get("published")
    if estimate is None or estimate.value is None or old is None or old.value is None:
        same = (estimate is None or estimate.value is None) and (old is None or old.value is None)
        verdict = BaselineVerdict.MATCH if same else BaselineVerdict.REGRESSION
        return BaselineAnswer(
            verdict, "undefined here" + (" and in the baseline" if same else " or in the baseline, but not in both")
        )
    return _compare(estimate, old, floor=floor, smallest_change=smallest_change, comparisons=comparisons)


def _compare(new: Estimate, old: Estimate, *, floor: float, smallest_change: float, comparisons: int) -> BaselineAnswer:
    assert new.value is not None
    assert old.value is not None
    difference = new.value - old.value
    pair = f"{old.value:+.4f} -> {new.value:+.4f}, difference {difference:+.2g}"
    if abs(difference) <= floor and new.label == old.label:
        return BaselineAnswer(BaselineVerdict.MATCH, f"{pair}, within numerical noise {floor:.1g}", old.value, None)
    p, error = _paired_p(new, old)
    bound = FAMILY_WISE_ERROR / max(comparisons, 1)
    sentence = (
        f"{pair} ± {'?' if error is None else f'{error:.2g}'}"
        + ("" if p is None else f", p = {p:.2g} (bound {bound:.1g})")
        + f", smallest change of interest {smallest_change:g}"
    )
    if new.label != old.label:
        sentence += f"; was {old.label}, is {new.label}"
    if abs(difference) < smallest_change:
        return BaselineAnswer(BaselineVerdict.DRIFT, f"{sentence}: too small to matter", old.value, p)
    if p is None or p > bound:
        return BaselineAnswer(BaselineVerdict.DRIFT, f"{sentence}: within sampling noise", old.value, p)
    return BaselineAnswer(BaselineVerdict.REGRESSION, f"{sentence}: beyond both", old.value, p)


def _paired_p(new: Estimate, old: Estimate) -> tuple[float | None, float | None]:
    a, b = new.leave_one_out, old.leave_one_out
    assert new.value is not None
    assert old.value is not None
    if a and b and len(a) == len(b) and None not in a and None not in b:
        paired = paired_difference(new.value, np.array(a, dtype=np.float64), old.value, np.array(b, dtype=np.float64))
        return paired.p_value, paired.error
    return None, None


def _interval(estimate: Estimate) -> str:
    if estimate.value is None:
        return "undefined"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:+.3f}"
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:12] + "…"
