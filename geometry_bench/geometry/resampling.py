"""Sampling noise: jackknife over prompts, permutation tests, family-wise error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from geometry_bench.geometry.directions import Array


@dataclass(frozen=True)
class Interval:
    """A standard error and a two-sided confidence interval, in the units of the estimate."""

    error: float
    low: float
    high: float


def jackknife_error(leave_one_out: Array, strata: Array | None = None) -> float:
    """Jackknife standard error from the n leave-one-out values (n,): sqrt((n−1)/n Σ(θᵢ − θ̄)²) (Efron & Stein 1981).

    ``strata`` (n,) names the independent sample that each unit belongs to: variances of several samples are added up, each
    about its own mean. A statistic answers to a smaller sample of one kind in another way than to one of another kind, and
    that difference is no noise. It is conservative where units act together: Efron & Stein's inequality.
    """
    values = np.asarray(leave_one_out, dtype=np.float64)
    if len(values) < 2:
        raise ValueError("a jackknife needs at least two leave-one-out values")
    parts = [values] if strata is None else [values[strata == stratum] for stratum in np.unique(strata)]
    return float(np.sqrt(sum((len(part) - 1) / len(part) * ((part - part.mean()) ** 2).sum() for part in parts)))


def means_without_each(values: Array, groups: Sequence[str]) -> tuple[list[str], Array]:
    """Names of the groups (groups,) in order of first appearance, and the mean of the values (n,) without each of them."""
    names, of = list(dict.fromkeys(groups)), np.array(groups)
    return names, np.array([values[of != name].mean() for name in names])


def jackknife_interval(
    value: float,
    leave_one_out: Array,
    *,
    level: float = 0.95,
    correlation: bool = False,
    strata: Array | None = None,
) -> Interval:
    """Interval from leave-one-out values (n,) of one sample, or of the ``strata`` (n,): value ± t(n − strata) · SE.

    For a cosine or correlation the interval is formed on Fisher's z scale, so that it stays within [−1, 1]; the error is
    always on the scale of the value. Where z is infinite, for the value or without one of the sample, the interval is formed
    on the plain scale and ends at ±1, or at a value that lies beyond (possible in bfloat16).
    """
    values = np.asarray(leave_one_out, dtype=np.float64)
    error = jackknife_error(values, strata)
    t = float(stats.t.ppf(0.5 + level / 2, df=len(values) - (1 if strata is None else len(np.unique(strata)))))
    if correlation and abs(value) < 1 and bool((np.abs(values) < 1).all()):
        half = t * jackknife_error(np.arctanh(values), strata)
        centre = float(np.arctanh(value))
        return Interval(error, float(np.tanh(centre - half)), float(np.tanh(centre + half)))
    low, high = value - t * error, value + t * error
    if correlation:
        low, high = max(low, min(-1.0, value)), min(high, max(1.0, value))
    return Interval(error, low, high)


def percentile_interval(draws: Array, *, level: float = 0.95) -> Interval:
    """Standard deviation and percentile interval of bootstrap draws (draws,)."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.std(draws, ddof=1)), float(low), float(high))


def prediction_interval(draws: Array, *, level: float = 0.95) -> tuple[float, float]:
    """Where one more of a few normal draws (draws,) lies: both ends one-sided, each with the chance ``level``.

    mean ± t(n − 1) · sd · √(1 + 1/n). Needs two draws.
    """
    values = np.asarray(draws, dtype=np.float64)
    count = len(values)
    half = float(stats.t.ppf(level, df=count - 1)) * float(values.std(ddof=1)) * float(np.sqrt(1 + 1 / count))
    return float(values.mean()) - half, float(values.mean()) + half


def family_percentiles(joint: Array, *, level: float = 0.05) -> tuple[float, float]:
    """What percentile of its own null any one of several cases must exceed, and what all of them, at a joint level.

    ``joint`` (draws, cases) are null values of all cases from the same draws. Any: the 1 − level quantile of the largest
    percentile in a draw; all: that of the smallest (Westfall & Young 1993, single step, on the scale of percentiles).
    """
    values = np.asarray(joint, dtype=np.float64)
    percentiles = 100 * (stats.rankdata(values, axis=0, method="min") - 1) / len(values)
    ends = (np.quantile(of(axis=1), 1 - level, method="weibull") for of in (percentiles.max, percentiles.min))
    any_of, all_of = (float(end) for end in ends)
    return any_of, all_of


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: reject where adjusted p ≤ α and the family-wise error is ≤ α."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return [float(x) for x in adjusted]


def random_subsets(total: int, size: int, draws: int, seed: int) -> NDArray[np.int64]:
    """``draws`` ordered subsets of ``size`` out of ``total`` without repetition: (draws, size), seeded."""
    if size > total:
        raise ValueError(f"subsets of {size} cannot be drawn from {total}")
    generator = np.random.default_rng(seed)
    return np.argsort(generator.random((draws, total)), axis=1)[:, :size]


def permutation_p(
    statistic: Callable[[Array], float], labels: Array, draws: int = 10_000, seed: int = 0
) -> tuple[float, Array]:
    """One-sided p = (1 + #{T* ≥ T}) / (1 + draws) of ``statistic(labels)`` under permuted labels, and the draws T*.

    All permutations are enumerated where there are no more than ``draws`` of them; then p is exact.
    """
    found = stats.permutation_test(
        (np.asarray(labels),),
        statistic,
        permutation_type="pairings",
        alternative="greater",
        vectorized=False,
        n_resamples=draws,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue), found.null_distribution
