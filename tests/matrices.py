"""Updates of awkward shapes, and the shares of energy at which subspaces are compared."""

from __future__ import annotations

import numpy as np

ETAS = [0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99]
SHAPES = {
    "square": (24, 24),
    "tall": (50, 16),
    "wide": (16, 50),
    "deficient": (30, 20),
    "deficient wide": (20, 30),
    "ill-conditioned": (60, 12),
    "thin": (40, 1),
    "flat": (1, 40),
}


def matrix(kind: str, seed: int) -> np.ndarray:
    """An update of one of the shapes in float32; the deficient ones have rank 5."""
    rows, columns = SHAPES[kind]
    generator = np.random.default_rng(seed)
    if kind.startswith("deficient"):
        # Whole numbers, so that the rank is exact.
        return (generator.integers(-4, 5, (rows, 5)) @ generator.integers(-4, 5, (5, columns))).astype(np.float32)
    smallest = 1e-4 if kind == "ill-conditioned" else 0.05
    return (generator.standard_normal((rows, columns)) * np.geomspace(1, smallest, columns) * 1e-3).astype(np.float32)
