"""Has a quantity moved, has it stayed, or can the data not tell: tests of equivalence with a margin."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf, isfinite

from scipy import stats

TINY = 1e-150
"""An error below this is none."""


@dataclass(frozen=True)
class Change:
    """An estimated change with its error, and the margin: changes from ``low`` to ``high`` do not matter.

    ``error`` is a standard error with ``df`` degrees of freedom, from ``n`` prompts. A margin with one end is that of a
    quantity which grows with any change, such as a squared distance.
    """

    value: float
    error: float
    df: int
    n: int
    high: float
    low: float = -inf

    @property
    def beyond(self) -> float:
        """How far the value lies beyond the nearer end of the margin; negative inside."""
        return max(self.value - self.high, self.low - self.value)

    @property
    def p_moved(self) -> float:
        """p of the hypothesis that the change lies within the margin.

        With two ends both tails count (Berger & Delampady 1987), so that its size holds however wide the error is.
        """
        if self.error < TINY:
            return float(self.beyond <= 0)
        far = (self.high - self.low) + self.beyond
        tails = (self.beyond, far) if isfinite(self.low) else (self.beyond,)
        return min(1.0, sum(float(stats.t.sf(distance / self.error, self.df)) for distance in tails))

    @property
    def p_same(self) -> float:
        """p of the hypothesis that the change lies beyond the margin: two one-sided tests (Schuirmann 1987)."""
        if self.error < TINY:
            return float(self.beyond > 0)
        return float(stats.t.sf(-self.beyond / self.error, self.df))

    def needed(self, level: float) -> int | None:
        """About how many prompts would decide, if the value and the spread between prompts stayed; None at the margin."""
        if self.beyond == 0:
            return None
        return max(self.n, ceil(self.n * (float(stats.t.isf(level, self.df)) * self.error / self.beyond) ** 2))
