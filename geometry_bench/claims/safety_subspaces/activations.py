"""Source D, its part on activations: do two harmful sets overlap more than a harmful and a useful one?

The source passes raw text and reads the last position of a padded batch, uncentred; so does the published variant, at the
last token. (Where a tokenizer pads on the right, the source reads the states of pad tokens.) A mean that all prompts share
then holds most of the energy and nearly all of the overlap, so the corrected variant reads the user's turn of a chat, all
positions but BOS and sinks, and takes subspaces about each set's own mean. Resampled are groups of whole topics; everything
is computed from the groups' second moments.

Blocks are those of the source's window; per block, the value is given wherever second moments of all blocks fit the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geometry_bench.activations.pooling import LAST, Pooling
from geometry_bench.claims.model import Case, Estimates
from geometry_bench.claims.requests import SEED
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.groups import (
    GroupSums,
    Leading,
    group_sums,
    halves,
    leading,
    left_out,
    overlaps,
    permuted,
    pooled_covariance,
)
from geometry_bench.geometry.resampling import jackknife_interval
from geometry_bench.geometry.subspaces import matched_covariance_null
from geometry_bench.labs.memo import remembered
from geometry_bench.labs.model import FEWEST_GROUPS, GROUPS, Grouped, Lab
from geometry_bench.labs.requirements import MEAN_KEPT, RequestRendering
from geometry_bench.records.estimates import VARIANTS, Curve, Estimate, Null, Units, Variant
from geometry_bench.records.measurement import Absence, NotApplicableError

SHARES = (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""η: shares of the energy that subspaces hold."""

USEFUL, HARMFUL, OTHER_HARMFUL, REFUSAL_STYLE = "maths", "harmful-a", "harmful-b", "refusal-style"
SETS = (USEFUL, HARMFUL, OTHER_HARMFUL)
COUNTERPART_SETS = (REFUSAL_STYLE, HARMFUL, OTHER_HARMFUL)
PAIRS: Mapping[str, tuple[int, int]] = {"useful-harmful": (0, 1), "harmful-harmful": (1, 2)}

EARLY = 5
"""Positions of the early window: enough for a request's first words, less than a third of the shortest built-in request."""

FEWEST_PROMPTS = 8
SPLITS = 5
SURROGATES = 50
PERMUTATIONS = 20


def window(layers: int) -> range:
    """Blocks of hidden states int(.65(L+1)) … int(.90(L+1))−1 (source D); at least one block.

    Hidden state 0 is the embedding, so hidden state i is the output of block i − 1.
    """
    start, stop = int(0.65 * (layers + 1)) - 1, int(0.90 * (layers + 1)) - 1
    start = min(max(start, 0), layers - 1)
    return range(start, max(stop, start + 1))


RENDERING: Mapping[Variant, RequestRendering] = {"published": "text", "corrected": "chat"}


def early(lab: Lab, variant: Variant) -> Pooling:
    """The first positions in which the requests differ.

    A chat template begins all prompts in the same way, after a BOS: neither says anything about a request.
    """
    start = lab.common_beginning(SETS, RENDERING[variant])
    return Pooling("mean_first", EARLY, skip_sinks=variant == "corrected", start=start)


def whole(lab: Lab, variant: Variant) -> Pooling:
    """The last position as the source reads it, or all positions but BOS and sinks."""
    return LAST if variant == "published" else MEAN_KEPT


Choose = Callable[[Lab, Variant], Pooling]


def grouped(lab: Lab, name: str, variant: Variant) -> Grouped:
    """A set's second moments by groups of topics, in all poolings that a variant of this module's claims reads of it."""
    _need_groups(lab, name)
    poolings = (whole(lab, variant), *([early(lab, variant)] if name in SETS else []))
    return lab.grouped(name, RENDERING[variant], poolings, window(lab.layers), GROUPS)


def _need_groups(lab: Lab, name: str) -> None:
    drawn = lab.request_settings.load(name)
    topics = len(set(drawn.topics))
    if len(drawn) < FEWEST_PROMPTS or topics < FEWEST_GROUPS:
        raise NotApplicableError(
            Absence.TOO_FEW_TOPICS,
            f"subspaces of {name} need at least {FEWEST_PROMPTS} requests of {FEWEST_GROUPS} topics, but there are "
            f"{len(drawn)} of {topics}; draw more requests, or take a set of more topics",
            requests=len(drawn),
            topics=topics,
        )


@dataclass(frozen=True)
class Overlaps:
    """MSO of the three pairs of a trio of sets, (0, 1), (0, 2) and (1, 2), and its Haar expectation.

    ``overlap`` and ``haar`` are (pairs, blocks, shares). ``left_out`` and ``haar_left_out`` (groups, pairs) are their means
    over window and shares without one group each. ``ranks`` are (sets, blocks, shares), ``sets`` (groups,) numbers the set
    of each group.
    """

    names: tuple[str, ...]
    blocks: tuple[int, ...]
    window: range
    overlap: Array
    haar: Array
    left_out: Array
    haar_left_out: Array
    sets: NDArray[np.int64]
    ranks: NDArray[np.int64]
    facts: Mapping[str, float]

    def mean(self, profiles: Array) -> Array:
        """Mean of (pairs, blocks, shares) over the window and the shares: (pairs,)."""
        inside = [self.blocks.index(block) for block in self.window]
        mean: Array = profiles[:, inside].mean(axis=(1, 2))
        return mean

    def curve(self, profiles: Array, pair: int) -> Array:
        """Mean over the window at each share, (shares,)."""
        inside = [self.blocks.index(block) for block in self.window]
        mean: Array = profiles[pair, inside].mean(axis=0)
        return mean

    def without_each(self, values: Array, among: Array) -> Units:
        """The values (units,) without each group of topics, of those ``among`` all of them (groups,) that count."""
        numbers = [int((self.sets[:place] == of).sum()) for place, of in enumerate(self.sets)]
        ids = [f"{self.names[of]}/{number}" for of, number in zip(self.sets, numbers, strict=True)]
        return Units.of("group of topics", [id for id, kept in zip(ids, among, strict=True) if kept], values)


_PAIRS = ((0, 1), (0, 2), (1, 2))


class Trio:
    """Three sets in one pooling, centred or not."""

    def __init__(self, lab: Lab, names: tuple[str, ...], pooling: Pooling, variant: Variant) -> None:
        self.names, self.centred, self._pooling = names, variant == "corrected", pooling
        self._grouped = [grouped(lab, name, variant) for name in names]
        self.window = window(lab.layers)
        kept = [set(of_set.blocks) for of_set in self._grouped]
        self.blocks = tuple(sorted(set.intersection(*kept)))

    def sums(self, block: int) -> GroupSums:
        """The sets' groups at one block; made again on each call, since those of a wide model are large."""
        return group_sums([of_set.at(self._pooling, block) for of_set in self._grouped])

    def leading(self, sums: GroupSums, weights: Array) -> Leading:
        """Directions of a selection of groups."""
        return leading(sums, weights, SHARES, centred=self.centred)

    def facts(self) -> dict[str, float]:
        """Numbers of prompts and groups of each set, and the window."""
        facts = {"first_block": float(self.window[0]), "last_block": float(self.window[-1])}
        for name, of_set in zip(self.names, self._grouped, strict=True):
            facts |= {f"prompts_{name}": float(of_set.prompts), f"groups_{name}": float(of_set.groups)}
        return facts

    def overlaps(self) -> Overlaps:
        """Overlaps of all pairs at every block, and in the window without each group."""
        shape = (3, len(self.blocks), len(SHARES))
        found, haar, ranks = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=np.int64)
        rows: list[Array] = []
        sets = np.zeros(0, dtype=np.int64)
        for place, block in enumerate(self.blocks):
            sums = self.sums(block)
            whole = [self.leading(sums, sums.members(number)) for number in range(3)]
            ranks[:, place] = [one.ranks for one in whole]
            for pair, (a, b) in enumerate(_PAIRS):
                found[pair, place], haar[pair, place] = overlaps(whole[a], whole[b], sums.width)
            if block in self.window:
                sets = sums.sets
                rows.append(self._without_each(sums, whole, found[:, place], haar[:, place]))
        without = np.mean(rows, axis=0)
        return Overlaps(
            self.names,
            self.blocks,
            self.window,
            found,
            haar,
            without[0],
            without[1],
            sets,
            ranks,
            self.facts(),
        )

    def _without_each(self, sums: GroupSums, whole: Sequence[Leading], found: Array, haar: Array) -> Array:
        """Overlap and Haar expectation, means over the shares, without each group: (2, groups, pairs)."""
        values = np.tile(np.stack([found.mean(axis=1), haar.mean(axis=1)])[:, None], (1, len(sums.sets), 1))
        for number in range(3):
            own = np.flatnonzero(sums.sets == number)
            for group, weights in zip(own, left_out(sums, number), strict=True):
                less = self.leading(sums, weights)
                for pair, members in enumerate(_PAIRS):
                    if number in members:
                        (other,) = (one for one in members if one != number)
                        values[:, group, pair] = [part.mean() for part in overlaps(less, whole[other], sums.width)]
        return values

    def surrogates(self, pair: int, ranks: NDArray[np.int64]) -> Array:
        """MSO of random subspaces with the pair's pooled covariance, means over window and shares: (draws,).

        One seed for all blocks: the residual stream carries a subspace from block to block, so that chance does not average
        out over them.
        """
        a, b = _PAIRS[pair]
        rows = []
        for block in self.window:
            pooled = pooled_covariance(self.sums(block), (a, b), centred=self.centred)
            at = ranks[:, self.blocks.index(block)].tolist()
            rows.append(matched_covariance_null(pooled, at[a], at[b], draws=SURROGATES, seed=SEED).mean(axis=1))
        drawn: Array = np.mean(rows, axis=0)
        return drawn

    def halves(self) -> tuple[Array, Array]:
        """MSO of halves of one set with each other (sets,), and of halves of two sets (pairs,): means over all else."""
        one, two = [], []
        for block in self.window:
            sums = self.sums(block)
            for first in halves(sums.sets, splits=SPLITS, seed=SEED):
                parts = [
                    [self.leading(sums, sums.members(number) * side) for side in (first, ~first)] for number in range(3)
                ]
                one.append([overlaps(v, w, sums.width)[0].mean() for v, w in parts])
                two.append(
                    [
                        np.mean([overlaps(parts[a][side], parts[b][side], sums.width)[0].mean() for side in (0, 1)])
                        for a, b in _PAIRS
                    ]
                )
        return np.mean(one, axis=0), np.mean(two, axis=0)

    def permuted(self) -> Array:
        """The difference of :func:`_difference` when groups are permuted among the sets, (draws,); centred: above Haar."""
        rows = []
        for block in self.window:
            sums = self.sums(block)
            if self.centred:
                sums = sums.about_own_means()
            row = []
            for dealt in permuted(sums.sets, draws=PERMUTATIONS, seed=SEED):
                parts = [self.leading(sums, (dealt == number).astype(np.float64)) for number in range(3)]
                pairs = [overlaps(parts[a], parts[b], sums.width) for a, b in _PAIRS]
                row.append([(found - haar * self.centred).mean() for found, haar in pairs])
            rows.append(row)
        return _difference(np.mean(rows, axis=0))


def _difference(values: Array) -> Array:
    """Of the two harmful sets less the mean of each with the third set: (..., pairs) -> (...)."""
    difference: Array = values[..., 2] - (values[..., 0] + values[..., 1]) / 2
    return difference


@remembered
def _trio(lab: Lab, names: tuple[str, ...], choose: Choose, variant: Variant) -> tuple[Trio, Overlaps]:
    trio = Trio(lab, names, choose(lab, variant), variant)
    return trio, trio.overlaps()


@remembered
def _halves(lab: Lab, variant: Variant) -> tuple[Array, Array]:
    return _trio(lab, SETS, whole, variant)[0].halves()


def _profile(lab: Lab, found: Overlaps, at: Array) -> Curve:
    """A value (blocks,) at every block of the model; none where no second moments were kept."""
    known = dict(zip(found.blocks, at.tolist(), strict=True))
    return Curve.over_blocks([known.get(block) for block in range(lab.layers)])


def _over_shares(values: Array) -> Curve:
    return Curve.along("share of energy", dict(zip(SHARES, values.tolist(), strict=True)))


# Overlap above random


def mso_above_random(lab: Lab, case: Case) -> Estimates:
    """MSO of two sets less its Haar expectation, mean over window and shares."""
    pair = _PAIRS.index(PAIRS[case.key])
    return {variant: _above_random(lab, pair, variant) for variant in VARIANTS}


def _above_random(lab: Lab, pair: int, variant: Variant) -> Estimate:
    trio, found = _trio(lab, SETS, whole, variant)
    excess = found.overlap - found.haar
    value = float(found.mean(excess)[pair])
    own = np.isin(found.sets, _PAIRS[pair])
    left = (found.left_out - found.haar_left_out)[own, pair]
    interval = jackknife_interval(value, left, strata=found.sets[own])
    haar = float(found.mean(found.haar)[pair])
    drawn = trio.surrogates(pair, found.ranks)
    one, two = _halves(lab, variant)
    details: dict[str, float | None] = {
        "overlap": float(found.mean(found.overlap)[pair]),
        "haar": haar,
        "floor": float(drawn.mean()),
        "ceiling": float(np.mean([one[number] for number in _PAIRS[pair]])),
        "halves_of_the_pair": float(two[pair]),
        **found.facts,
    }
    return Estimate.of(
        value,
        interval,
        found.without_each(left, own),
        curves={
            "profile": _profile(lab, found, excess[pair].mean(axis=1)),
            "overlap": _over_shares(found.curve(found.overlap, pair)),
            "haar": _over_shares(found.curve(found.haar, pair)),
        },
        null=Null.of("random subspaces with the covariance of both sets", drawn - haar, value),
        details=details,
    )


# Two harmful sets against a harmful and another one


def harmful_pair_not_higher(lab: Lab, case: Case) -> Estimates:
    """MSO of the harmful sets less that of each with the useful one, mean over window and shares."""
    return {variant: _not_higher(lab, SETS, whole, variant) for variant in VARIANTS}


def early_tokens(lab: Lab, case: Case) -> Estimates:
    """The same for the first positions in which requests differ."""
    return {
        variant: _not_higher(lab, SETS, early, variant, first_position=float(early(lab, variant).start))
        for variant in VARIANTS
    }


def refusal_counterpart(lab: Lab, case: Case) -> Estimates:
    """The same with benign requests that look as if they would be refused in place of the useful ones."""
    return {variant: _not_higher(lab, COUNTERPART_SETS, whole, variant) for variant in VARIANTS}


def _not_higher(lab: Lab, names: tuple[str, ...], choose: Choose, variant: Variant, **more: float) -> Estimate:
    trio, found = _trio(lab, names, choose, variant)
    overlap, left = found.overlap, _difference(found.left_out)
    if variant == "corrected":  # a set that fills more dimensions overlaps more with any other
        overlap, left = overlap - found.haar, _difference(found.left_out - found.haar_left_out)
    values = found.mean(found.overlap)
    value = float(_difference(found.mean(overlap)))
    interval = jackknife_interval(value, left, strata=found.sets)
    difference = _difference(np.stack([found.curve(overlap, pair) for pair in range(3)], axis=-1))
    details: dict[str, float | None] = {
        **{f"overlap_{names[a]}_{names[b]}": float(x) for (a, b), x in zip(_PAIRS, values, strict=True)},
        "haar": float(_difference(found.mean(found.haar))),
        **found.facts,
        **more,
    }
    return Estimate.of(
        value,
        interval,
        found.without_each(left, np.ones(len(left), dtype=bool)),
        curves={
            "profile": _profile(lab, found, _difference(np.moveaxis(overlap.mean(axis=2), 0, -1))),
            "difference": _over_shares(difference),
        },
        null=Null.of("groups of topics dealt anew among the sets", trio.permuted(), value),
        details=details,
    )
