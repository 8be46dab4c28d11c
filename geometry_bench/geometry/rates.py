"""How a share changes when the same requests are asked twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from geometry_bench.geometry.resampling import Interval


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
    half = float(stats.norm.ppf(0.5 + level / 2)) * error
    low, high = centre - half, centre + half
    if topics is not None:
        error, low, high = max(error, topics.error), min(low, topics.low), max(high, topics.high)
    return Interval(error, max(-most, low), min(most, high))
