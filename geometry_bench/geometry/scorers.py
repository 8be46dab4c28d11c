"""Scores of prompts from a direction or centroid that is fitted on some of them.

``labels`` (prompts,) are True for the class expected to score higher (harmful, unsafe). Scores have prompts on their last
axis.
All scorers need the prompts' Gram matrix only, so that the hundreds of fits of a jackknife over splits cost little more
than one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from scipy import linalg

from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.clusters import (
    two_classes,
)
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.moments import about_mean

Scorer = Callable[[Array], Array]
"""Weights (draws, prompts) of the prompts that a direction or centroid is fitted on -> scores (draws, prompts) of all."""


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


class Rule(Protocol):
    """One of the three scorers above: states (prompts, width) and labels -> scorer of the prompts in ``scored``."""

    def __call__(self, states: Array, labels: Array, *, scored: slice = ALL) -> Scorer:
        """The scorer."""


def relabelled_scorer(rule: Rule, states: Array, scored: Array | None = None) -> Callable[[Array, Array], Array]:
    """A rule refitted under many labellings at once.

    Returns a function from labellings (draws, prompts) and weights of the fitted prompts (prompts,) to the scores
    (draws, prompts) of the same prompts, or of ``scored``, their counterparts (prompts, width).
    """
    # Each prompt is there twice, as a harmful and as a safe one; a labelling says which of the two is fitted on.
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
