"""One float64 decomposition of each update of a tensor, and the overlaps of several, from which every number is computed.

The Gram matrix of the smaller side is summed over slices of the longer one, so that a matrix with more rows than columns
is never held whole, nor in float64. Its left singular vectors are not formed either: what is wanted of them are products,
VᵀW between two updates, which need one product of the updates and the vectors of the small side.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import linalg

from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.subspaces import Spectrum, numerical_rank
from geometry_bench.safetensor import Array32, slices
from geometry_bench.storage import digest
from geometry_bench.updates.store import Store

VERSION = 1
"""Raised when decompositions would come out otherwise, so that stored ones are made again."""

# Up to this ratio of the largest to the smallest energy kept, left vectors formed as ΔV/σ are orthogonal to within
# about 1e-11 without help.
_WELL_CONDITIONED = 1e-11 / np.finfo(np.float64).eps


@dataclass(frozen=True)
class Sliced:
    """A matrix that is read in slices of float32: of all rows and some columns where it is ``wide``, else of some rows."""

    rows: int
    columns: int
    read: Callable[[], Iterator[Array32]]

    @property
    def wide(self) -> bool:
        """Whether it has no more rows than columns."""
        return self.rows <= self.columns


def in_memory(matrix: Array32) -> Sliced:
    """A matrix that is held already."""
    rows, columns = matrix.shape
    if rows <= columns:
        return Sliced(rows, columns, lambda: (matrix[:, first:last] for first, last in slices((columns, rows))))
    return Sliced(rows, columns, lambda: (matrix[first:last] for first, last in slices((rows, columns))))


@dataclass(frozen=True)
class Factors:
    """Spectrum of an update and the singular vectors of its smaller side, (min(rows, columns), rank).

    They are the left ones where the matrix is ``wide`` (no more rows than columns), else the right ones.
    """

    spectrum: Spectrum
    vectors: Array

    @property
    def wide(self) -> bool:
        """Whether ``vectors`` are the left singular vectors."""
        return self.spectrum.rows <= self.spectrum.columns

    @property
    def well_conditioned(self) -> bool:
        """Whether ΔV/σ gives left vectors at right angles as they are."""
        energies = self.spectrum.energies
        return len(energies) == 0 or bool(energies[0] <= _WELL_CONDITIONED * energies[-1])


# Decomposing


def factorise(matrices: Sequence[Sliced], *, device: str | None = None) -> Iterator[Factors]:
    """Decompositions of matrices of one shape, in order.

    ``device`` is one of torch; None takes CUDA where there is a GPU (all matrices at once) and SciPy otherwise (one after
    another). Entries must be finite, as read from a checkpoint.
    """
    device = _gpu() if device is None else device
    if device is not None:
        yield from _on_device(matrices, device)
        return
    for matrix in matrices:
        gram = _gram(matrix)
        total = float(np.trace(gram))
        if total == 0:
            yield _zero(matrix)
            continue
        # dsyevr takes half of dsyevd's memory, for a few per cent of time.
        values, vectors = linalg.eigh(gram, lower=True, overwrite_a=True, check_finite=False, driver="evr")
        yield _factors(values[::-1], vectors[:, ::-1], matrix, total)


def factorise_kept(matrices: Sequence[Sliced], keys: Sequence[Mapping[str, Any]], store: Store | None) -> list[Factors]:
    """The same, from the store where it holds them; ``keys`` say what each matrix follows from."""
    if store is None:
        return list(factorise(matrices))
    names = [digest({**key, "version": VERSION}) for key in keys]
    found = [_from_store(store, name, matrix) for name, matrix in zip(names, matrices, strict=True)]
    made = factorise([matrix for matrix, kept in zip(matrices, found, strict=True) if kept is None])
    complete = []
    for name, kept in zip(names, found, strict=True):
        if kept is None:
            kept = next(made)
            total = np.array([kept.spectrum.total])
            store.put(name, {"vectors": kept.vectors, "energies": kept.spectrum.energies, "total": total})
        complete.append(kept)
    return complete


def _from_store(store: Store, name: str, matrix: Sliced) -> Factors | None:
    kept = store.get(name)
    if kept is None:
        return None
    return Factors(Spectrum(kept["energies"], matrix.rows, matrix.columns, float(kept["total"][0])), kept["vectors"])


def _gram(matrix: Sliced) -> Array:
    """Lower half of the Gram matrix of the smaller side, in float64 and Fortran order."""
    small = min(matrix.rows, matrix.columns)
    gram: Array = np.zeros((small, small), order="F")
    for part in matrix.read():
        # Turned, so that BLAS sees columns one after another and makes no copy.
        values = part.astype(np.float64).T
        gram = linalg.blas.dsyrk(1.0, values, trans=int(matrix.wide), beta=1.0, c=gram, lower=1, overwrite_c=1)
    return gram


def _zero(matrix: Sliced) -> Factors:
    small = min(matrix.rows, matrix.columns)
    return Factors(Spectrum(np.zeros(0), matrix.rows, matrix.columns, 0.0), np.zeros((small, 0)))


def _factors(values: Array, vectors: Array, matrix: Sliced, total: float) -> Factors:
    """From eigenvalues and vectors in descending order."""
    energies = np.maximum(values, 0.0)
    rank = numerical_rank(energies, max(matrix.rows, matrix.columns))
    # The views on what LAPACK wrote are kept: a copy would be one more matrix.
    return Factors(Spectrum(energies[:rank], matrix.rows, matrix.columns, total), vectors[:, :rank])


def _gpu() -> str | None:
    """ "cuda" where torch can use one. Importing torch costs a second and 200 MB, so the driver is looked for first."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    import torch

    return "cuda" if torch.cuda.is_available() else None


def _on_device(matrices: Sequence[Sliced], device: str) -> Iterator[Factors]:
    """Gram matrices and their eigenvectors by torch, those of all matrices in one call."""
    import torch

    if not matrices:
        return
    small = min(matrices[0].rows, matrices[0].columns)
    grams = torch.zeros((len(matrices), small, small), dtype=torch.float64, device=device)
    for gram, matrix in zip(grams, matrices, strict=True):
        for part in matrix.read():
            values = torch.from_numpy(np.ascontiguousarray(part)).to(device).double()
            gram += values @ values.T if matrix.wide else values.T @ values
    totals = grams.diagonal(dim1=1, dim2=2).sum(dim=1).tolist()
    values, vectors = torch.linalg.eigh(grams)
    for index, (matrix, total) in enumerate(zip(matrices, totals, strict=True)):
        if total == 0:
            yield _zero(matrix)
            continue
        descending = values[index].flip(0).cpu().numpy()
        yield _factors(descending, vectors[index].flip(1).cpu().numpy(), matrix, total)


# Overlaps


def overlap(v: Factors, w: Factors, of_v: Sliced, of_w: Sliced) -> Array:
    """VᵀW of the left singular vectors of two updates of one tensor, (rank of V, rank of W).

    A matrix taller than wide is read once more: with X = Δ_VᵀΔ_W, VᵀW = Σ_V⁻¹ R_VᵀX R_W Σ_W⁻¹ for right vectors R. Where
    small singular values would cost the left vectors their right angles, these are formed slice by slice and their own
    Gram matrices put them right.

    Raises:
        GeometryBenchError: one of the updates is zero, or their shapes differ.
    """
    if (of_v.rows, of_v.columns) != (of_w.rows, of_w.columns):
        raise GeometryBenchError(
            f"Updates of shapes {(of_v.rows, of_v.columns)} and {(of_w.rows, of_w.columns)} do not lie in one space."
        )
    if v.spectrum.rank == 0 or w.spectrum.rank == 0:
        raise GeometryBenchError(
            "A zero update spans no subspace, so that it overlaps with none; compare changed tensors."
        )
    if v.wide:
        inner: Array = v.vectors.T @ w.vectors
        return inner
    turn_v, turn_w = _scaled(v), _scaled(w)
    if v.well_conditioned and w.well_conditioned:
        product = np.zeros((of_v.columns, of_v.columns))
        for one, other in zip(of_v.read(), of_w.read(), strict=True):
            product += one.astype(np.float64).T @ other.astype(np.float64)
        inner = (turn_v.T @ product) @ turn_w
        return inner
    own_v, own_w = (np.zeros((turn.shape[1],) * 2) for turn in (turn_v, turn_w))
    inner = np.zeros((turn_v.shape[1], turn_w.shape[1]))
    for one, other in zip(of_v.read(), of_w.read(), strict=True):
        left_v, left_w = one.astype(np.float64) @ turn_v, other.astype(np.float64) @ turn_w
        own_v += left_v.T @ left_v
        own_w += left_w.T @ left_w
        inner += left_v.T @ left_w
    return _orthonormalised(own_w, _orthonormalised(own_v, inner).T).T


def _scaled(factors: Factors) -> Array:
    """R/σ, which turns a matrix taller than wide into its left singular vectors."""
    scaled: Array = factors.vectors / np.sqrt(factors.spectrum.energies)
    return scaled


def _orthonormalised(own: Array, product: Array) -> Array:
    """L⁻¹ · product, for L Lᵀ = ``own``, the Gram matrix of vectors that ought to be orthonormal.

    The same as to orthonormalise the vectors one after another before the product is taken.
    """
    try:
        lower = linalg.cholesky(own, lower=True, check_finite=False)
    except linalg.LinAlgError:
        raise GeometryBenchError(
            "An update is so close to a lower rank that its left singular vectors cannot be told from rounding."
        ) from None
    orthonormalised: Array = linalg.solve_triangular(lower, product, lower=True, check_finite=False)
    return orthonormalised
