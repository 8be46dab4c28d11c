"""Prompts that come in two classes and in topics: who is drawn, left out, split and relabelled together.

Prompts of one topic resemble one another, so intervals resample topics and not prompts. Everywhere here ``labels`` is
(prompts,), True for the harmful class; ``clusters`` is one topic name for each prompt, or None for a cluster each.
A resample is a row of weights (prompts,): how often each prompt counts. Weighted statistics then serve jackknife, bootstrap
and held-out halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.directions import Array

Clusters = Sequence[Any] | NDArray[Any] | None


def two_classes(labels: Array | Sequence[bool]) -> NDArray[np.bool_]:
    """Labels (prompts,) as booleans; at least two prompts of each class, or GeometryBenchError."""
    flags = np.asarray(labels).astype(bool)
    if flags.ndim != 1:
        raise GeometryBenchError(f"labels must be one flag a prompt, but have shape {flags.shape}")
    harmful, safe = int(flags.sum()), int((~flags).sum())
    if min(harmful, safe) < 2:
        raise GeometryBenchError(
            f"each class needs at least two prompts, but there are {safe} safe and {harmful} harmful ones: add prompts"
        )
    return flags


def cluster_codes(clusters: Clusters, prompts: int) -> NDArray[np.int64]:
    """Topics numbered 0 … C−1, one number a prompt (prompts,), in the order of first appearance."""
    if clusters is None:
        return np.arange(prompts)
    if len(clusters) != prompts:
        raise GeometryBenchError(f"there are {prompts} prompts but {len(clusters)} topics: give one topic a prompt")
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in np.asarray(clusters).tolist()], dtype=np.int64)


def cluster_kinds(labels: Array, codes: Array) -> NDArray[np.int64]:
    """What each topic holds (topics,): 1 safe prompts only, 2 harmful prompts only, 3 both."""
    total = int(codes.max()) + 1
    safe = np.bincount(codes[~labels], minlength=total) > 0
    harmful = np.bincount(codes[labels], minlength=total) > 0
    kinds: NDArray[np.int64] = safe.astype(np.int64) + 2 * harmful.astype(np.int64)
    return kinds


def topics_per_class(labels: Array, clusters: Clusters = None) -> tuple[int, int]:
    """Number of topics that hold safe and that hold harmful prompts."""
    flags = two_classes(labels)
    kinds = cluster_kinds(flags, cluster_codes(clusters, len(flags)))
    return int((kinds & 1 > 0).sum()), int((kinds & 2 > 0).sum())


def need_topics(labels: Array, clusters: Clusters, least: int, purpose: str) -> None:
    """Raise GeometryBenchError where a class has fewer than ``least`` topics."""
    safe, harmful = topics_per_class(labels, clusters)
    if min(safe, harmful) < least:
        raise GeometryBenchError(
            f"{purpose} needs at least {least} topics in each class, but there are {safe} safe and {harmful} harmful ones: "
            "add topics, or leave topics out so that each prompt stands alone"
        )


def leave_one_cluster_out(clusters: Clusters, prompts: int) -> Array:
    """Weights (topics, prompts): row c is 1 everywhere but on topic c."""
    codes = cluster_codes(clusters, prompts)
    weights: Array = (codes[None, :] != np.arange(codes.max() + 1)[:, None]).astype(np.float64)
    return weights


def bootstrap_counts(labels: Array, clusters: Clusters = None, *, draws: int = 1000, seed: int = 0) -> Array:
    """How often each prompt is drawn, (draws, prompts), when topics are drawn with replacement.

    Topics are drawn among those of the same kind (safe only, harmful only, both), so that no draw loses a class.
    """
    flags = two_classes(labels)
    codes = cluster_codes(clusters, len(flags))
    kinds = cluster_kinds(flags, codes)
    generator = np.random.default_rng(seed)
    counts = np.zeros((draws, len(kinds)))
    for kind in np.unique(kinds):
        members = np.flatnonzero(kinds == kind)
        counts[:, members] = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), size=draws)
    return counts[:, codes]


def split_halves(labels: Array, clusters: Clusters = None, *, splits: int = 20, seed: int = 0) -> NDArray[np.bool_]:
    """Random halves of the topics, (splits, prompts), True for the first half; both halves hold both classes.

    Topics are halved among those of the same kind; the odd one of a kind falls on either side at random. Raises
    GeometryBenchError where a class has one topic only.
    """
    flags = two_classes(labels)
    need_topics(flags, clusters, 2, "splitting into halves")
    codes = cluster_codes(clusters, len(flags))
    kinds = cluster_kinds(flags, codes)
    generator = np.random.default_rng(seed)
    halves = np.empty((splits, len(flags)), dtype=bool)
    for row in range(splits):
        first = np.zeros(len(kinds), dtype=bool)
        # Kinds with an odd one out take turns in which half gets it, so that halves stay as even as they can. A class of
        # one mixed topic and one of its own could still end up on one side alone: such a draw is made again.
        for _ in range(1000):
            first[:] = False
            extra = int(generator.integers(2))
            for kind in np.unique(kinds):
                members = generator.permutation(np.flatnonzero(kinds == kind))
                size = (len(members) + extra) // 2
                extra = 1 - extra if len(members) % 2 else extra
                first[members[:size]] = True
            half = first[codes]
            if all((half & flags).any() and (half & ~flags).any() for half in (half, ~half)):
                break
        else:
            raise GeometryBenchError("topics cannot be split into halves that both hold both classes: add topics")
        halves[row] = first[codes]
    return halves


def permuted_labels(
    labels: Array,
    clusters: Clusters = None,
    *,
    draws: int = 1000,
    seed: int = 0,
    halves: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Labels under the null that class does not matter, (draws, prompts), with as many of each class as there are.

    Labels are shuffled within each topic that holds both classes, and among all prompts of the topics of one class. Without
    topics this is the plain permutation of labels. Both sides of all ``halves`` (splits, prompts) hold both classes, as
    they do under the labels given: draws that would leave one without are made again.
    """
    flags = two_classes(labels)
    codes = cluster_codes(clusters, len(flags))
    strata = np.where(cluster_kinds(flags, codes)[codes] == 3, codes, -1)
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    generator = np.random.default_rng(seed)
    drawn, wrong = np.empty((draws, len(flags)), dtype=bool), np.arange(draws)
    for _ in range(1000):
        for prompts in members:
            drawn[np.ix_(wrong, prompts)] = generator.permuted(np.tile(flags[prompts], (len(wrong), 1)), axis=1)
        wrong = wrong[_loses_a_class(drawn[wrong], halves)]
        if not len(wrong):
            return drawn
    raise GeometryBenchError("labels cannot be permuted so that all halves hold both classes: add prompts or topics")


def _loses_a_class(drawn: NDArray[np.bool_], halves: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Which labellings (draws, prompts) leave a side of a split without one of the classes: (draws,)."""
    if halves is None:
        return np.zeros(len(drawn), dtype=bool)
    sides = np.concatenate([halves, ~halves]).astype(np.int64)
    counts = [flags.astype(np.int64) @ sides.T for flags in (drawn, ~drawn)]
    lost: NDArray[np.bool_] = (np.minimum(*counts) == 0).any(axis=1)
    return lost
