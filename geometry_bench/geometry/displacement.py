"""How far a contrast of prompts has moved between two models of one shape: unbiased, fold by fold.

A contrast is a direction in the residual stream at each of some blocks: the difference of two classes' means, or the mean
change that a system prompt makes. Both models read the same prompts, dealt into the same folds. Products of *different*
folds hold no noise of their own, so lengths and inner products of the two models' contrasts are unbiased (U-statistics);
errors are jackknives over folds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.groups import deal_topics
from geometry_bench.geometry.resampling import jackknife_error


@dataclass(frozen=True)
class Folded:
    """A contrast in folds (folds, blocks, width), and the spread of prompts about their class (blocks,) as its unit.

    Blocks are weighed by the inverse square of the spread: a block that tells the classes apart best counts most.
    """

    contrasts: Array
    spread: Array

    @classmethod
    def of(cls, states: Array, labels: NDArray[np.bool_], folds: NDArray[np.int64]) -> Folded:
        """Of two classes where any prompt is of the True one, else of changes."""
        return cls.of_classes(states, labels, folds) if labels.any() else cls.of_changes(states, folds)

    @classmethod
    def of_classes(cls, states: Array, labels: NDArray[np.bool_], folds: NDArray[np.int64]) -> Folded:
        """Mean of the True class minus mean of the other, states (prompts, blocks, width).

        Every fold must hold prompts of both classes.
        """
        x = np.asarray(states, dtype=np.float64)
        means = [
            [x[(folds == fold) & (labels == flag)].mean(axis=0) for flag in (True, False)] for fold in _numbers(folds)
        ]
        contrasts = np.array([one - other for one, other in means])
        away = [x[labels == flag] - x[labels == flag].mean(axis=0) for flag in (True, False)]
        return cls(contrasts, _rms(np.concatenate(away)))

    @classmethod
    def of_changes(cls, states: Array, folds: NDArray[np.int64]) -> Folded:
        """Mean of changes (prompts, blocks, width), such as a message's states under a system prompt less without it."""
        x = np.asarray(states, dtype=np.float64)
        contrasts = np.array([x[folds == fold].mean(axis=0) for fold in _numbers(folds)])
        return cls(contrasts, _rms(x - x.mean(axis=0)))

    @property
    def lengths(self) -> Array:
        """Squared length of the contrast in units of the spread, unbiased, (blocks,)."""
        units = self.contrasts / self.spread[None, :, None]
        found: Array = _across_folds(_products(units, units))[0]
        return found


@dataclass(frozen=True)
class Jackknifed:
    """A value, its jackknife standard error, and the values without each fold (folds,)."""

    value: float
    error: float
    left_out: Array


@dataclass(frozen=True)
class Displacement:
    """How the child's contrast lies beside the parent's.

    ``squared`` is δ² = ‖D_child − D_parent‖² / ‖D_parent‖², unbiased, so that it may be slightly negative; ``gain`` is the
    child's share along the parent's contrast less 1; ``cosine`` is the cosine between both. All are pooled over blocks.
    ``by_block`` is δ² at each block (blocks,), NaN where the parent's contrast cannot be told from noise.
    """

    squared: Jackknifed
    gain: Jackknifed
    cosine: Jackknifed
    by_block: Array

    @property
    def distance(self) -> float:
        """δ, 0 where δ² is estimated below 0."""
        return float(np.sqrt(max(self.squared.value, 0.0)))


def displacement(child: Folded, parent: Folded) -> Displacement:
    """Compare the contrasts of two models on the same prompts, blocks weighed by the parent's spread."""
    units = parent.spread[None, :, None]
    old, new = parent.contrasts / units, child.contrasts / units
    moved, before, across, after = (_products(a, b) for a, b in ((new - old,) * 2, (old,) * 2, (new, old), (new,) * 2))

    def pooled(combine: Callable[..., Array], *parts: Array) -> Jackknifed:
        values = combine(*(_across_folds(part.sum(axis=-1)) for part in parts))
        return Jackknifed(float(values[0]), jackknife_error(values[1:]), values[1:])

    with np.errstate(divide="ignore", invalid="ignore"):
        lengths, blocks = _across_folds(before)[0], _across_folds(moved)[0]
        return Displacement(
            squared=pooled(np.divide, moved, before),
            gain=pooled(lambda a, b: a / b - 1, across, before),
            cosine=pooled(lambda a, b, c: a / np.sqrt(b * c), across, before, after),
            by_block=np.where(lengths > 0, blocks / lengths, np.nan),
        )


def stands_out(contrast: Folded, errors: float = 3.0) -> bool:
    """Whether the squared length, pooled over blocks, lies so many jackknife errors above 0."""
    units = contrast.contrasts / contrast.spread[None, :, None]
    lengths = _across_folds(_products(units, units).sum(axis=-1))
    return bool(lengths[0] > errors * jackknife_error(lengths[1:]))


def shared_part(changes: Folded) -> Jackknifed:
    """Share of the changes that is the same for all prompts, ‖D‖² / (‖D‖² + spread²), with ‖D‖² unbiased and pooled."""
    units = changes.contrasts / changes.spread[None, :, None]
    lengths = _across_folds(_products(units, units)).mean(axis=1)
    values = lengths / (lengths + 1)
    return Jackknifed(float(values[0]), jackknife_error(values[1:]), values[1:])


def deal_folds(clusters: Sequence[str], labels: NDArray[np.bool_], most: int) -> NDArray[np.int64]:
    """A fold for each prompt (prompts,), numbered from 0: whole clusters, at most ``most``, all classes in every fold.

    Clusters that hold both classes keep them together; where that leaves a fold without a class, each class is dealt by
    itself, into as many folds as its clusters allow.
    """
    classes = [labels == flag for flag in np.unique(labels)]
    folds = deal_topics(clusters, len(labels), most)
    if all(len(np.unique(folds[rows])) == folds.max() + 1 for rows in classes):
        return folds
    names = np.asarray(clusters)
    fewest = min(most, *(len(np.unique(names[rows])) for rows in classes))
    for rows in classes:
        folds[rows] = deal_topics(names[rows], int(rows.sum()), fewest)
    return folds


def _products(a: Array, b: Array) -> Array:
    """Inner products of all pairs of folds at each block, (folds, folds, blocks)."""
    product: Array = np.einsum("fbw,gbw->fgb", a, b)
    return product


def _across_folds(products: Array) -> Array:
    """Mean over pairs of different folds: first of all folds, then without each, (1 + folds, ...)."""
    folds = len(products)
    diagonal = np.einsum("ff...->f...", products)
    total, rows, columns = products.sum(axis=(0, 1)), products.sum(axis=1), products.sum(axis=0)
    whole = (total - diagonal.sum(axis=0)) / (folds * (folds - 1))
    less = total - rows - columns + diagonal - (diagonal.sum(axis=0) - diagonal)
    left_out: Array = less / ((folds - 1) * (folds - 2))
    return np.concatenate([whole[None], left_out])


def _numbers(folds: NDArray[np.int64]) -> range:
    return range(int(folds.max()) + 1)


def _rms(away: Array) -> Array:
    length: Array = np.sqrt((away**2).sum(axis=-1).mean(axis=0))
    return length
