"""When a claim holds: small classes that judge an estimate themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from geometry_bench.published.alignment import AlignmentGroup, alignment_group_of
from geometry_bench.records.estimates import Estimate
from geometry_bench.records.judgement import Answer, ClaimVerdict, Reason, interval_facts, null_facts

SLACK = 1e-9
"""0.7 = 7/10 in floating point lies on either side of itself."""


class Criterion(Protocol):
    """When a claim holds, judged on an estimate of a defined value."""

    @property
    def bounds(self) -> tuple[float, ...]:
        """The values at which the answer changes."""

    def judge(self, estimate: Estimate, method: str | None = None) -> Answer[ClaimVerdict]:
        """The answer for a subject aligned by ``method``, as declared in free text."""


@dataclass(frozen=True)
class Above:
    """A value above ``threshold``, and with ``beyond_null`` above the central 90 % of its null too."""

    threshold: float = 0.0
    beyond_null: bool = True
    sign: ClassVar[Literal[1, -1]] = 1

    @property
    def bounds(self) -> tuple[float, ...]:
        """The threshold."""
        return (self.threshold,)

    def __str__(self) -> str:
        return _worded(_side(self.sign, self.threshold), self.beyond_null)

    def judge(self, estimate: Estimate, method: str | None = None) -> Answer[ClaimVerdict]:
        """By value, interval and null."""
        return _one_sided(self.sign, self.threshold, self.beyond_null, estimate)


@dataclass(frozen=True)
class Below(Above):
    """A value below ``threshold``, and with ``beyond_null`` below the central 90 % of its null too."""

    sign: ClassVar[Literal[1, -1]] = -1


@dataclass(frozen=True)
class Within:
    """A value from ``least`` to ``most``, ends included; beyond its null is one whose null does not lie there too."""

    least: float
    most: float
    beyond_null: bool = True

    @property
    def bounds(self) -> tuple[float, ...]:
        """Both ends."""
        return (self.least, self.most)

    def __str__(self) -> str:
        return _worded(f"from {self.least:g} to {self.most:g}", self.beyond_null)

    def judge(self, estimate: Estimate, method: str | None = None) -> Answer[ClaimVerdict]:
        """By value, interval and null."""
        if estimate.value is None:
            return _undefined(estimate)
        low, high = (estimate.value if end is None else end for end in (estimate.low, estimate.high))
        null = estimate.null
        if high < self.least - SLACK or low > self.most + SLACK:
            verdict, reason = ClaimVerdict.FAILS, Reason.NOT_MET
        elif not self._holds(low, high):
            verdict, reason = ClaimVerdict.INCONCLUSIVE, Reason.STRADDLES
        elif self.beyond_null and null is not None and self._holds(null.low, null.high):
            verdict, reason = ClaimVerdict.INCONCLUSIVE, Reason.NULL_TOO
        else:
            verdict, reason = ClaimVerdict.HOLDS, Reason.MET
        wanted = f"from {self.least:g} to {self.most:g}"
        return Answer(verdict, reason, {**interval_facts(estimate), **null_facts(estimate), "wanted": wanted})

    def _holds(self, low: float, high: float) -> bool:
        return self.least - SLACK <= low and high <= self.most + SLACK


@dataclass(frozen=True)
class SignByAlignment:
    """Negative after training on preferences (DPO, RLHF), positive after supervision alone (source A)."""

    beyond_null: bool = True

    @property
    def bounds(self) -> tuple[float, ...]:
        """Zero."""
        return (0.0,)

    def __str__(self) -> str:
        return _worded("< 0 after DPO/RLHF, > 0 after supervision alone", self.beyond_null)

    def judge(self, estimate: Estimate, method: str | None = None) -> Answer[ClaimVerdict]:
        """By value, interval and null on the side that the method leads one to expect; not applicable without one."""
        if estimate.value is None:
            return _undefined(estimate)
        sign = None if method is None else _EXPECTED[alignment_group_of(method)]
        if sign is None:
            facts = {**interval_facts(estimate), "method": method}
            return Answer(ClaimVerdict.NOT_APPLICABLE, Reason.ALIGNMENT_UNKNOWN, facts)
        return _one_sided(sign, 0.0, self.beyond_null, estimate)


_EXPECTED: dict[AlignmentGroup, Literal[1, -1] | None] = {
    "preference": -1,
    "sft": 1,
    "distilled": 1,
    "undisclosed": None,
}


def _one_sided(sign: Literal[1, -1], threshold: float, beyond_null: bool, estimate: Estimate) -> Answer[ClaimVerdict]:
    if estimate.value is None:
        return _undefined(estimate)
    null, low, high = estimate.null, estimate.low, estimate.high
    near, far = (0.0, 0.0) if null is None else (null.low, null.high)[::sign]
    if low is not None and high is not None and low <= threshold <= high:
        verdict, reason = ClaimVerdict.INCONCLUSIVE, Reason.STRADDLES
    elif sign * (estimate.value - threshold) <= 0:
        verdict, reason = ClaimVerdict.FAILS, Reason.NOT_MET
    elif not beyond_null or null is None:
        verdict, reason = ClaimVerdict.HOLDS, Reason.MET
    elif sign * (estimate.value - near) < 0:
        verdict, reason = ClaimVerdict.INCONCLUSIVE, Reason.BEHIND_NULL
    elif sign * (estimate.value - far) <= 0:
        verdict, reason = ClaimVerdict.INCONCLUSIVE, Reason.INSIDE_NULL
    else:
        verdict, reason = ClaimVerdict.HOLDS, Reason.BEYOND_NULL
    wanted = _side(sign, threshold)
    return Answer(verdict, reason, {**interval_facts(estimate), **null_facts(estimate), "wanted": wanted})


def _side(sign: Literal[1, -1], threshold: float) -> str:
    return f"{'>' if sign == 1 else '<'} {threshold:g}"


def _undefined(estimate: Estimate) -> Answer[ClaimVerdict]:
    sentence = "; ".join(estimate.notes or ["a zero axis"])
    return Answer(ClaimVerdict.NOT_APPLICABLE, Reason.UNDEFINED, {"sentence": sentence})


def _worded(side: str, beyond_null: bool) -> str:
    return f"{side}, interval clear of it" + (", beyond the null" if beyond_null else "")
