"""The area under the ROC curve of scores, with an interval over topics.

``labels`` (prompts,) are True for the class expected to score higher (harmful, unsafe). Scores have prompts on their last
axis. AUROC below one half is separation with the sign reversed, and is never folded to above it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.clusters import (
    Clusters,
    leave_one_cluster_out,
    need_topics,
    topics_per_class,
    two_classes,
)
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.resampling import Interval, jackknife_interval


@dataclass(frozen=True)
class Separation:
    """An AUROC with its interval and the values with one topic (or prompt) left out, (topics,)."""

    auroc: float
    interval: Interval
    leave_one_out: Array


def checked_scores(scores: Array, labels: Array) -> tuple[Array, Array]:
    """Scores (..., prompts) and labels (prompts,) as arrays; GeometryBenchError unless they fit and are finite."""
    flags = two_classes(labels)
    values = np.asarray(scores, dtype=np.float64)
    if values.shape[-1] != len(flags):
        raise GeometryBenchError(
            f"there are {len(flags)} labels but {values.shape[-1]} scores: give one score a prompt"
        )
    if not np.isfinite(values).all():
        raise GeometryBenchError("scores hold NaN or infinity: check the activations that they come from")
    return values, flags


def auroc(scores: Array, labels: Array, weights: Array | None = None) -> Array:
    """P(harmful > safe) + ½ P(equal): scores (..., prompts), labels (prompts,), weights (..., prompts) -> (...).

    A prompt of weight w counts w times, one of weight 0 not at all. Raises GeometryBenchError where a class is empty (in
    any row of weights) or a score is not finite.
    """
    values, flags = checked_scores(scores, labels)
    if weights is None:
        ranks = stats.rankdata(values, axis=-1)
        harmful = int(flags.sum())
        summed = ranks[..., flags].sum(axis=-1) - harmful * (harmful + 1) / 2
        plain: Array = summed / (harmful * (len(flags) - harmful))
        return plain
    counts = np.asarray(weights, dtype=np.float64)
    shape = np.broadcast_shapes(values.shape, counts.shape)
    values, counts = np.broadcast_to(values, shape), np.broadcast_to(counts, shape)
    order = np.argsort(values, axis=-1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=-1)
    counts = np.take_along_axis(counts, order, axis=-1)
    isharmful = flags[order]
    safe = np.cumsum(np.where(isharmful, 0.0, counts), axis=-1)
    harmful_counts = np.where(isharmful, counts, 0.0)
    totals = safe[..., -1] * harmful_counts.sum(axis=-1)
    if not (totals > 0).all():
        raise GeometryBenchError("a resample holds prompts of one class only: add prompts or topics")
    # Of a run of equal scores, first and last position: safe prompts before the run count whole, those within it half.
    n = shape[-1]
    positions = np.arange(n)
    new = np.concatenate([np.ones((*shape[:-1], 1), dtype=bool), ordered[..., 1:] != ordered[..., :-1]], axis=-1)
    first = np.maximum.accumulate(np.where(new, positions, 0), axis=-1)
    ends = np.concatenate([new[..., 1:], np.ones((*shape[:-1], 1), dtype=bool)], axis=-1)
    last = np.flip(np.minimum.accumulate(np.flip(np.where(ends, positions, n - 1), axis=-1), axis=-1), axis=-1)
    padded = np.concatenate([np.zeros((*shape[:-1], 1)), safe], axis=-1)
    below = np.take_along_axis(padded, first, axis=-1)
    upto = np.take_along_axis(safe, last, axis=-1)
    area: Array = (harmful_counts * (below + upto) / 2).sum(axis=-1) / totals
    return area


def bounded(value: float, left_out: Array, fewest: int, level: float) -> Interval:
    """Jackknife interval of an AUROC on the logit scale, which is Fisher's scale of 2·AUROC − 1.

    Where the classes part completely no resample differs, yet the AUROC of the population need not be 1: ``fewest``
    disjoint pairs of topics were all in order, which has a chance of at most AUROCᶠᵉʷᵉˢᵗ, so the other end lies at
    ((1 − level)/2)^(1/fewest).
    """
    if value in (0.0, 1.0) and np.ptp(left_out) == 0:
        end = ((1 - level) / 2) ** (1 / fewest)
        return Interval(0.0, end, 1.0) if value else Interval(0.0, 0.0, 1 - end)
    plain = jackknife_interval(2 * value - 1, 2 * left_out - 1, level=level, correlation=True)
    low, high = (float(np.clip((end + 1) / 2, 0, 1)) for end in (plain.low, plain.high))
    return Interval(plain.error / 2, low, high)


def auroc_jackknife(scores: Array, labels: Array, clusters: Clusters = None, *, level: float = 0.95) -> Separation:
    """AUROC of given scores (prompts,) with a jackknife interval over topics (over prompts where there are none).

    Raises GeometryBenchError where a class has one topic only.
    """
    need_topics(labels, clusters, 2, "an interval over topics")
    values, flags = checked_scores(scores, labels)
    whole = float(auroc(values, flags))
    left_out = auroc(values, flags, leave_one_cluster_out(clusters, len(flags)))
    return Separation(whole, bounded(whole, left_out, min(topics_per_class(flags, clusters)), level), left_out)


def row_auroc(scores: Array, labels: Array) -> Array:
    """AUROC row by row, each row with labels of its own: (draws, prompts) both -> (draws,); NaN with one class only."""
    harmful = labels.sum(axis=1)
    pairs = (harmful * (labels.shape[1] - harmful)).astype(np.float64)
    above = (stats.rankdata(scores, axis=1) * labels).sum(axis=1) - harmful * (harmful + 1) / 2
    rows: Array = np.divide(above, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return rows
