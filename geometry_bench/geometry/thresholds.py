"""Thresholds on scores: the best one, each member's own against one for all.

``labels`` (prompts,) are True for the class expected to score higher (harmful, unsafe). Scores have prompts on their last
axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.auroc import checked_scores
from geometry_bench.geometry.clusters import (
    Clusters,
    two_classes,
)
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.held_out import over_halves
from geometry_bench.geometry.resampling import Interval, jackknife_interval
from geometry_bench.geometry.scorers import Scorer


@dataclass(frozen=True)
class Threshold:
    """A score above which a prompt is called harmful, and the balanced accuracy that it reaches."""

    value: float
    balanced_accuracy: float


@dataclass(frozen=True)
class ThresholdGap:
    """Balanced accuracy, averaged over members, with each member's own threshold less that with one for all.

    Both are fitted on one half of the topics and judged on the other, so that the gap can be negative; ``in_sample`` is
    the gap on the prompts of the fit, which cannot.
    """

    gap: float
    interval: Interval
    leave_one_out: Array
    own: float
    pooled: float
    in_sample: float


def balanced_accuracy(scores: Array, labels: Array, thresholds: Array, weights: Array | None = None) -> Array:
    """Mean of the two classes' shares called right when score > threshold means harmful: thresholds (k,) -> (k,)."""
    values, flags = checked_scores(scores, labels)
    counts = np.ones(len(flags)) if weights is None else np.asarray(weights, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    at = np.searchsorted(values[order], np.asarray(thresholds, dtype=np.float64), side="right")
    shares = []
    for chosen in (flags, ~flags):
        cumulated = np.concatenate([[0.0], np.cumsum(np.where(chosen, counts, 0.0)[order])])
        if cumulated[-1] <= 0:
            raise GeometryBenchError("a threshold is asked for prompts of one class only: add prompts or topics")
        shares.append(cumulated[at] / cumulated[-1])
    right: Array = (1 - shares[0] + shares[1]) / 2
    return right


def _candidates(scores: Array, weights: Array | None) -> Array:
    """One threshold between any two neighbouring scores, and one below and one above all."""
    used = scores if weights is None else scores[np.broadcast_to(weights > 0, scores.shape)]
    values = np.unique(used)
    return np.concatenate([[-np.inf], (values[1:] + values[:-1]) / 2, [np.inf]])


def best_threshold(scores: Array, labels: Array, weights: Array | None = None) -> Threshold:
    """The threshold of highest balanced accuracy for scores (prompts,); the lowest of equals."""
    return pooled_threshold(np.asarray(scores)[None], labels, weights)


def pooled_threshold(scores: Array, labels: Array, weights: Array | None = None) -> Threshold:
    """The one threshold for all members of highest mean balanced accuracy: scores (members, prompts)."""
    values, flags = checked_scores(np.atleast_2d(scores), labels)
    candidates = _candidates(values, weights)
    means = np.mean([balanced_accuracy(member, flags, candidates, weights) for member in values], axis=0)
    best = int(means.argmax())
    return Threshold(float(candidates[best]), float(means[best]))


def _own_and_pooled(values: Array, flags: Array, fit: Array, test: Array) -> tuple[float, float]:
    own = np.mean(
        [
            balanced_accuracy(member, flags, np.array([best_threshold(member, flags, fit).value]), test)[0]
            for member in values
        ]
    )
    one = np.array([pooled_threshold(values, flags, fit).value])
    pooled = np.mean([balanced_accuracy(member, flags, one, test)[0] for member in values])
    return float(own), float(pooled)


def threshold_gap(
    scorer: Scorer, labels: Array, clusters: Clusters = None, *, splits: int = 10, seed: int = 0, level: float = 0.95
) -> ThresholdGap:
    """Own thresholds against one for all, held out (source B).

    ``scorer`` takes weights (draws, prompts) of the prompts that a direction is fitted on and gives the scores of all
    prompts in all members, (draws, members, prompts): direction and thresholds are fitted on the same half. Raises
    GeometryBenchError for one member alone, or fewer than four topics of a class.
    """
    flags = two_classes(labels)
    means = over_halves(_gap_statistic(scorer, flags), flags, clusters, splits, seed, True).mean(axis=(0, 1))
    gaps = means[:, 0] - means[:, 1]
    every = np.ones((1, len(flags)))
    own, pooled = _gap_statistic(scorer, flags)(every, every)[0]
    interval = jackknife_interval(float(gaps[0]), gaps[1:], level=level)
    return ThresholdGap(float(gaps[0]), interval, gaps[1:], float(means[0, 0]), float(means[0, 1]), own - pooled)


def held_out_gap(scorer: Scorer, labels: Array, clusters: Clusters = None, *, splits: int = 10, seed: int = 0) -> float:
    """The gap of ``threshold_gap`` alone, without interval: for nulls. Needs two topics of each class."""
    flags = two_classes(labels)
    means = over_halves(_gap_statistic(scorer, flags), flags, clusters, splits, seed, False).mean(axis=(0, 1))[0]
    return float(means[0] - means[1])


def _gap_statistic(scorer: Scorer, flags: NDArray[np.bool_]) -> Callable[[Array, Array], Array]:
    """Balanced accuracies (draws, 2) with own thresholds and with one for all."""

    def statistic(fit: Array, test: Array) -> Array:
        different, inverse = np.unique(fit, axis=0, return_inverse=True)
        scores = scorer(different)
        if scores.ndim != 3 or scores.shape[1] < 2:
            raise GeometryBenchError(
                "one threshold for all is a question about a group, but it has one member: add models"
            )
        rows = zip(inverse.reshape(-1), fit, test, strict=True)
        return np.array([_own_and_pooled(scores[row], flags, *pair) for row, *pair in rows])

    return statistic
