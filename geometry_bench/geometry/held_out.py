"""AUROC of prompts that took no part in the fit, with its interval and its null.

``labels`` (prompts,) are True for the class expected to score higher (harmful, unsafe). Scores have prompts on their last
axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np

from geometry_bench.geometry.auroc import Separation, auroc, bounded, row_auroc
from geometry_bench.geometry.clusters import (
    Clusters,
    leave_one_cluster_out,
    need_topics,
    split_halves,
    topics_per_class,
    two_classes,
)
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.scorers import Rule, Scorer, relabelled_scorer


@dataclass(frozen=True)
class HeldOut(Separation):
    """AUROC of prompts that took no part in the fit: mean over splits and both halves.

    ``in_sample`` is the AUROC with fit and score on all prompts. The interval is the jackknife over topics of the
    whole procedure, fit included; the spread over splits is no measure of sampling noise.
    """

    in_sample: float


def over_halves(
    statistic: Callable[[Array, Array], Array],
    labels: Array,
    clusters: Clusters,
    splits: int,
    seed: int,
    jackknife: bool,
) -> Array:
    """statistic(fit, test), weights (draws, prompts) both, of every half: (splits, 2, 1 + topics or 1)."""
    flags = two_classes(labels)
    # With four topics of a class two of them are in each half, and leaving one out never empties a half.
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
    return over_halves(_fitted_auroc(scorer, two_classes(labels)), labels, clusters, splits, seed, False)[..., 0]


def held_out_auroc(
    scorer: Scorer, labels: Array, clusters: Clusters = None, *, splits: int = 20, seed: int = 0, level: float = 0.95
) -> HeldOut:
    """AUROC with the fit on one half of the topics and the score on the other, both ways, over repeated splits.

    ``scorer`` is one of the scorers above or any function of fit weights, for instance one that maps and stacks the fitted
    directions of several models. Needs four topics of each class, else raises GeometryBenchError (source B, corrected).
    """
    flags = two_classes(labels)
    means = over_halves(_fitted_auroc(scorer, flags), flags, clusters, splits, seed, True).mean(axis=(0, 1))
    whole, left_out = float(means[0]), means[1:]
    interval = bounded(whole, left_out, min(topics_per_class(flags, clusters)), level)
    in_sample = float(auroc(scorer(np.ones((1, len(flags)))), flags)[0])
    return HeldOut(whole, interval, left_out, in_sample)


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
    """AUROC under other labellings (draws, prompts) -> (draws,), each fitted and scored again.

    Held out over ``splits``, those of :func:`held_out_auroc` with the same seed; in sample where ``splits`` is None. To
    relabel the scored half alone would give too narrow a null: the two directions fitted on two halves, each scored on the
    other half, err on the same side.
    """
    score, drawn = relabelled_scorer(rule, states, scored), np.asarray(relabelled).astype(bool)
    if splits is None:
        return row_auroc(score(drawn, np.ones(drawn.shape[1])), drawn)
    halves = split_halves(two_classes(labels), clusters, splits=splits, seed=seed)
    rows = [row_auroc(score(drawn, fit)[:, ~fit], drawn[:, ~fit]) for half in halves for fit in (half, ~half)]
    return cast(Array, np.mean(rows, axis=0))


def earliest_within(profile: Array, tolerance: float = 0.02) -> int:
    """First layer whose value lies within ``tolerance`` of the best, profile (layers,) (source C, early detection)."""
    values = np.asarray(profile, dtype=np.float64)
    return int(np.flatnonzero(values >= values.max() - tolerance)[0])
