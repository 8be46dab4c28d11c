"""A share of requests, and how it changes when the same requests are asked twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from geometry_bench.geometry.resampling import Interval


def share_interval(
    hits: NDArray[np.bool_] | Sequence[bool], *, topics: Interval | None = None, level: float = 0.95
) -> Interval:
    """Wilson's interval of a share, which all and none have too; as wide as that over ``topics``, within 0 and 1."""
    flags = np.asarray(hits, dtype=bool)
    found = stats.binomtest(int(flags.sum()), len(flags)).proportion_ci(level, method="wilson")
    low, high = float(found.low), float(found.high)
    widest = _widest(Interval((high - low) / (2 * _z(level)), low, high), topics)
    return Interval(widest.error, max(0.0, widest.low), min(1.0, widest.high))


def no_narrower(value: float, interval: Interval, least: float, *, level: float = 0.95) -> Interval:
    """The interval with an error of ``least`` at least, reaching so far to either side of the value."""
    half = _z(level) * least
    return _widest(interval, Interval(least, value - half, value + half))


def least_error(*requests: int) -> float:
    """Error of a change of which none was seen, in a sum of shares of so many requests each: half a request in each cell."""
    return change_interval(*([0] * count for count in requests)).error


def change_interval(
    *changes: NDArray[np.bool_ | np.int64] | Sequence[int], topics: Interval | None = None, level: float = 0.95
) -> Interval:
    """Interval of the sum of the mean changes of several sets of requests; each change (n,) is −1, 0 or 1.

    Half a request is added to each of the four cells before → after (Agresti & Min 2005, adjusted Wald), so that a change of
    all requests, or of none, has an error too. It reaches as far as the interval over ``topics`` to either side, but not
    beyond as many times ±1 as there are sets.
    """
    centre = variance = 0.0
    for change in changes:
        values = np.asarray(change, dtype=np.float64)
        if not len(values) or not np.isin(values, (-1, 0, 1)).all():
            raise ValueError("changes are −1, 0 or 1, and of one request at least")
        n, net = len(values) + 2, values.sum()
        centre += net / n
        variance += (np.abs(values).sum() + 1 - net**2 / n) / n**2
    error, most = float(np.sqrt(variance)), float(len(changes))
    half = _z(level) * error
    widest = _widest(Interval(error, centre - half, centre + half), topics)
    return Interval(widest.error, max(-most, widest.low), min(most, widest.high))


def _z(level: float) -> float:
    return float(stats.norm.ppf(0.5 + level / 2))


def _widest(one: Interval, other: Interval | None) -> Interval:
    """The larger error, and the outer ends."""
    if other is None:
        return one
    return Interval(max(one.error, other.error), min(one.low, other.low), max(one.high, other.high))
