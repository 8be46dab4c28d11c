"""Directions of several models in one model's space: ridge maps and the direction that they share (source B).

Activations of the same prompts in two models are rows: x (prompts, source width), y (prompts, target width). A map sends row
vectors: y ≈ x A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.directions import Array, cosine
from geometry_bench.geometry.moments import about_mean

# Ridge maps


@dataclass(frozen=True)
class RidgeMap:
    """y ≈ (x − source_mean) A + target_mean; the means are zero for a map without intercept."""

    matrix: Array
    source_mean: Array
    target_mean: Array
    penalty: float

    def states(self, x: Array) -> Array:
        """Map states (prompts, source width) -> (prompts, target width), intercept included."""
        mapped: Array = (np.asarray(x, dtype=np.float64) - self.source_mean) @ self.matrix + self.target_mean
        return mapped

    def directions(self, u: Array) -> Array:
        """Map directions (..., source width) -> (..., target width): the linear part, for a direction has no origin."""
        mapped: Array = np.asarray(u, dtype=np.float64) @ self.matrix
        return mapped


@dataclass(frozen=True)
class RidgePath:
    """Ridge maps for every penalty λ from one eigendecomposition: A_λ = left · diag(1/(eigenvalues + λ)) · right.

    ``left`` is (source width, rank), ``right`` (rank, target width), ``eigenvalues`` (rank,) those of the Gram matrix of x.
    ``source_mean`` and ``target_mean`` are zero for a map without intercept; ``fitted_mean`` is the mean of y either way.
    """

    left: Array
    right: Array
    eigenvalues: Array
    source_mean: Array
    target_mean: Array
    fitted_mean: Array

    @property
    def mean_eigenvalue(self) -> float:
        """Mean of the Gram matrix's eigenvalues over source dimensions: multiply a relative penalty by it."""
        return float(self.eigenvalues.sum() / len(self.left))

    def _weights(self, penalty: float) -> Array:
        if not (np.isfinite(penalty) and penalty >= 0):
            raise GeometryBenchError(f"the ridge penalty must be zero or more, not {penalty}")
        # Eigenvalues below rounding are no information: without a penalty they would be divided by (least-norm solution).
        known = self.eigenvalues > self.eigenvalues[0] * len(self.left) * np.finfo(np.float64).eps
        filled: Array = np.divide(
            1.0, self.eigenvalues + penalty, out=np.zeros(len(known)), where=known | (penalty > 0)
        )
        return filled

    def map(self, penalty: float) -> RidgeMap:
        """The map for one absolute penalty λ, minimising ‖Y − XA‖²_F + λ‖A‖²_F."""
        matrix = (self.left * self._weights(penalty)) @ self.right
        return RidgeMap(matrix, self.source_mean, self.target_mean, float(penalty))

    def errors(self, x: Array, y: Array, penalties: Sequence[float], *, about_mean: bool) -> Array:
        """Relative Frobenius errors ‖Ŷ − Y‖/‖Y‖ for every penalty on the prompts given, (penalties,).

        With ``about_mean`` Y below the line is taken about the mean of the fitted targets, so that 1 means "no better than
        the mean"; without it (published) a large common mean makes any map look good.
        """
        target = np.asarray(y, dtype=np.float64)
        inner = (np.asarray(x, dtype=np.float64) - self.source_mean) @ self.left
        size = float(np.linalg.norm(target - (self.fitted_mean if about_mean else 0.0)))
        if size == 0:
            raise GeometryBenchError(
                "the target activations are all the same, so no relative error is defined: add prompts"
            )
        residuals = [
            np.linalg.norm((inner * self._weights(penalty)) @ self.right + self.target_mean - target)
            for penalty in penalties
        ]
        return np.array(residuals) / size


def fit_ridge(x: Array, y: Array, *, intercept: bool) -> RidgePath:
    """Ridge maps from x (prompts, source width) to y (prompts, target width), all penalties at once.

    One eigendecomposition of the smaller Gram matrix, XᵀX or XXᵀ, in float64. ``intercept=False`` neither centres nor adds
    an intercept: the published variant. ``intercept=True`` centres both sides and is scikit-learn's ``Ridge``: the corrected
    variant. Raises GeometryBenchError for unequal numbers of prompts, NaN, or activations that do not vary.
    """
    source, target = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if source.ndim != 2 or target.ndim != 2 or len(source) != len(target):
        raise GeometryBenchError(
            f"a ridge map needs the same prompts in both models, but shapes are {source.shape} and {target.shape}"
        )
    if len(source) < 2:
        raise GeometryBenchError(f"a ridge map needs at least two prompts, but there are {len(source)}: add prompts")
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise GeometryBenchError("activations hold NaN or infinity: check the models' weights and dtype")
    fitted_mean = target.mean(axis=0)
    source_mean, target_mean = np.zeros(source.shape[1]), np.zeros(target.shape[1])
    if intercept:
        source, source_mean = about_mean(source)
        target, target_mean = about_mean(target)
    if not source.any():
        raise GeometryBenchError(
            "the source activations do not vary over prompts, so nothing can be mapped: check the layer"
        )
    if len(source) >= source.shape[1]:
        values, vectors = np.linalg.eigh(source.T @ source)
        left, right = vectors, vectors.T @ (source.T @ target)
    else:
        values, vectors = np.linalg.eigh(source @ source.T)
        left, right = source.T @ vectors, vectors.T @ target
    values = np.maximum(values[::-1], 0.0)
    return RidgePath(left[:, ::-1], right[::-1], values, source_mean, target_mean, fitted_mean)


@dataclass(frozen=True)
class PenaltyChoice:
    """The penalty of least error, and whether it lies at an end of the grid, where the minimum may lie beyond."""

    penalty: float
    error: float
    at_edge: bool


def best_penalty(penalties: Sequence[float], errors: Array) -> PenaltyChoice:
    """The penalty of least held-out error; penalties in any order."""
    values = np.asarray(errors, dtype=np.float64)
    if len(penalties) != len(values) or not len(values):
        raise GeometryBenchError(f"there are {len(penalties)} penalties but {len(values)} errors")
    best = int(values.argmin())
    return PenaltyChoice(
        float(penalties[best]), float(values[best]), penalties[best] in (min(penalties), max(penalties))
    )


def mapped_null(mapping: RidgeMap, target: Array, *, draws: int = 1000, seed: int = 0) -> Array:
    """Cosines (draws,) with a target direction (target width,) of random directions sent through the map.

    A map need not be a rotation: it may send everything toward a few directions, and then any direction agrees.
    """
    random = np.random.default_rng(seed).standard_normal((draws, len(mapping.matrix)))
    values = cosine(mapping.directions(random), np.asarray(target))
    if not np.isfinite(values).all():
        raise GeometryBenchError(
            "the map or the target direction is zero, so no cosine is defined: check the activations"
        )
    return values


# The shared direction


@dataclass(frozen=True)
class Universal:
    """The direction that unit directions share, and how each of them agrees with it.

    ``cosines`` (members,) with the universal direction that includes the member; ``leave_one_out`` (members,) with that of
    the others; ``singular_shares`` (members,) of the squared singular values, descending; ``weights`` (members,) give the
    universal direction as a sum of the unit directions.
    """

    cosines: Array
    leave_one_out: Array
    singular_shares: Array
    weights: Array

    @property
    def top_share(self) -> float:
        """Share of the first squared singular value; 1 for one common direction, 1/n for orthogonal ones."""
        return float(self.singular_shares[0])


def null_cosine(members: int) -> float:
    """1/√n: what each of n orthogonal directions has with the direction that they "share"."""
    return float(1 / np.sqrt(members))


def _top(gram: Array, sign_of: int | None) -> tuple[Array, Array]:
    """Weights (members,) of the first right singular vector of the stacked directions, and the eigenvalues.

    The sign agrees with member ``sign_of``, or with the majority (positive sum of cosines) where it is None. Where the
    largest singular value is repeated any vector of its subspace would do; the one closest to the mean direction is taken.
    """
    values, vectors = np.linalg.eigh(gram)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    tied = values >= values[0] * (1 - 1e-9)
    coordinates = vectors[:, 0]
    if tied.sum() > 1:
        basis = vectors[:, tied]
        nearest = basis @ (basis.T @ np.ones(len(gram)))
        if np.linalg.norm(nearest) > 1e-9:
            coordinates = nearest / np.linalg.norm(nearest)
    cosines = np.sqrt(values[0]) * coordinates
    orientation = cosines.sum() if sign_of is None else cosines[sign_of]
    weights = coordinates / np.sqrt(values[0]) * (-1.0 if orientation < 0 else 1.0)
    return weights, values


def universal_from_gram(gram: Array, reference: int = 0) -> Universal:
    """The shared direction from the cosines of all pairs, (members, members) (source B; claims: SVD rule).

    The first right singular vector of the stacked unit directions, uncentred, reference included, signed to agree with the
    reference. For stacked D and G = DDᵀ with first eigenpair (λ, w) it is Dᵀw/√λ, and its cosine with member i is √λ·wᵢ.
    The leave-one-out direction of the reference itself is signed by the majority of the others.
    Raises GeometryBenchError for fewer than two members, an unknown reference, or a matrix that is not one of cosines.
    """
    cosines = np.asarray(gram, dtype=np.float64)
    members = len(cosines)
    if cosines.shape != (members, members) or members < 2:
        raise GeometryBenchError(
            f"a shared direction needs two models or more, but cosines are {cosines.shape}: add models"
        )
    if not 0 <= reference < members:
        raise GeometryBenchError(f"the reference is member {reference}, but the group has members 0 to {members - 1}")
    if not (np.isfinite(cosines).all() and np.allclose(cosines, cosines.T) and np.allclose(np.diag(cosines), 1)):
        raise GeometryBenchError("a matrix of cosines must be symmetric, finite and 1 on its diagonal")
    weights, values = _top(cosines, reference)
    left_out = [cosines[member] @ weights_without(cosines, member, reference) for member in range(members)]
    return Universal(cosines @ weights, np.array(left_out), values / values.sum(), weights)


def weights_without(gram: Array, member: int, reference: int = 0) -> Array:
    """Weights (members,) of the shared direction of all but one member, whose own weight is zero.

    Signed to agree with the reference, or with the majority where the reference is the one left out.
    """
    others = np.delete(np.arange(len(gram)), member)
    sign_of = None if member == reference else int(np.flatnonzero(others == reference)[0])
    weights = np.zeros(len(gram))
    weights[others] = _top(gram[np.ix_(others, others)], sign_of)[0]
    return weights
