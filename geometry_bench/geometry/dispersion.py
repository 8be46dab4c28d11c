"""How many directions a set of vectors spans."""

from __future__ import annotations

import numpy as np

from geometry_bench.geometry.directions import Array


def spectrum(vectors: Array, *, normalise: bool = True) -> Array:
    """Shares of second moment along the principal directions, descending: (vectors, width) -> (min(vectors, width),).

    The second moment is taken about the origin, not about the mean: the question is whether the vectors point one way, and
    centring would take away the very direction they have in common. With ``normalise`` all vectors have equal weight.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    if normalise:
        vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    energy = np.linalg.svd(vectors, compute_uv=False) ** 2
    shares: Array = energy / energy.sum()
    return shares


def participation_ratio(shares: Array) -> float:
    """(Σλ)² / Σλ²: 1 for one direction, n for n directions of equal share."""
    shares = np.asarray(shares, dtype=np.float64)
    return float(shares.sum() ** 2 / (shares**2).sum())
