"""Subspaces of weight updates and of activations: energy kept, overlap, projections and their nulls (source D).

An update is (rows, columns) = (outputs, inputs); its subspaces are spanned by **left** singular vectors, on the output
side. Activations (prompts, width) enter transposed, so that their subspaces lie in the width. One decomposition serves every
k and every threshold; nothing here is approximate. Those of updates are made in :mod:`geometry_bench.updates`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.directions import Array

Rule = Literal["round", "floor"]
Scheme = Literal["parallel", "orthogonal"]


@dataclass(frozen=True)
class Spectrum:
    """Energies σ² (rank,) of a matrix in descending order, its shape, and its total energy ‖M‖²_F.

    Only directions above rounding are kept (σ² > σ₁² · max(rows, columns) · 2⁻⁵²): the vectors of a zero singular value are
    arbitrary, and a projection on "the first k" of them keeps no more than one on the first ``rank``. ``total`` is zero for
    a zero matrix, which has rank 0 and spans nothing.
    """

    energies: Array
    rows: int
    columns: int
    total: float

    @property
    def rank(self) -> int:
        """Number of directions above rounding."""
        return len(self.energies)

    @property
    def state(self) -> Literal["zero", "deficient", "full"]:
        """``zero``, ``deficient`` (rank below the smaller side) or ``full``."""
        if self.rank == 0:
            return "zero"
        return "full" if self.rank == min(self.rows, self.columns) else "deficient"


@dataclass(frozen=True)
class Decomposition(Spectrum):
    """A spectrum with its left singular vectors (rows, rank)."""

    vectors: Array


def _matrix(matrix: Array, name: str) -> Array:
    values = np.asarray(matrix, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise GeometryBenchError(f"{name} must be a matrix with rows and columns, but has shape {values.shape}")
    if not np.isfinite(values).all():
        raise GeometryBenchError(
            f"{name} holds NaN or infinity: check the checkpoint or activations that it comes from"
        )
    return values


def _descending(gram: Array, longer: int) -> tuple[Array, Array, int]:
    """Eigenvalues and vectors of a Gram matrix from the largest down, and how many exceed rounding."""
    values, vectors = np.linalg.eigh(gram)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    rank = numerical_rank(values, longer)
    return values[:rank], vectors[:, :rank], rank


def numerical_rank(energies: Array, longer: int) -> int:
    """How many of descending energies exceed rounding, for a matrix whose longer side is ``longer``."""
    return int((energies > energies[0] * longer * np.finfo(np.float64).eps).sum())


def decompose_second_moment(second: Array, count: int, *, name: str = "the second moment") -> Decomposition:
    """Left singular vectors and energies of ``count`` prompts, transposed, from their second moment Σxxᵀ (width, width).

    Centre the moment beforehand where the mean is not meant; ``name`` is used in error messages. A zero moment gives the
    state ``zero``.
    """
    gram = _matrix(second, name)
    width = len(gram)
    if gram.shape != (width, width) or float(np.abs(gram - gram.T).max()) > 1e-6 * float(np.abs(gram).max()):
        raise GeometryBenchError(f"{name} must be a symmetric matrix, but is not (shape {gram.shape})")
    total = float(np.trace(gram))
    if total <= 0:
        return Decomposition(np.zeros(0), width, count, 0.0, np.zeros((width, 0)))
    energies, vectors, rank = _descending((gram + gram.T) / 2, max(width, count))
    rank = min(rank, count)
    return Decomposition(energies[:rank], width, count, total, np.ascontiguousarray(vectors[:, :rank]))


# Ranks


def rank_of_share(share: float, rows: int, columns: int, rule: Rule = "round") -> int:
    """k for a share ρ of the smaller side: max(1, round(ρ·min)) as in the source's code, or ⌊ρ·min⌋ as in its text.

    Halves round to even. The floor can be 0: nothing is kept.
    """
    if not 0 <= share <= 1:
        raise GeometryBenchError(f"the share of directions must lie between 0 and 1, not at {share}")
    exact = share * min(rows, columns)
    # 0.29 · 100 is 28.999999999999996 in floating point and means 29.
    return max(1, round(exact)) if rule == "round" else int(np.floor(exact + 1e-9))


def energy_ranks(decomposition: Spectrum, thresholds: Sequence[float]) -> NDArray[np.int64]:
    """Fewest left singular vectors that hold at least η of the energy, (thresholds,).

    GeometryBenchError for a zero matrix or η outside (0, 1].
    """
    if decomposition.rank == 0:
        raise GeometryBenchError("a zero matrix has no energy and spans no subspace: is the update empty?")
    etas = np.asarray(thresholds, dtype=np.float64)
    if not ((etas > 0) & (etas <= 1)).all():
        raise GeometryBenchError(f"shares of energy must lie in (0, 1], not at {etas.tolist()}")
    shares = own_energy(decomposition)
    # The last sum may miss 1 by rounding.
    ranks = np.searchsorted(shares, etas - 1e-12, side="left") + 1
    return np.minimum(ranks, decomposition.rank)


# Energy


def own_energy(decomposition: Spectrum) -> Array:
    """Energy of the decomposed matrix kept by its first k directions, k = 1 … rank, as a share: (rank,)."""
    if decomposition.rank == 0:
        raise GeometryBenchError("a zero matrix has no energy to keep: is the update empty?")
    shares: Array = np.cumsum(decomposition.energies) / decomposition.energies.sum()
    return shares


def energy_by_direction(squared: Array, update: Spectrum) -> Array:
    """Share of an update's energy along each direction of a basis, (rank,), from the squared overlaps (VᵀW)².

    V (rows, rank) is the basis, W the left singular vectors of the update, ``squared`` (rank, rank of the update):
    ‖v_iᵀΔ‖² = Σ_j (v_iᵀw_j)² σ_j². Their sums over the first k, or over k at random, are E_k of Top-K and of Random-K.
    GeometryBenchError for a zero update.
    """
    if update.rank == 0:
        raise GeometryBenchError("a zero update has no energy, so no share of it is defined")
    shares: Array = squared @ (update.energies / update.total)
    return shares


def energy_of_vector(axis: Array, update: Array) -> float:
    """cos² between two 1-D updates (n,): the energy that the scalar projection on one keeps of the other.

    GeometryBenchError where either is zero.
    """
    a, b = (np.asarray(x, dtype=np.float64) for x in (axis, update))
    if a.ndim != 1 or a.shape != b.shape:
        raise GeometryBenchError(f"1-D tensors of shapes {a.shape} and {b.shape} do not fit each other")
    lengths = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    if lengths == 0:
        raise GeometryBenchError("the energy kept of or by a zero vector is not defined: is that tensor unchanged?")
    return float((a @ b / lengths) ** 2)


# Overlap


def _pair(v: Array, w: Array) -> tuple[Array, Array]:
    v, w = np.asarray(v, dtype=np.float64), np.asarray(w, dtype=np.float64)
    if v.ndim != 2 or w.ndim != 2 or len(v) != len(w):
        raise GeometryBenchError(
            f"bases of shapes {v.shape} and {w.shape} do not lie in one space: compare equal layers"
        )
    if 0 in v.shape or 0 in w.shape:
        raise GeometryBenchError("an empty basis overlaps with nothing: is one of the matrices zero?")
    return v, w


def mso_table(v: Array, w: Array) -> Array:
    """MSO of the first i with the first j vectors for all i, j from one product: (d, K_V), (d, K_W) -> (K_V, K_W)."""
    v, w = _pair(v, w)
    sums = np.cumsum(np.cumsum((v.T @ w) ** 2, axis=0), axis=1)
    smaller = np.minimum(np.arange(1, v.shape[1] + 1)[:, None], np.arange(1, w.shape[1] + 1)[None, :])
    table: Array = sums / smaller
    return table


def haar_mean(k_v: int, k_w: int, dimension: int) -> float:
    """max(k_V, k_W)/d: expected MSO of independent uniformly random subspaces."""
    return max(k_v, k_w) / dimension


def haar_deviation(k_v: int, k_w: int, dimension: int) -> float:
    """Standard deviation of the MSO of independent uniformly random subspaces of dimensions k_V and k_W.

    Var‖VᵀW‖² = 2·k_V·k_W·(d − k_V)·(d − k_W) / (d²·(d − 1)·(d + 2)).
    """
    d = dimension
    if d == 1:
        return 0.0
    variance = 2 * k_v * k_w * (d - k_v) * (d - k_w) / (d**2 * (d - 1) * (d + 2))
    return float(np.sqrt(variance) / min(k_v, k_w))


@dataclass(frozen=True)
class OverlapSweep:
    """MSO of two matrices over energy thresholds η: ranks, overlap, Haar mean and deviation, each (thresholds,)."""

    thresholds: Array
    ranks_v: NDArray[np.int64]
    ranks_w: NDArray[np.int64]
    overlap: Array
    haar_mean: Array
    haar_deviation: Array

    @property
    def excess(self) -> Array:
        """Overlap above the Haar expectation."""
        return self.overlap - self.haar_mean


def overlap_sweep(squared: Array, v: Spectrum, w: Spectrum, thresholds: Sequence[float]) -> OverlapSweep:
    """MSO(V, W; η) for every η from the squared overlaps (VᵀW)² of the first left singular vectors (source D).

    As many vectors as the largest η needs. GeometryBenchError where a matrix is zero, or an η lies outside (0, 1].
    """
    ranks_v, ranks_w = energy_ranks(v, thresholds), energy_ranks(w, thresholds)
    sums = _corner_sums(squared, ranks_v, ranks_w)
    pairs = list(zip(ranks_v.tolist(), ranks_w.tolist(), strict=True))
    return OverlapSweep(
        np.asarray(thresholds, dtype=np.float64),
        ranks_v,
        ranks_w,
        sums / np.minimum(ranks_v, ranks_w),
        np.array([haar_mean(i, j, v.rows) for i, j in pairs]),
        np.array([haar_deviation(i, j, v.rows) for i, j in pairs]),
    )


def _corner_sums(matrix: Array, ranks_v: NDArray[np.int64], ranks_w: NDArray[np.int64]) -> Array:
    """Sums over the first i rows and j columns for pairs (i, j) of ranks, from sums between neighbouring ranks."""
    edges_v, edges_w = (np.unique(ranks) for ranks in (ranks_v, ranks_w))
    across = np.add.reduceat(matrix[:, : edges_w[-1]], np.concatenate(([0], edges_w[:-1])), axis=1)
    blocks = np.add.reduceat(across[: edges_v[-1]], np.concatenate(([0], edges_v[:-1])), axis=0)
    corners = np.cumsum(np.cumsum(blocks, axis=0), axis=1)
    sums: Array = corners[np.searchsorted(edges_v, ranks_v), np.searchsorted(edges_w, ranks_w)]
    return sums


# Control bases: the first k columns of one draw are the subspace of dimension k, so that sweeps over k are nested.


def random_basis(rows: int, columns: int, seed: int, *, k: int | None = None) -> Array:
    """The control Random, (rows, min(rows, columns)): top-k left singular vectors of a Gaussian matrix of that shape.

    Those are uniformly distributed whatever the singular values, and so are the columns drawn here; ``k`` draws the first
    k of them only.
    """
    most = min(rows, columns)
    basis: Array = _haar_frame(rows, most if k is None else min(k, most), np.random.default_rng(seed))
    return basis


def _haar_frame(rows: int, k: int, generator: np.random.Generator, dtype: type[np.floating[Any]] = np.float64) -> Any:
    """k orthonormal columns, uniformly distributed, (rows, k), k ≤ rows.

    The reflections of a Gaussian matrix's QR decomposition are independent, each given by a Gaussian vector of what is left
    of the space (Stewart 1980): drawn by themselves they leave only the product to work out, half of the decomposition.
    """
    frame = np.zeros((rows, k), dtype, order="F")
    scales = np.zeros(k, dtype)
    for i in range(k):
        drawn = generator.standard_normal(rows - i)
        length = np.copysign(np.linalg.norm(drawn), drawn[0])
        pivot = drawn[0] + length
        frame[i + 1 :, i] = drawn[1:] / pivot
        scales[i] = pivot / length
    (multiply,) = linalg.get_lapack_funcs(("orgqr",), (frame,))
    made, _, info = multiply(frame, scales, lwork=64 * k, overwrite_a=1)
    if info != 0:
        raise AssertionError(f"orgqr refused argument {-info}")
    return made


def random_frame(rows: int, k: int, seed: int) -> Any:
    """Squared coordinates of a random frame of k orthonormal vectors, uniformly distributed: (rows, k), float32.

    Right to about 1e-6, far below what separates two draws of :func:`random_energy`.
    """
    generator = np.random.default_rng(seed)
    well = rows >= 2 * k
    frame = _coordinates(rows, 0, k, generator) if well else _haar_frame(rows, k, generator, np.float32)
    return np.square(frame, out=frame)


def needs_own_frames(update: Spectrum) -> bool:
    """Whether a matrix is so tall (four times) that a whole frame would be large, and each draw makes a part of its own."""
    return update.rows >= 4 * min(update.rows, update.columns)


def random_energy(update: Spectrum, *, draws: int, seed: int, frame: Any = None) -> Array:
    """E_k of Random for k = 1 … min(rows, columns), several nested draws: (draws, min(rows, columns)).

    Of the random basis only its product with the update's left singular vectors matters, which is distributed as the
    coordinates of a random frame of ``rank`` vectors: no basis of the update's size is drawn. One frame serves all draws,
    each of which takes its coordinates in another random order: a draw is distributed exactly as one from a basis of its
    own, and draws are uncorrelated, since over all coordinates the energies sum to 1. For the same reason one ``frame``,
    as :func:`random_frame` makes it, can serve many updates with as many rows, under other seeds; it has at least ``rank``
    vectors. A matrix that ``needs_own_frames`` takes none: each draw has one of its own, in the first coordinates only.
    GeometryBenchError for a zero update.
    """
    if update.rank == 0:
        raise GeometryBenchError("a zero update has no energy, so no share of it is defined")
    most, rows, rank = min(update.rows, update.columns), update.rows, update.rank
    generator = np.random.default_rng(seed)
    shares = (update.energies / update.energies.sum()).astype(np.float32)
    if needs_own_frames(update):
        parts = (_coordinates(most, rows - most, rank, generator) for _ in range(draws))
        drawn = [np.square(part, out=part) @ shares for part in parts]
    else:
        frame = random_frame(rows, rank, seed) if frame is None else frame[:, :rank]
        energies = (frame @ shares).astype(np.float64)
        energies /= energies.sum()
        drawn = [generator.permutation(energies)[:most] for _ in range(draws)]
    curves: Array = np.cumsum(np.array(drawn, dtype=np.float64).reshape(draws, most), axis=1)
    return curves


def _coordinates(first: int, others: int, rank: int, generator: np.random.Generator) -> Any:
    """The first coordinates of a random frame of ``rank`` vectors in first + others ≥ 2 · rank dimensions, (first, rank).

    Gaussian columns made orthonormal by the Cholesky factor of their Gram matrix, well conditioned in that many dimensions.
    Other coordinates, none or at least ``rank``, are not drawn but for their Gram matrix, a Wishart matrix, by Bartlett's
    factor: χ on the diagonal, Gaussians above.
    """
    drawn = generator.standard_normal((first, rank), np.float32)
    gram = drawn.T @ drawn
    if others:
        factor = np.triu(generator.standard_normal((rank, rank), np.float32), 1)
        factor[np.diag_indices(rank)] = np.sqrt(generator.chisquare(others - np.arange(rank)))
        gram += factor.T @ factor
    lower = linalg.cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
    return linalg.solve_triangular(lower, drawn.T, lower=True, check_finite=False).T


# Projections


def project_vector(axis: Array, update: Array, scheme: Scheme) -> Array:
    """The part of a 1-D update (a bias, a norm's gain) along one axis, or what is left without it: both (n,).

    GeometryBenchError where the axis is zero.
    """
    direction, delta = (np.asarray(x, dtype=np.float64) for x in (axis, update))
    if direction.ndim != 1 or direction.shape != delta.shape:
        raise GeometryBenchError(f"1-D tensors of shapes {direction.shape} and {delta.shape} do not fit each other")
    if not (np.isfinite(direction).all() and np.isfinite(delta).all()):
        raise GeometryBenchError("a 1-D tensor holds NaN or infinity: check the checkpoint")
    length = float(np.linalg.norm(direction))
    if length == 0:
        raise GeometryBenchError("the axis of a 1-D projection is zero: is that tensor of the update unchanged?")
    direction = direction / length
    parallel: Array = (direction @ delta) * direction
    return parallel if scheme == "parallel" else delta - parallel


# Floor for activations


def matched_covariance_null(
    pooled: Decomposition, ranks_v: Sequence[int], ranks_w: Sequence[int], *, draws: int = 100, seed: int = 0
) -> Array:
    """MSO of random subspaces that prefer the directions in which the data vary, (draws, pairs of ranks): the floor.

    A subspace is spanned by random vectors C^½z of the pooled covariance C, orthonormalised (Elsayed et al. 2016).
    Activations fill few of their dimensions, so any two sets overlap more than the Haar expectation; this is by how much.
    """
    if pooled.rank == 0:
        raise GeometryBenchError("activations without spread have no covariance to match: check the layer")
    pairs = list(zip(ranks_v, ranks_w, strict=True))
    most_v, most_w = max(i for i, _ in pairs), max(j for _, j in pairs)
    if min(min(pair) for pair in pairs) < 1 or max(most_v, most_w) > pooled.rank:
        raise GeometryBenchError(f"ranks must lie between 1 and {pooled.rank}, the rank of the pooled activations")
    generator = np.random.default_rng(seed)
    sigma = np.sqrt(pooled.energies / pooled.energies[0])[:, None]
    at = np.array(pairs) - 1
    rows = []
    for _ in range(draws):
        v, w = (np.linalg.qr(sigma * generator.standard_normal((pooled.rank, k)))[0] for k in (most_v, most_w))
        rows.append(mso_table(v, w)[at[:, 0], at[:, 1]])
    return np.array(rows)
