"""Sizes and spreads of two classes of activations, layer by layer (source C).

States are (prompts, layers, width); ``labels`` (prompts,) are True for harmful prompts. One function measures everything
for rows of prompt weights: all ones give the value, other rows its bootstrap, jackknife or permutation distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.clusters import (
    Clusters,
    bootstrap_counts,
    leave_one_cluster_out,
    need_topics,
    permuted_labels,
    two_classes,
)
from geometry_bench.geometry.directions import Array, cosine
from geometry_bench.geometry.moments import about_mean
from geometry_bench.geometry.resampling import Interval, jackknife_interval, percentile_interval


@dataclass(frozen=True)
class Profiles:
    """Per layer, in the units of the activations: arrays (layers,), or (draws, layers) for several rows of weights.

    ``distance`` is ‖mean safe − mean harmful‖₂. ``cosine`` is that of the two means, ``centred_cosine`` that of the two
    means less a neutral mean (None where no neutral mean was given). ``safe_variance`` and ``harmful_variance`` are
    variances per dimension (n − 1 below), averaged over dimensions. ``safe_norm`` and ``harmful_norm`` are means of ‖h‖ over
    prompts.
    """

    distance: Array
    cosine: Array
    centred_cosine: Array | None
    safe_variance: Array
    harmful_variance: Array
    safe_norm: Array
    harmful_norm: Array

    @property
    def relative_distance(self) -> Array:
        """Distance of the means over the mean norm of both classes."""
        return cast(Array, self.distance / ((self.safe_norm + self.harmful_norm) / 2))

    @property
    def variance_ratio(self) -> Array:
        """Variance of safe over variance of harmful prompts; GeometryBenchError where a class has none."""
        if not ((self.harmful_variance > 0).all() and (self.safe_variance > 0).all()):
            raise GeometryBenchError(
                "all prompts of a class have the same activations, so no ratio of variances is defined"
            )
        return cast(Array, self.safe_variance / self.harmful_variance)

    @property
    def norm_gap(self) -> Array:
        """Mean norm of safe less that of harmful prompts."""
        return self.safe_norm - self.harmful_norm


def _class_statistics(layer: Array, norms: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Means (draws, width), mean per-dimension variance (draws,) and mean norm (draws,) of one layer (prompts, width)."""
    totals = weights.sum(axis=1)
    if not (totals > 1).all():
        raise GeometryBenchError("a resample has fewer than two prompts of a class: add prompts or topics")
    means = weights @ layer / totals[:, None]
    squares = weights @ (layer**2).sum(axis=1) / totals
    spread = squares - (means**2).sum(axis=1)
    # A class without spread is left with rounding, which is not a variance.
    spread = np.where(spread > 1e-13 * squares, spread, 0.0)
    variance = spread * totals / (totals - 1) / layer.shape[1]
    return means, variance, weights @ norms / totals


def resampled_profiles(
    states: Array, safe_weights: Array, harmful_weights: Array, neutral: Array | None = None
) -> Profiles:
    """Profiles (draws, layers) for rows of weights (draws, prompts) of the two classes on the same states.

    A prompt of weight w counts w times. ``neutral`` is a mean (layers, width).
    """
    if np.ndim(states) != 3:
        raise GeometryBenchError(f"states must be (prompts, layers, width), but have shape {np.shape(states)}")
    columns: dict[str, list[Array]] = {name: [] for name in Profiles.__dataclass_fields__}
    for index in range(np.shape(states)[1]):
        layer = np.asarray(states[:, index], dtype=np.float64)
        if not np.isfinite(layer).all():
            raise GeometryBenchError(f"activations of layer {index} hold NaN or infinity: check the weights and dtype")
        # Taken off first, the common mean cannot eat the digits of the variance.
        norms = np.linalg.norm(layer, axis=1)
        layer, centre = about_mean(layer)
        safe, safe_variance, safe_norm = _class_statistics(layer, norms, safe_weights)
        harmful, harmful_variance, harmful_norm = _class_statistics(layer, norms, harmful_weights)
        columns["distance"].append(np.linalg.norm(safe - harmful, axis=1))
        columns["cosine"].append(cosine(safe + centre, harmful + centre))
        if neutral is not None:
            offset = centre - np.asarray(neutral, dtype=np.float64)[index]
            columns["centred_cosine"].append(cosine(safe + offset, harmful + offset))
        columns["safe_variance"].append(safe_variance)
        columns["harmful_variance"].append(harmful_variance)
        columns["safe_norm"].append(safe_norm)
        columns["harmful_norm"].append(harmful_norm)
    stacked = {name: np.stack(values, axis=1) if values else None for name, values in columns.items()}
    return Profiles(**stacked)  # type: ignore[arg-type]


def bootstrap_profiles(
    states: Array,
    labels: Array,
    clusters: Clusters = None,
    *,
    draws: int = 1000,
    seed: int = 0,
    neutral: Array | None = None,
) -> Profiles:
    """Profiles (draws, layers) with topics drawn with replacement."""
    flags = two_classes(labels)
    counts = bootstrap_counts(flags, clusters, draws=draws, seed=seed)
    return resampled_profiles(states, counts * ~flags, counts * flags, neutral)


def jackknife_profiles(
    states: Array, labels: Array, clusters: Clusters = None, *, neutral: Array | None = None
) -> Profiles:
    """Profiles (topics, layers) with one topic left out; GeometryBenchError where a class has one topic only."""
    flags = two_classes(labels)
    need_topics(flags, clusters, 2, "an interval over topics")
    keep = leave_one_cluster_out(clusters, len(flags))
    return resampled_profiles(states, keep * ~flags, keep * flags, neutral)


def ratio_interval(value: float, leave_one_out: Array, *, level: float = 0.95) -> Interval:
    """Jackknife interval of a positive ratio, formed on its logarithm; the error is on the scale of the ratio."""
    if value <= 0 or not (np.asarray(leave_one_out) > 0).all():
        raise GeometryBenchError("an interval of a ratio needs positive values: check that both classes vary")
    logs = jackknife_interval(float(np.log(value)), np.log(leave_one_out), level=level)
    return Interval(value * logs.error, float(np.exp(logs.low)), float(np.exp(logs.high)))


@dataclass(frozen=True)
class PermutationTest:
    """A ratio of variances against permuted labels: one-sided p (ratio as large by chance), two-sided p, null draws."""

    p_greater: float
    p_two_sided: float
    null: Array


def variance_permutation(
    states: Array, labels: Array, clusters: Clusters = None, *, draws: int = 1000, seed: int = 0
) -> PermutationTest:
    """Is safe/harmful variance above what shuffled labels give? States of one layer, (prompts, width).

    Each class is first centred on its own mean: otherwise the distance of the means would count as spread in every shuffle
    and hide a difference in spread. p = (1 + #{as extreme}) / (1 + draws).
    """
    flags = two_classes(labels)
    if np.ndim(states) != 2:
        raise GeometryBenchError(f"states of one layer must be (prompts, width), but have shape {np.shape(states)}")
    residuals = np.array(states, dtype=np.float64)
    for value in (False, True):
        residuals[flags == value], _ = about_mean(residuals[flags == value])
    drawn = np.concatenate([flags[None], permuted_labels(flags, clusters, draws=draws, seed=seed)])
    ratios = resampled_profiles(
        residuals[:, None], (~drawn).astype(np.float64), drawn.astype(np.float64)
    ).variance_ratio[:, 0]
    ratio, null = float(ratios[0]), ratios[1:]
    greater = (1 + int((null >= ratio * (1 - 1e-12)).sum())) / (1 + draws)
    extreme = (1 + int((np.abs(np.log(null)) >= abs(np.log(ratio)) - 1e-12).sum())) / (1 + draws)
    return PermutationTest(greater, extreme, null)


@dataclass(frozen=True)
class Peak:
    """Where a profile peaks: layer (0-based), depth = layer / layers, share of draws a layer, interval of the depth."""

    layer: int
    depth: float
    shares: Array
    interval: Interval


def peak(profile: Array, draws: Array, *, level: float = 0.95) -> Peak:
    """Argmax of a profile (layers,) with the distribution of the argmax over bootstrap draws (draws, layers) (source C)."""
    values, drawn = np.asarray(profile, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    if not (np.isfinite(values).all() and np.isfinite(drawn).all()):
        raise GeometryBenchError("a profile with undefined values has no peak: check the activations")
    layers = len(values)
    at = drawn.argmax(axis=1)
    shares = np.bincount(at, minlength=layers) / len(at)
    where = int(values.argmax())
    return Peak(where, where / layers, shares, percentile_interval(at / layers, level=level))


def peak_permutation_p(profile: Array, permuted: Array) -> float:
    """Is the largest value of a profile (layers,) larger than that of profiles under permuted labels (draws, layers)?

    Each draw has a peak of its own: held against the draws at the layer of the data's own peak, a profile without any
    signal looks significant whenever it is noisy enough to peak. p = (1 + #{as large}) / (1 + draws) (Westfall & Young
    1993, single-step maximum).
    """
    largest = float(np.max(profile))
    as_large = int((np.max(permuted, axis=1) >= largest - 1e-12 * abs(largest)).sum())
    return (1 + as_large) / (1 + len(permuted))
