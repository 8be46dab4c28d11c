"""Does a direction that was found in one model still work in another? Frozen, fresh, and realigned without labels.

Both models read the same prompts. Everything is cross-fitted: a fold's prompts are scored by what was fitted on the other
folds. States are (prompts, width), labels (prompts,) True for the class that scores higher, folds (prompts,) from 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geometry_bench.geometry.auroc import auroc
from geometry_bench.geometry.directions import Array


@dataclass(frozen=True)
class Transfer:
    """How the child's prompts are told apart, in four ways.

    AUROC of the parent's direction (``frozen``), of the child's own (``fresh``), and of the parent's after an orthogonal map
    of the child's states onto the parent's, fitted without labels (``rotated``). Balanced accuracy at the parent's threshold
    as it is (``threshold``), after matching mean and spread of the projections without labels (``rescaled``), and of the
    child's own direction and threshold (``own``).
    """

    frozen: float
    fresh: float
    rotated: float
    threshold: float
    rescaled: float
    own: float


NAMES = tuple(Transfer.__annotations__)


def transfer(child: Array, parent: Array, labels: NDArray[np.bool_], folds: NDArray[np.int64]) -> Transfer:
    """Score every fold of the child by what the other folds of parent and child give."""
    scores = {name: np.empty(len(labels)) for name in NAMES}
    for fold in np.unique(folds):
        fit, test = folds != fold, folds == fold
        old, new = _direction(parent[fit], labels[fit]), _direction(child[fit], labels[fit])
        old_fit, child_fit, child_test = parent[fit] @ old, child[fit] @ old, child[test] @ old
        cut = _midpoint(old_fit, labels[fit])
        # Scores of different folds are pooled, so each is put into units of the parent's projections.
        spread = old_fit.std()
        scores["frozen"][test] = (child_test - cut) / spread
        scores["threshold"][test] = child_test - cut
        matched = (child_test - child_fit.mean()) / child_fit.std() * spread + old_fit.mean()
        scores["rescaled"][test] = matched - cut
        own = child[fit] @ new
        scores["fresh"][test] = scores["own"][test] = (child[test] @ new - _midpoint(own, labels[fit])) / own.std()
        scores["rotated"][test] = (_rotated(child[fit], parent[fit], child[test]) @ old - cut) / spread
    ranked = {name: float(auroc(scores[name], labels)) for name in ("frozen", "fresh", "rotated")}
    cut_at = {name: _balanced(scores[name] > 0, labels) for name in ("threshold", "rescaled", "own")}
    return Transfer(**ranked, **cut_at)


def without_each_fold(
    child: Array, parent: Array, labels: NDArray[np.bool_], folds: NDArray[np.int64]
) -> list[Transfer]:
    """The same without each fold."""
    rows = (folds != fold for fold in np.unique(folds))
    return [transfer(child[kept], parent[kept], labels[kept], folds[kept]) for kept in rows]


def _direction(states: Array, labels: NDArray[np.bool_]) -> Array:
    direction: Array = states[labels].mean(axis=0) - states[~labels].mean(axis=0)
    return direction


def _midpoint(projections: Array, labels: NDArray[np.bool_]) -> float:
    return float((projections[labels].mean() + projections[~labels].mean()) / 2)


def _balanced(called: NDArray[np.bool_], labels: NDArray[np.bool_]) -> float:
    return float((called[labels].mean() + (~called[~labels]).mean()) / 2)


def _rotated(child: Array, parent: Array, test: Array) -> Array:
    """The child's test states under the orthogonal map that brings its states nearest to the parent's (Schönemann 1966).

    It is found in the span of the prompts, which is all that they determine.
    """
    ours, theirs = child.mean(axis=0), parent.mean(axis=0)
    left, right = (np.linalg.svd(x, full_matrices=False)[2] for x in (child - ours, parent - theirs))
    u, _, v = np.linalg.svd((left @ (child - ours).T) @ ((parent - theirs) @ right.T), full_matrices=False)
    mapped: Array = (test - ours) @ left.T @ u @ v @ right + theirs
    return mapped
