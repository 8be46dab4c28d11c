"""Distributions over finitely many outcomes, given by the logarithms of their probabilities (natural logarithms)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Array = NDArray[Any]


def kl_divergence(log_p: Array, log_q: Array) -> Array:
    """Kullback-Leibler divergence KL(p ‖ q) in nats over the last axis: (..., k) with (..., k) -> (...), float64.

    An outcome that p does not have counts 0; one that p has and q has not makes the divergence infinite.
    """
    p, q = np.asarray(log_p, dtype=np.float64), np.asarray(log_q, dtype=np.float64)
    has = p > -np.inf
    difference = np.subtract(p, q, out=np.zeros(np.broadcast_shapes(p.shape, q.shape)), where=has)
    divergence: Array = (np.exp(p) * difference).sum(axis=-1)
    return divergence


def log_odds(log_p: Array, outcomes: Sequence[int] | NDArray[np.bool_]) -> Array:
    """log P(S) − log(1 − P(S)) of a set S of outcomes, in nats: (..., k) -> (...), float64.

    ``outcomes`` are the places of S, or flags (..., k) where S is another one in each row. Both masses are summed by
    themselves, so that nothing is lost where P(S) is near 0 or 1. Infinite where S holds no mass or all of it.
    """
    values = np.asarray(log_p, dtype=np.float64)
    inside = np.asarray(outcomes)
    if inside.dtype != bool:
        inside = np.isin(np.arange(values.shape[-1]), inside)
    inside = np.broadcast_to(inside, values.shape)
    masses = (logsumexp(np.where(flags, values, -np.inf), axis=-1) for flags in (inside, ~inside))
    odds: Array = np.subtract(*masses)
    return odds
