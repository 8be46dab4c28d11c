"""How well scores tell two classes apart: AUROC with intervals, held out; thresholds.

``labels`` (prompts,) are True for the class expected to score higher (harmful, unsafe). Scores have prompts on their last
axis. AUROC below one half is separation with the sign reversed, and is never folded to above it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, stats

from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.clusters import (
    Clusters,
    leave_one_cluster_out,
    need_topics,
    split_halves,
    topics_per_class,
    two_classes,
)
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.moments import about_mean
from geometry_bench.geometry.resampling import Interval, jackknife_interval

Scorer = Callable[[Array], Array]
"""Weights (draws, prompts) of the prompts that a direction or centroid is fitted on -> scores (draws, prompts) of all."""


@dataclass(frozen=True)
class Separation:
    """An AUROC with its interval and the values with one topic (or prompt) left out, (topics,)."""

    auroc: float
    interval: Interval
    leave_one_out: Array


@dataclass(frozen=True)
class HeldOut(Separation):
    """AUROC of prompts that took no part in the fit: mean over splits and both halves.

    ``in_sample`` is the AUROC with fit and score on all prompts. The interval is the jackknife over topics of the
    whole procedure, fit included; the spread over splits is no measure of sampling noise.
    """

    in_sample: float


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


def _checked(scores: Array, labels: Array) -> tuple[Array, Array]:
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
    values, flags = _checked(scores, labels)
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


def _bounded(value: float, left_out: Array, fewest: int, level: float) -> Interval:
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
    values, flags = _checked(scores, labels)
    whole = float(auroc(values, flags))
    left_out = auroc(values, flags, leave_one_cluster_out(clusters, len(flags)))
    return Separation(whole, _bounded(whole, left_out, min(topics_per_class(flags, clusters)), level), left_out)


# Scores from a fit on some of the prompts, of all of them or of those in ``scored``. All need the prompts' Gram matrix
# only, so that the hundreds of fits of a jackknife over splits cost little more than one.


def class_weights(weights: Array, labels: Array, harmful: bool) -> Array:
    """Weights of one class that sum to one, (draws, prompts): applied to states they give its mean."""
    flags = two_classes(labels)
    chosen = np.where(flags == harmful, np.atleast_2d(np.asarray(weights, dtype=np.float64)), 0.0)
    totals = chosen.sum(axis=-1, keepdims=True)
    if not (totals > 0).all():
        raise GeometryBenchError("a fit holds prompts of one class only: add prompts or topics")
    shares: Array = chosen / totals
    return shares


def contrast(weights: Array, labels: Array) -> Array:
    """Weights (draws, prompts) that, applied to states, give mean(harmful) − mean(safe)."""
    return class_weights(weights, labels, True) - class_weights(weights, labels, False)


def label_contrasts(labels: Array, weights: Array) -> Array:
    """The same for many labellings at once: labels (draws, prompts), weights (prompts,) -> (draws, prompts)."""
    flags, counts = np.asarray(labels, dtype=bool), np.asarray(weights, dtype=np.float64)
    harmful, safe = np.where(flags, counts, 0.0), np.where(flags, 0.0, counts)
    totals = [chosen.sum(axis=-1, keepdims=True) for chosen in (harmful, safe)]
    if not all((total > 0).all() for total in totals):
        raise GeometryBenchError("a fit holds prompts of one class only: add prompts or topics")
    drawn: Array = harmful / totals[0] - safe / totals[1]
    return drawn


def _gram(states: Array) -> Array:
    values = np.asarray(states, dtype=np.float64)
    if values.ndim != 2:
        raise GeometryBenchError(f"states of one layer must be (prompts, width), but have shape {values.shape}")
    if not np.isfinite(values).all():
        raise GeometryBenchError("activations hold NaN or infinity: check the model's weights and dtype")
    centred, _ = about_mean(values)
    if not centred.any():
        raise GeometryBenchError(
            "activations are the same for every prompt, so nothing separates them: check the layer"
        )
    gram: Array = centred @ centred.T
    return gram


ALL = slice(None)


def projection_scorer(states: Array, labels: Array, *, scored: slice = ALL) -> Scorer:
    """Score = projection on mean(harmful) − mean(safe) of the fitted prompts; states (prompts, width)."""
    gram, flags = _gram(states), two_classes(labels)
    return lambda weights: contrast(weights, flags) @ gram[:, scored]


def closeness_scorer(states: Array, labels: Array, *, scored: slice = ALL) -> Scorer:
    """Score = −distance to the centroid of the fitted harmful prompts; states (prompts, width)."""
    gram, flags = _gram(states), two_classes(labels)

    def score(weights: Array) -> Array:
        shares = class_weights(weights, flags, True)
        towards = shares @ gram
        squares = np.diag(gram) - 2 * towards + (towards * shares).sum(axis=-1, keepdims=True)
        negative: Array = -np.sqrt(np.maximum(squares[:, scored], 0))
        return negative

    return score


def outlier_scorer(states: Array, labels: Array, *, scored: slice = ALL, shrinkage: float = 0.1) -> Scorer:
    """Score = Mahalanobis distance from the fitted safe prompts; states (prompts, width).

    Their covariance S is shrunk to (1 − s)·S + s·(trace S / width)·I, without which it could not be inverted where width
    exceeds the number of prompts.
    """
    gram, flags, width = _gram(states), two_classes(labels), np.shape(states)[1]
    if not 0 < shrinkage <= 1:
        raise GeometryBenchError(f"shrinkage must lie in (0, 1], not at {shrinkage}")

    diagonal = np.diag(gram)

    def one(share: Array) -> Array:
        fitted = np.flatnonzero(share)
        towards = gram[:, fitted] @ share[fitted]
        level = float(share[fitted] @ towards[fitted])
        own = diagonal - 2 * towards + level
        inside = gram[np.ix_(fitted, fitted)] - towards[fitted, None] - towards[None, fitted] + level
        rows = gram[fitted, scored] - towards[fitted, None] - towards[None, scored] + level
        ridge = shrinkage * float(share[fitted] @ own[fitted]) / width
        if ridge <= 0:
            raise GeometryBenchError(
                "the safe prompts all have the same activations, so no distance from them is defined"
            )
        # (F'F + εI)⁻¹ = (I − F'(FF' + εI)⁻¹F)/ε with the rows F = sqrt((1 − s)·share)·(x − mean) of the safe prompts.
        root = np.sqrt((1 - shrinkage) * share[fitted])
        across = root[:, None] * rows
        inner = root[:, None] * inside * root[None, :]
        inner[np.diag_indices_from(inner)] += ridge
        solved = linalg.solve_triangular(linalg.cholesky(inner, lower=True), across, lower=True, check_finite=False)
        squares: Array = (own[scored] - (solved**2).sum(axis=0)) / ridge
        return np.sqrt(np.maximum(squares, 0))

    return lambda weights: np.stack([one(share) for share in class_weights(weights, flags, False)])


def _halves(
    statistic: Callable[[Array, Array], Array],
    labels: Array,
    clusters: Clusters,
    splits: int,
    seed: int,
    jackknife: bool,
) -> Array:
    """statistic(fit, test), weights (draws, prompts) both, of every half: (splits, 2, 1 + topics or 1)."""
    flags = two_classes(labels)
    # With four topics of a class two of them stand in each half, and leaving one out never empties a half.
    need_topics(
        flags, clusters, 4 if jackknife else 2, "a held-out value" + (" with its interval" if jackknife else "")
    )
    keep = np.ones((1, len(flags)))
    if jackknife:
        keep = np.concatenate([keep, leave_one_cluster_out(clusters, len(flags))])
    rows = [
        [statistic(keep * fit, keep * ~fit) for fit in (half, ~half)]
        for half in split_halves(flags, clusters, splits=splits, seed=seed)
    ]
    return np.array(rows)


def _fitted_auroc(scorer: Scorer, labels: Array) -> Callable[[Array, Array], Array]:
    def statistic(fit: Array, test: Array) -> Array:
        # Leaving out a topic of the other half does not change the fit: each different fit is made once.
        different, inverse = np.unique(fit, axis=0, return_inverse=True)
        return auroc(scorer(different)[inverse.reshape(-1)], labels, test)

    return statistic


def held_out_values(
    scorer: Scorer, labels: Array, clusters: Clusters = None, *, splits: int = 20, seed: int = 0
) -> Array:
    """Held-out AUROCs (splits, 2) without interval: for curves over layers. Needs two topics of each class."""
    return _halves(_fitted_auroc(scorer, two_classes(labels)), labels, clusters, splits, seed, False)[..., 0]


def held_out_auroc(
    scorer: Scorer, labels: Array, clusters: Clusters = None, *, splits: int = 20, seed: int = 0, level: float = 0.95
) -> HeldOut:
    """AUROC with the fit on one half of the topics and the score on the other, both ways, over repeated splits.

    ``scorer`` is one of the scorers above or any function of fit weights, for instance one that maps and stacks the fitted
    directions of several models. Needs four topics of each class, else raises GeometryBenchError (source B, corrected).
    """
    flags = two_classes(labels)
    means = _halves(_fitted_auroc(scorer, flags), flags, clusters, splits, seed, True).mean(axis=(0, 1))
    whole, left_out = float(means[0]), means[1:]
    interval = _bounded(whole, left_out, min(topics_per_class(flags, clusters)), level)
    in_sample = float(auroc(scorer(np.ones((1, len(flags)))), flags)[0])
    return HeldOut(whole, interval, left_out, in_sample)


class Rule(Protocol):
    """One of the three scorers above: states (prompts, width) and labels -> scorer of the prompts in ``scored``."""

    def __call__(self, states: Array, labels: Array, *, scored: slice = ALL) -> Scorer:
        """The scorer."""


def relabelled_scorer(rule: Rule, states: Array, scored: Array | None = None) -> Callable[[Array, Array], Array]:
    """A rule refitted under many labellings at once.

    Returns a function from labellings (draws, prompts) and weights of the fitted prompts (prompts,) to the scores
    (draws, prompts) of the same prompts, or of ``scored``, their counterparts (prompts, width).
    """
    # Each prompt stands there twice, as a harmful and as a safe one; a labelling says which of the two is fitted on.
    count = len(states)
    flags = np.repeat([True, False], count)
    parts = [states, states]
    if scored is not None:
        parts.append(scored)
        flags = np.concatenate([flags, np.ones(count, dtype=bool)])
    scorer = rule(np.concatenate(parts), flags, scored=slice(len(flags) - count, None))

    def score(relabelled: Array, fit: Array) -> Array:
        harmful = np.asarray(relabelled).astype(bool)
        weights = np.zeros((len(harmful), len(flags)))
        weights[:, :count], weights[:, count : 2 * count] = harmful * fit, ~harmful * fit
        return scorer(weights)

    return score


def _row_auroc(scores: Array, labels: Array) -> Array:
    """AUROC row by row, each row with labels of its own: (draws, prompts) both -> (draws,); NaN with one class only."""
    harmful = labels.sum(axis=1)
    pairs = (harmful * (labels.shape[1] - harmful)).astype(np.float64)
    above = (stats.rankdata(scores, axis=1) * labels).sum(axis=1) - harmful * (harmful + 1) / 2
    rows: Array = np.divide(above, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return rows


def auroc_null(
    rule: Rule,
    states: Array,
    labels: Array,
    relabelled: Array,
    clusters: Clusters = None,
    *,
    scored: Array | None = None,
    splits: int | None = None,
    seed: int = 0,
) -> Array:
    """AUROC under other labellings (draws, prompts) -> (draws,), each fitted and scored anew.

    Held out over ``splits``, those of :func:`held_out_auroc` with the same seed; in sample where ``splits`` is None. To
    relabel the scored half alone would give too narrow a null: the two directions fitted on two halves, each scored on the
    other half, err on the same side.
    """
    score, drawn = relabelled_scorer(rule, states, scored), np.asarray(relabelled).astype(bool)
    if splits is None:
        return _row_auroc(score(drawn, np.ones(drawn.shape[1])), drawn)
    halves = split_halves(two_classes(labels), clusters, splits=splits, seed=seed)
    rows = [_row_auroc(score(drawn, fit)[:, ~fit], drawn[:, ~fit]) for half in halves for fit in (half, ~half)]
    return cast(Array, np.mean(rows, axis=0))


def earliest_within(profile: Array, tolerance: float = 0.02) -> int:
    """First layer whose value lies within ``tolerance`` of the best, profile (layers,) (source C, early detection)."""
    values = np.asarray(profile, dtype=np.float64)
    return int(np.flatnonzero(values >= values.max() - tolerance)[0])


def balanced_accuracy(scores: Array, labels: Array, thresholds: Array, weights: Array | None = None) -> Array:
    """Mean of the two classes' shares called right when score > threshold means harmful: thresholds (k,) -> (k,)."""
    values, flags = _checked(scores, labels)
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
    values, flags = _checked(np.atleast_2d(scores), labels)
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
    means = _halves(_gap_statistic(scorer, flags), flags, clusters, splits, seed, True).mean(axis=(0, 1))
    gaps = means[:, 0] - means[:, 1]
    every = np.ones((1, len(flags)))
    own, pooled = _gap_statistic(scorer, flags)(every, every)[0]
    interval = jackknife_interval(float(gaps[0]), gaps[1:], level=level)
    return ThresholdGap(float(gaps[0]), interval, gaps[1:], float(means[0, 0]), float(means[0, 1]), own - pooled)


def held_out_gap(scorer: Scorer, labels: Array, clusters: Clusters = None, *, splits: int = 10, seed: int = 0) -> float:
    """The gap of ``threshold_gap`` alone, without interval: for nulls. Needs two topics of each class."""
    flags = two_classes(labels)
    means = _halves(_gap_statistic(scorer, flags), flags, clusters, splits, seed, False).mean(axis=(0, 1))[0]
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
