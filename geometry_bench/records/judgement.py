"""The judgement of a measurement: three answers, each a verdict with its reason and numbers; sentences come last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from geometry_bench.geometry.equivalence import Change
from geometry_bench.records.estimates import Curve, Estimate
from geometry_bench.records.measurement import Measurement, was_asked


class ClaimVerdict(StrEnum):
    """Does the claim hold on this subject?"""

    HOLDS = "HOLDS"
    FAILS = "FAILS"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_APPLICABLE = "NOT_APPLICABLE"


class PublishedVerdict(StrEnum):
    """Does the value agree with the published one for this subject?"""

    REPRODUCED = "REPRODUCED"
    DIFFERS = "DIFFERS"
    NO_FIGURE = "NO_FIGURE"


class BaselineVerdict(StrEnum):
    """Has the value moved from the stored baseline by as much as matters, has it not, or can the run not tell?"""

    SAME = "SAME"
    UNDECIDED = "UNDECIDED"
    MOVED = "MOVED"
    NO_BASELINE = "NO_BASELINE"
    STALE = "STALE"
    INCOMPARABLE = "INCOMPARABLE"


NOT_COMPARED = (BaselineVerdict.NO_BASELINE, BaselineVerdict.STALE, BaselineVerdict.INCOMPARABLE)


class Reason(StrEnum):
    """Why an answer is what it is."""

    # Does the claim hold?
    ABSENT = "absent"
    UNDEFINED = "undefined"
    ALIGNMENT_UNKNOWN = "alignment unknown"
    STRADDLES = "interval straddles the criterion"
    NOT_MET = "criterion not met"
    INSIDE_NULL = "inside its null"
    BEHIND_NULL = "beyond the other end of its null"
    NULL_TOO = "its null lies there too"
    BEYOND_NULL = "beyond its null"
    MET = "criterion met"
    CHECKED = "statement checked"
    NO_SIGN = "no sign to keep"
    # Does it agree with the published value?
    NONE_PUBLISHED = "none published"
    NO_VALUE = "no value"
    PUBLISHED_AT_BOUND = "published value at the bound"
    COMPARED = "values compared"
    SIDES_COMPARED = "sides compared"
    # Has it moved?
    NONE_STORED = "none stored"
    UNLIKE = "other version, inputs or setting"
    UNDEFINED_IN_BOTH = "undefined in both"
    UNDEFINED_IN_ONE = "undefined in one"
    WITHIN_NOISE = "within numerical noise"
    WITHIN_MARGIN = "within the margin"
    TOO_FEW_PROMPTS = "too few prompts"
    UNTESTED = "no error to test by"
    BEYOND_MARGIN = "beyond the margin"


RULER = "ruler"
"""First word of the facts that say how far a baseline's own copies lie from it."""

Verdict = TypeVar("Verdict", ClaimVerdict, PublishedVerdict, BaselineVerdict)
Fact = float | int | str | None


@dataclass(frozen=True)
class Answer(Generic[Verdict]):
    """A verdict, why, and the numbers and words behind it."""

    verdict: Verdict
    reason: Reason
    facts: Mapping[str, Fact] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """One sentence with the numbers."""
        return _SENTENCES[self.reason](self.facts)

    def number(self, name: str) -> float | None:
        """One of the numbers; None where there is none of that name."""
        found = self.facts.get(name)
        return float(found) if isinstance(found, int | float) else None


@dataclass(frozen=True)
class Compared:
    """The change of a case from its baseline, with the numbers that explain it, and curves of it by name."""

    change: Change
    facts: Mapping[str, Fact] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """The three answers to one measurement. ``source`` is the source's own criterion on its own variant."""

    measurement: Measurement
    claim: Answer[ClaimVerdict]
    published: Answer[PublishedVerdict]
    baseline: Answer[BaselineVerdict]
    compared: Compared | None = None
    """The change behind the third answer, where one could be tested."""
    decides: bool = False
    """Whether the claim was made to compare models."""
    source: ClaimVerdict | None = None
    stored_claim: ClaimVerdict | None = None
    """The verdict on the stored value."""
    stored_note: str | None = None
    """The reason given when it was stored."""

    @property
    def flipped(self) -> bool:
        """Whether the claim held in the baseline and fails now, or the reverse."""
        both = {self.claim.verdict, self.stored_claim}
        return self.baseline.verdict not in NOT_COMPARED and both == {ClaimVerdict.HOLDS, ClaimVerdict.FAILS}

    @property
    def is_on_record(self) -> bool:
        """Whether the claim fails, and a baseline has it that it did not hold there either."""
        before = (ClaimVerdict.FAILS, ClaimVerdict.INCONCLUSIVE)
        return self.claim.verdict is ClaimVerdict.FAILS and self.stored_claim in before

    @property
    def was_asked(self) -> bool:
        """Whether the run was asked to measure the case, or only would be with another option."""
        return was_asked(self.measurement.missing)

    @property
    def where(self) -> str:
        """The case and its subject, for a sentence."""
        return f"{self.measurement.key} on {self.measurement.subject.id}"


# Sentences


def interval_facts(estimate: Estimate) -> dict[str, Fact]:
    """Value and interval."""
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def null_facts(estimate: Estimate) -> dict[str, Fact]:
    """Where the value lies in its null."""
    null = estimate.null
    if null is None:
        return {}
    names = ("name", "mean", "sd", "low", "high", "percentile", "cases", "any_percentile", "all_percentile")
    return {f"null_{name}": getattr(null, name) for name in names}


def _interval(f: Mapping[str, Fact]) -> str:
    if f.get("value") is None:
        return "undefined"
    if f.get("low") is None or f.get("high") is None:
        return f"{f['value']:+.3f}"
    return f"{f['value']:+.3f} [{f['low']:+.3f}, {f['high']:+.3f}]"


def _null(f: Mapping[str, Fact]) -> str:
    found = f"null {f['null_mean']:+.3f} ± {f['null_sd']:.3f} ({f['null_name']}), percentile {f['null_percentile']:.0f}"
    if f.get("null_cases") is None:
        return found
    return (
        f"{found} (of {f['null_cases']} cases, chance brings any above {f['null_any_percentile']:.1f} and all above "
        f"{f['null_all_percentile']:.0f} in 5 %)"
    )


def _side_of_null(f: Mapping[str, Fact]) -> str:
    value, low = f.get("value"), f.get("null_low")
    return "below" if isinstance(value, float) and isinstance(low, float) and value < low else "above"


def _alignment_unknown(f: Mapping[str, Fact]) -> str:
    said = "not declared" if not f.get("method") else repr(f["method"])
    return (
        f"value {_interval(f)}, but the sign to expect depends on the alignment method, which is {said}: declare it with "
        "--alignment MODEL=METHOD"
    )


def _pair(f: Mapping[str, Fact]) -> str:
    return f"{f['value']:+.3f} against the published {f['reported']:+.3f}"


def _change(f: Mapping[str, Fact]) -> str:
    if f.get("delta") is not None:
        return (
            f"the contrast lies δ = {f['delta']:.3f} [{f['delta_low']:.3f}, {f['delta_high']:.3f}] from the baseline's "
            f"(length {f['gain']:+.0%} along it, cosine {f['cosine']:+.3f}), margin {f['margin']:g}{_p(f)}{_scale(f)}"
        )
    if f.get("margin_nats") is not None:
        return (
            f"log-odds of the baseline's openings ({f['openings']}) {f['old_log_odds']:+.2f} -> {f['new_log_odds']:+.2f}, "
            f"{f['share']:+.0%} ± {f['error']:.0%} of its margin of {f['margin_nats']:.2f} nats; matters from "
            f"{f['margin']:.0%}{_p(f)}; first tokens {f['opened']}"
        )
    error = "?" if f.get("error") is None else f"{f['error']:.2g}"
    label = f"; was {f['old_label']}, is {f['label']}" if f.get("label") != f.get("old_label") else ""
    return f"{_moved(f)} ± {error}, smallest change of interest {f['margin']:g}{_p(f)}{label}"


def _scale(f: Mapping[str, Fact]) -> str:
    """Where the baseline's own copies lie."""
    copies = {name.removeprefix(f"{RULER} "): value for name, value in f.items() if name.startswith(f"{RULER} ")}
    shown = ", ".join(f"{copy} {value:.3f}" for copy, value in copies.items())
    return f"; its own copies lie at: {shown}" if shown else ""


def _p(f: Mapping[str, Fact]) -> str:
    if f.get("p_moved") is None:
        return ""
    return f", p = {f['p_moved']:.2g} (of {f['comparisons']} compared; family-wise {f['level']:g})"


def _needed(f: Mapping[str, Fact]) -> str:
    if f.get("needed") is None:
        return "it lies on the margin, so that no number of prompts would tell"
    return f"too few prompts to tell: {f['prompts']} were read, about {f['needed']} would if it stays as it is"


def _moved(f: Mapping[str, Fact]) -> str:
    return f"{f['old']:+.4f} -> {f['value']:+.4f}, difference {f['difference']:+.2g}"


_SENTENCES: Mapping[Reason, Callable[[Mapping[str, Fact]], str]] = {
    Reason.ABSENT: lambda f: str(f["sentence"]),
    Reason.UNDEFINED: lambda f: f"the value is undefined: {f['sentence']}",
    Reason.ALIGNMENT_UNKNOWN: _alignment_unknown,
    Reason.STRADDLES: lambda f: f"{_interval(f)} straddles the criterion {f['wanted']}",
    Reason.NOT_MET: lambda f: f"{_interval(f)} is not {f['wanted']}",
    Reason.INSIDE_NULL: lambda f: f"{_interval(f)} is {f['wanted']}, but lies inside its {_null(f)}",
    Reason.BEHIND_NULL: lambda f: f"{_interval(f)} is {f['wanted']}, but lies {_side_of_null(f)} its {_null(f)}",
    Reason.NULL_TOO: lambda f: f"{_interval(f)} is {f['wanted']}, but so is its {_null(f)}",
    Reason.BEYOND_NULL: lambda f: f"{_interval(f)} is {f['wanted']} and beyond its {_null(f)}",
    Reason.MET: lambda f: f"{_interval(f)} is {f['wanted']}",
    Reason.NO_SIGN: lambda f: f"the value itself, {_interval(f)}, cannot be told from 0, so it has no sign to keep",
    Reason.CHECKED: lambda f: str(f["sentence"]),
    Reason.NONE_PUBLISHED: lambda f: "the source has no value for this subject",
    Reason.NO_VALUE: lambda f: f"published {f['reported']:+.3f}, but there is no value to compare with it",
    Reason.PUBLISHED_AT_BOUND: lambda f: (
        f"{_pair(f)}: the published {f['compared']} is within the source's resolution {f['resolution']:g}"
    ),
    Reason.COMPARED: lambda f: f"{_pair(f)}, resolution {f['resolution']:g}",
    Reason.SIDES_COMPARED: lambda f: f"{_pair(f)}: {f['compared']} only, since the prompt pack is not the source's",
    Reason.NONE_STORED: lambda f: str(f["sentence"]),
    Reason.UNLIKE: lambda f: str(f["sentence"]),
    Reason.UNDEFINED_IN_BOTH: lambda f: "undefined here and in the baseline",
    Reason.UNDEFINED_IN_ONE: lambda f: "undefined here or in the baseline, but not in both",
    Reason.WITHIN_NOISE: lambda f: f"{_moved(f)}, within numerical noise {f['floor']:.1g}",
    Reason.WITHIN_MARGIN: lambda f: f"{_change(f)}: too small to matter",
    Reason.TOO_FEW_PROMPTS: lambda f: f"{_change(f)}: {_needed(f)}",
    Reason.UNTESTED: lambda f: f"{_change(f)}: {f['sentence']}",
    Reason.BEYOND_MARGIN: lambda f: f"{_change(f)}: more than that",
}
