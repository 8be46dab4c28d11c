"""Numbers, marks and words as the pages show them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from geometry_bench.records.estimates import Estimate, Null
from geometry_bench.records.judgement import BaselineVerdict, ClaimVerdict, PublishedVerdict

Verdict = ClaimVerdict | PublishedVerdict | BaselineVerdict


@dataclass(frozen=True)
class Mark:
    """A verdict as a letter in a shape: the letter and the shape tell it apart without its colour."""

    letter: str
    kind: str
    """Class of its style: the shape by the question, the colour by the answer."""
    meaning: str


MARKS: Mapping[Verdict, Mark] = {
    ClaimVerdict.HOLDS: Mark("H", "claim good", "holds"),
    ClaimVerdict.FAILS: Mark("F", "claim bad", "fails"),
    ClaimVerdict.INCONCLUSIVE: Mark("?", "claim open", "inconclusive"),
    ClaimVerdict.NOT_APPLICABLE: Mark("–", "claim none", "not applicable"),
    PublishedVerdict.REPRODUCED: Mark("P=", "published good", "agrees with the published value"),
    PublishedVerdict.DIFFERS: Mark("P≠", "published bad", "differs from the published value"),
    BaselineVerdict.SAME: Mark("B=", "baseline good", "the same as the baseline"),
    BaselineVerdict.MOVED: Mark("B≠", "baseline bad", "moved from the baseline"),
    BaselineVerdict.UNDECIDED: Mark("B?", "baseline open", "too few prompts to tell whether it moved"),
}
"""Verdicts that say something; the others have no mark."""


def tally(verdicts: Iterable[ClaimVerdict]) -> list[tuple[Mark, int]]:
    """How many cases hold, fail, are inconclusive or not applicable, those that there are."""
    counts = Counter(verdicts)
    return [(MARKS[verdict], counts[verdict]) for verdict in ClaimVerdict if verdict in counts]


def marks(*verdicts: Verdict | None) -> list[Mark]:
    """The marks of those verdicts that have one."""
    return [MARKS[one] for one in verdicts if one is not None and one in MARKS]


def number(value: float | None, decimals: int = 3) -> str:
    """A signed number with a true minus, a dash for none."""
    if value is None:
        return "–"
    return f"{value:+.{decimals}f}".replace("-", "−") if abs(value) < 1e6 else f"{value:+.3g}".replace("-", "−")


def plain(value: float | None) -> str:
    """A number with the digits that tell something, without a sign for positive ones."""
    return "–" if value is None else f"{value:.6g}".replace("-", "−")


def interval(low: float | None, high: float | None) -> str:
    """Both ends; empty where there is none."""
    return "" if low is None or high is None else f"{number(low)} … {number(high)}"


def null_text(null: Null | None) -> str:
    """The central 90 % of a null, and where the value lies in it."""
    return "" if null is None else f"{number(null.low, 2)} … {number(null.high, 2)}, p{null.percentile:.0f}"


def value_text(estimate: Estimate | None) -> str:
    """The value with its standard error; a dash where there is none."""
    if estimate is None or estimate.value is None:
        return "–"
    error = "" if estimate.error is None else f" ± {estimate.error:.3f}"
    return f"{number(estimate.value)}{error}"


def short(digest: str | None, digits: int = 12) -> str:
    """A digest or revision as it is read: its kind, where it has one, and the first digits."""
    kind, colon, rest = (digest or "").rpartition(":")
    return f"{kind}{colon}{rest[:digits]}"
