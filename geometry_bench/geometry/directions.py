"""Axes between conditions, their cosines, and the two arithmetics in which they are computed.

States are pooled block outputs, shape (prompts, layers, width). An axis is a difference of two means over prompts, shape
(layers, width), never normalised. A profile is one number a layer, shape (layers,).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Arithmetic:
    """How means, differences and cosines are rounded.

    ``mean`` maps states (prompts, layers, width) to (layers, width); ``subtract`` two axes to one; ``cosine`` two axes
    (layers, width) to a profile (layers,). Cosines with a zero vector are NaN: they are undefined, not zero.
    """

    name: str
    mean: Callable[[Array], Array]
    subtract: Callable[[Array, Array], Array]
    cosine: Callable[[Array, Array], Array]


def mean(states: Array) -> Array:
    """Mean over prompts in float64: (prompts, layers, width) -> (layers, width)."""
    means: Array = np.asarray(states, dtype=np.float64).mean(axis=0)
    return means


def cosine(a: Array, b: Array) -> Array:
    """Cosines over the last axis in float64: (..., width) with (..., width) -> (...). NaN where a norm is zero."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    dots = np.einsum("...d,...d->...", a, b)
    values: Array = np.divide(dots, norms, out=np.full(np.shape(dots), np.nan), where=norms > 0)
    return values


def _bfloat16_mean(states: Array) -> Array:
    import torch

    return torch.from_numpy(np.asarray(states, dtype=np.float32)).bfloat16().mean(dim=0).float().numpy()


def _bfloat16_subtract(a: Array, b: Array) -> Array:
    import torch

    left, right = (torch.from_numpy(np.asarray(x, dtype=np.float32)).bfloat16() for x in (a, b))
    return (left - right).float().numpy()


def _bfloat16_cosine(a: Array, b: Array) -> Array:
    import torch

    left, right = (torch.from_numpy(np.asarray(x, dtype=np.float32)).bfloat16() for x in (a, b))
    values = torch.nn.functional.cosine_similarity(left, right, dim=-1).float().numpy()
    degenerate = (np.linalg.norm(a, axis=-1) == 0) | (np.linalg.norm(b, axis=-1) == 0)
    return np.where(degenerate, np.nan, values)


FLOAT64 = Arithmetic("float64", mean, np.subtract, cosine)

BFLOAT16 = Arithmetic("bfloat16", _bfloat16_mean, _bfloat16_subtract, _bfloat16_cosine)
"""The arithmetic of source A's scripts: every intermediate result is a bfloat16 tensor, so that a vector's cosine with
itself can come out as 1.0078. It exists for the comparison with published values and is used for nothing else."""


def axis(condition: Array, reference: Array, arithmetic: Arithmetic = FLOAT64) -> Array:
    """mean(condition) − mean(reference): two states (prompts, layers, width) -> (layers, width)."""
    return arithmetic.subtract(arithmetic.mean(condition), arithmetic.mean(reference))


def pair_cosines(axes: Array) -> Array:
    """Cosines of all pairs i < j of axes (axes, width) -> (pairs,), in the order of ``numpy.triu_indices``."""
    rows, columns = np.triu_indices(len(axes), k=1)
    return cosine(axes[rows], axes[columns])


def split_reference_cosine(
    a: Array, b: Array, reference: Array, draws: int | None = None, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation, over splits of the prompts into halves, of the cosine of two axes that share no state.

    ``a``, ``b``, ``reference`` are states at one layer, (prompts, width). One half of the prompts gives axis a, the other
    axis b, each against its own half of the reference: the noise of one shared reference mean cannot raise the cosine.
    What remains shared is the reference's wording itself; only control prompts speak to that. All splits are used up to
    ``draws`` of them (default: all, which for 8 prompts are 70).
    """
    import itertools

    n = len(reference)
    halves = np.array(list(itertools.combinations(range(n), n // 2)) if n <= 12 else [], dtype=int)
    if not len(halves):
        generator = np.random.default_rng(seed)
        halves = np.stack([generator.permutation(n)[: n // 2] for _ in range(draws or 200)])
    elif draws is not None and draws < len(halves):
        halves = halves[np.random.default_rng(seed).choice(len(halves), draws, replace=False)]
    first = np.zeros((len(halves), n), dtype=np.float64)
    np.put_along_axis(first, halves, 1.0, axis=1)
    second = 1.0 - first
    a, b, reference = (np.asarray(x, dtype=np.float64) for x in (a, b, reference))
    left = first @ (a - reference) / first.sum(axis=1, keepdims=True)
    right = second @ (b - reference) / second.sum(axis=1, keepdims=True)
    values = cosine(left, right)
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0
