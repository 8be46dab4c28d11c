"""Sets of prompts in groups of whole topics: subspaces and overlaps of any selection of them, from the groups' moments.

A group is all that is resampled: intervals leave one out, ceilings split a set's groups into halves, nulls permute groups
among sets. Each such selection is a row of weights (groups,), and its second moment a weighted sum of the groups' own, so
that nothing here grows with the number of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.clusters import Clusters, cluster_codes
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.moments import about_mean
from geometry_bench.geometry.subspaces import (
    Decomposition,
    decompose_second_moment,
    energy_ranks,
    haar_mean,
    mso_table,
)

NO_SPREAD = 1e-9
"""Share of a set's energy below which its spread about the mean is rounding: float32 activations are good to 2e-5."""


def deal_topics(clusters: Clusters, prompts: int, groups: int, *, seed: int = 0) -> NDArray[np.int64]:
    """A group for each prompt (prompts,), numbered from 0: whole topics, folded into at most ``groups`` of even size.

    The largest topic goes first, each to the group that is smallest so far; ties are broken by ``seed``. Prompts that are
    topics of their own are thereby spread evenly.
    """
    codes = cluster_codes(clusters, prompts)
    sizes = np.bincount(codes)
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled = np.zeros(min(groups, len(sizes)), dtype=np.int64)
    group_of = np.zeros(len(sizes), dtype=np.int64)
    for topic in order:
        group_of[topic] = filled.argmin()
        filled[group_of[topic]] += sizes[topic]
    dealt: NDArray[np.int64] = group_of[codes]
    return dealt


@dataclass(frozen=True)
class Summed:
    """Moments of one group at one block: mean (width,) and Σ(x − mean)(x − mean)ᵀ (width, width)."""

    count: int
    mean: Array
    scatter: Array


Group: TypeAlias = Array | Summed
"""A group's prompts at one block (prompts, width), or their moments."""


@dataclass(frozen=True)
class GroupSums:
    """Groups of several sets at one block, in coordinates that they share, float64.

    ``sets`` (groups,) numbers the set of each group; ``means`` (groups, r) are taken from ``origin`` (r,), a point near all
    of them, so that a large common mean costs no digits. ``spreads`` is what the groups have about their means: their
    prompts (prompts, r) where ``by_prompt``, else Σ(x − mean)(x − mean)ᵀ (r, r). ``width`` is that of the model: r is
    smaller where there are fewer prompts, whose span then is all there is.
    """

    sets: NDArray[np.int64]
    counts: Array
    means: Array
    spreads: tuple[Array, ...]
    by_prompt: bool
    origin: Array
    width: int

    def second(self, weights: Array, *, centred: bool) -> Array:
        """Second moment (r, r) of the groups that ``weights`` (groups,) select, about their mean or about the origin."""
        if self.by_prompt:
            rows = self.prompts(weights, centred=centred)
            product: Array = rows.T @ rows
            return product
        used = np.flatnonzero(weights)
        counts = self.counts[used]
        mean = counts @ self.means[used] / counts.sum()
        away = self.means[used] - mean
        total: Array = (away * counts[:, None]).T @ away
        for group in used:
            total += self.spreads[group]
        return total if centred else total + counts.sum() * np.outer(mean + self.origin, mean + self.origin)

    def prompts(self, weights: Array, *, centred: bool) -> Array:
        """The selected prompts (prompts, r), less their mean where ``centred``; only where groups are kept by prompt."""
        used = np.flatnonzero(weights)
        centre = self.mean(weights) if centred else -self.origin
        return np.concatenate([self.spreads[group] + (self.means[group] - centre) for group in used])

    def mean(self, weights: Array) -> Array:
        """Mean of the selected prompts, (r,), from ``origin``."""
        counts = weights * self.counts
        mean: Array = counts @ self.means / counts.sum()
        return mean

    def about_own_means(self) -> GroupSums:
        """The same groups with every set moved to one common mean."""
        means = self.means.copy()
        for number in np.unique(self.sets):
            means[self.sets == number] -= self.mean(self.members(number))
        return replace(self, means=means, origin=np.zeros_like(self.origin))

    def members(self, number: int) -> Array:
        """Weights (groups,) that select all groups of one set."""
        weights: Array = (self.sets == number).astype(np.float64)
        return weights


def group_sums(sets: Sequence[Sequence[Group]]) -> GroupSums:
    """Moments of all groups of several sets at one block, in shared coordinates.

    Where all prompts are at hand and fewer than the model is wide, coordinates are those of their own span, in which lengths
    and angles are what they were. GeometryBenchError for a set without groups.
    """
    if not sets or not all(sets):
        raise GeometryBenchError("every set must have at least one group of prompts")
    numbers = np.array([number for number, groups in enumerate(sets) for _ in groups], dtype=np.int64)
    groups = [group for of_set in sets for group in of_set]
    first = groups[0]
    origin = first.mean if isinstance(first, Summed) else np.asarray(first[0], dtype=np.float64)
    width = len(origin)
    parts = [
        (group.count, group.mean - origin, group.scatter) if isinstance(group, Summed) else _about_mean(group, origin)
        for group in groups
    ]
    counts = np.array([count for count, _, _ in parts], dtype=np.float64)
    means, spreads = np.stack([mean for _, mean, _ in parts]), [spread for _, _, spread in parts]
    at_hand = not any(isinstance(group, Summed) for group in groups)
    by_prompt = at_hand and np.bincount(numbers, weights=counts).max() < width
    if at_hand and counts.sum() + 1 < width:
        origin, means, spreads = _in_their_span(origin, means, spreads)
    if not by_prompt:
        spreads = [
            spread if isinstance(group, Summed) else spread.T @ spread
            for group, spread in zip(groups, spreads, strict=True)
        ]
    return GroupSums(numbers, counts, means, tuple(spreads), by_prompt, origin, width)


def _in_their_span(origin: Array, means: Array, spreads: Sequence[Array]) -> tuple[Array, Array, list[Array]]:
    """The same in about as many coordinates as there are prompts: rows of UΛ^½, of the Gram matrix UΛUᵀ of all rows."""
    rows = np.concatenate([origin[None], *(mean + spread for mean, spread in zip(means, spreads, strict=True))])
    energies, vectors = np.linalg.eigh(rows @ rows.T)
    turned = vectors * np.sqrt(np.maximum(energies, 0.0))
    parts = np.split(turned[1:], np.cumsum([len(spread) for spread in spreads])[:-1])
    moved = [about_mean(part) for part in parts]
    return turned[0], np.stack([mean for _, mean in moved]), [spread for spread, _ in moved]


def _about_mean(group: Array, origin: Array) -> tuple[int, Array, Array]:
    centred, mean = about_mean(np.asarray(group, dtype=np.float64) - origin)
    return len(centred), mean, centred


@dataclass(frozen=True)
class Leading:
    """Top directions (r, k) of a selection of groups, and how many of them hold each share η of its energy (shares,)."""

    vectors: Array
    ranks: NDArray[np.int64]


def leading(sums: GroupSums, weights: Array, shares: Sequence[float], *, centred: bool) -> Leading:
    """Directions of the groups selected by ``weights`` that hold each of the ``shares`` of their energy.

    Of the smaller Gram matrix: where the selected prompts are at hand and fewer than the dimensions, of their own.
    GeometryBenchError where the selection does not vary about its mean (``centred``) or is zero.
    """
    prompts = int(weights @ sums.counts)
    few = sums.by_prompt and prompts < len(sums.origin)
    rows = sums.prompts(weights, centred=centred) if few else None
    second = rows @ rows.T if rows is not None else sums.second(weights, centred=centred)
    if centred:
        mean, spread = sums.mean(weights) + sums.origin, float(np.trace(second))
        if spread <= NO_SPREAD * (spread + prompts * float(mean @ mean)):
            raise GeometryBenchError(
                "the activations of a set are the same for all its prompts, so that they span no subspace: "
                "take other prompts or read other positions"
            )
    found = decompose_second_moment(second, prompts, name="the second moment of a set's activations")
    ranks = energy_ranks(found, shares)
    vectors = found.vectors[:, : ranks.max()]
    if rows is not None:  # the directions asked for hold much of the energy, so that dividing by σ costs no digits
        vectors = rows.T @ vectors / np.sqrt(found.energies[: ranks.max()])
    return Leading(vectors, ranks)


def overlaps(v: Leading, w: Leading, width: int) -> tuple[Array, Array]:
    """MSO of two sets at every share, and its Haar expectation max(k_V, k_W)/width: both (shares,)."""
    table = mso_table(v.vectors, w.vectors)
    return (
        table[v.ranks - 1, w.ranks - 1],
        np.array([haar_mean(i, j, width) for i, j in zip(v.ranks.tolist(), w.ranks.tolist(), strict=True)]),
    )


def left_out(sums: GroupSums, number: int) -> Array:
    """Weights (groups of the set, groups): the set ``number`` without one of its groups each."""
    own = np.flatnonzero(sums.sets == number)
    weights = np.tile(sums.members(number), (len(own), 1))
    weights[np.arange(len(own)), own] = 0.0
    return weights


def halves(sets: NDArray[np.int64], *, splits: int, seed: int = 0) -> NDArray[np.bool_]:
    """Random halves of every set's groups, (splits, groups), True for the first half; an odd one falls to the second."""
    generator = np.random.default_rng(seed)
    first = np.zeros((splits, len(sets)), dtype=bool)
    for row in first:
        for number in np.unique(sets):
            own = generator.permutation(np.flatnonzero(sets == number))
            row[own[: len(own) // 2]] = True
    return first


def permuted(sets: NDArray[np.int64], *, draws: int, seed: int = 0) -> NDArray[np.int64]:
    """The set of each group when groups are permuted among sets that keep their number of groups, (draws, groups)."""
    return np.random.default_rng(seed).permuted(np.tile(sets, (draws, 1)), axis=1)


def pooled_covariance(sums: GroupSums, numbers: Sequence[int], *, centred: bool) -> Decomposition:
    """Mean of the covariances of several sets (uncentred: of their second moments over prompts), decomposed.

    All sets have equal weight, whatever their number of prompts; centred, each is taken about its own mean.
    """
    weights = [sums.members(number) for number in numbers]
    total = sum(sums.second(row, centred=centred) / float(row @ sums.counts) for row in weights)
    prompts = int(sum(row @ sums.counts for row in weights))
    return decompose_second_moment(np.asarray(total), prompts, name="the pooled second moment")
