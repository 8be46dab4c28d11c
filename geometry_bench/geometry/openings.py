"""First tokens of answers: which of them a model opens with on one class of requests only, and the odds that it does.

Of each prompt the ``k`` likeliest next tokens are known, likeliest first: ids and log-probabilities (prompts, k).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geometry_bench.geometry import categorical
from geometry_bench.geometry.directions import Array

LEAST_MORE = 0.02
"""By how much a token's mean probability after requests of a class exceeds that of the other where it is an opening."""

TIMES = 1.5
"""How many times likelier it is at least."""

SEEN, WIDELY = 0.01, 0.6
"""Probability that a token has after this share of its class's requests at least: a refusal opens alike whatever was asked,
the first word of a title does not."""

LEAST_MARGIN = 1.0
"""Nats that the classes must lie apart, or a shift is a share of next to nothing."""

LEAST_MASS = 0.05
"""By how much all openings together are likelier after their class; below that, the model opens its answers alike."""

FARTHEST = 15.0
"""Log-odds are cut here: farther out they are rounding."""


KEPT = 32
"""Likeliest next tokens that are kept of each prompt."""


def likeliest(log_p: Array, most: int = KEPT) -> tuple[NDArray[Any], Array]:
    """Of log-probabilities (prompts, vocabulary) the ``most`` likeliest of each prompt, likeliest first: ids and values."""
    kept = min(most, log_p.shape[1])
    ids = np.argpartition(-log_p, kept - 1, axis=1)[:, :kept]
    ids = np.take_along_axis(ids, np.argsort(-np.take_along_axis(log_p, ids, axis=1), axis=1), axis=1).astype(np.int32)
    return ids, np.take_along_axis(log_p, ids, axis=1).astype(np.float32)


def mean_shares(ids: NDArray[Any], log_p: Array) -> dict[int, float]:
    """Mean probability of each token that is among the likeliest of any prompt; unlisted ones count as 0."""
    tokens, where = np.unique(ids, return_inverse=True)
    sums = np.bincount(where.reshape(-1), weights=np.exp(log_p.astype(np.float64)).reshape(-1))
    return dict(zip(tokens.tolist(), (sums / len(ids)).tolist(), strict=True))


def openings(ids: NDArray[Any], log_p: Array, labels: NDArray[np.bool_]) -> tuple[int, ...]:
    """Tokens that open answers to requests of the True class more often than to the others, likeliest first.

    None at all where the model opens its answers to both classes alike.
    """
    ours, others = (mean_shares(ids[labels == flag], log_p[labels == flag]) for flag in (True, False))
    more = {token: p - others.get(token, 0.0) for token, p in ours.items() if p >= TIMES * others.get(token, 0.0)}
    wide = _widely(ids[labels], log_p[labels])
    found = {token: by for token, by in more.items() if by >= LEAST_MORE and token in wide}
    if sum(found.values()) < LEAST_MASS:
        return ()
    return tuple(sorted(found, key=lambda token: -ours[token]))


def _widely(ids: NDArray[Any], log_p: Array) -> set[int]:
    """Tokens that are likely after most of the prompts."""
    tokens, counts = np.unique(ids[log_p >= np.log(SEEN)], return_counts=True)
    return set(tokens[counts >= WIDELY * len(ids)].tolist())


def log_odds(ids: NDArray[Any], log_p: Array, tokens: tuple[int, ...]) -> Array:
    """log P(tokens) − log(1 − P(tokens)) of the next token, (prompts,), cut at ±``FARTHEST``.

    A token that is not among the known ones counts as half as likely as the least likely of these.
    """
    listed = np.isin(ids, tokens)
    p = np.exp(log_p.astype(np.float64))
    absent = (len(tokens) - listed.sum(axis=1)) * p[:, -1] / 2
    unknown = np.maximum(1 - p.sum(axis=1) - absent, 0.0)
    with np.errstate(divide="ignore"):
        whole = np.log(np.column_stack([p, absent, unknown]))
    flags = np.column_stack([listed, np.ones_like(absent, dtype=bool), np.zeros_like(absent, dtype=bool)])
    return np.clip(categorical.log_odds(whole, flags), -FARTHEST, FARTHEST)
