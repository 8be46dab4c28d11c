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


# Axes that share the noise of one reference mean


def _messages_last_but_one(states: Array) -> Array:
    return np.moveaxis(np.asarray(states, dtype=np.float64), 0, -2)


def cross_products(a: Array, b: Array) -> Array:
    """Mean of ⟨aᵢ, bⱼ⟩ over different messages i ≠ j: (..., messages, width) with the same -> (...).

    Unbiased for the inner product of the two means, whatever noise aᵢ and bᵢ of one message share.
    """
    count = a.shape[-2]
    of_sums = np.einsum("...d,...d->...", a.sum(axis=-2), b.sum(axis=-2))
    values: Array = (of_sums - np.einsum("...md,...md->...", a, b)) / (count * (count - 1))
    return values


def cross_gram(axes: Array) -> Array:
    """The same of all pairs of axes, (axes, messages, width) -> (axes, axes)."""
    count, sums = axes.shape[1], axes.sum(axis=1)
    gram = sums @ sums.T
    for message in range(count):
        gram -= axes[:, message] @ axes[:, message].T
    products: Array = gram / (count * (count - 1))
    return products


def cross_cosine(a: Array, b: Array) -> Array:
    """Cosine of two axes, each by message, from products of different messages: (..., messages, width) -> (...).

    Where two axes have a reference in common its noise is in both, and the cosine of their means is drawn toward one half
    (toward less, if the truth is more), by more the longer the noise is beside the axes. Here no message meets itself, as
    with halves of the reference, averaged over all splits. It can exceed 1; NaN where an axis is no longer than its noise.
    """
    squares = cross_products(a, a), cross_products(b, b)
    return _over_lengths(cross_products(a, b), *squares)


def gram_cosines(gram: Array) -> Array:
    """Cosines from inner products (n, n) -> (n, n); NaN where a squared length is not positive."""
    squares = np.diag(gram)
    return _over_lengths(gram, squares[:, None], squares[None, :])


def _over_lengths(products: Array, first: Array, second: Array) -> Array:
    defined = (first > 0) & (second > 0)
    lengths = np.sqrt(np.where(defined, first * second, 1.0))
    values: Array = np.where(defined, products / lengths, np.nan)
    return values


CROSS_FITTED = Arithmetic("float64", _messages_last_but_one, np.subtract, cross_cosine)
"""Axes are kept by message, (layers, messages, width), and a message is never multiplied by itself."""


def noise_ratio(condition: Array, reference: Array) -> Array:
    """Noise of an axis over its length: two states (prompts, layers, width) -> (layers,).

    The root of tr Cov / n of the differences, prompt by prompt, over the length of their mean; NaN where that is zero.
    """
    differences = np.asarray(condition, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    noise = np.sqrt(differences.var(axis=0, ddof=1).sum(axis=-1) / len(differences))
    lengths = np.linalg.norm(differences.mean(axis=0), axis=-1)
    ratio: Array = np.divide(noise, lengths, out=np.full(noise.shape, np.nan), where=lengths > 0)
    return ratio


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
