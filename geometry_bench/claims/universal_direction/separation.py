"""Source B, whether the shared direction separates: AUROC beside the native direction, thresholds, broken transfer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geometry_bench.claims.model import Case, Estimates
from geometry_bench.claims.requests import SEED
from geometry_bench.claims.universal_direction.mapped import (
    SPLITS,
    cosines,
    facts_of_twins,
    group_estimate,
    labelled,
    own_states,
    products,
    products_with,
    shuffled_labels,
    units,
    untrained_null,
    without_each,
)
from geometry_bench.geometry.auroc import auroc, auroc_jackknife
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.held_out import held_out_auroc, held_out_values
from geometry_bench.geometry.mapped import broadcast, shared_scorer, shared_scores
from geometry_bench.geometry.resampling import Interval, jackknife_interval
from geometry_bench.geometry.scorers import Scorer, contrast, projection_scorer
from geometry_bench.geometry.thresholds import held_out_gap, threshold_gap
from geometry_bench.labs.group import GroupLab
from geometry_bench.labs.memo import remembered
from geometry_bench.published.alignment import alignment_group_of
from geometry_bench.records.estimates import VARIANTS, Estimate, Null, Variant
from geometry_bench.records.measurement import Absence, NotApplicableError

AGREES = 0.5
"""Above this cosine a mapped direction is said to agree with the reference's."""

FEW_DRAWS = 60
PERMUTATIONS = 20
"""Draws of nulls in which every draw is fitted again."""


@dataclass(frozen=True)
class Scored:
    """AUROC of one member by one direction: in sample or held out, with units left out."""

    value: float
    interval: Interval
    left_out: Array
    in_sample: float


def _scorer(group: GroupLab, variant: Variant, member: str, labels: Array, depth: float | None = None) -> Scorer:
    """Scores on the shared direction: published, the member's own part in it; corrected, that of the others."""
    return _shared(group, variant, member, labels, products(group, variant, depth))


def _shared(group: GroupLab, variant: Variant, member: str, labels: Array, inner: Array) -> Scorer:
    at = group.members.index(member)
    return shared_scorer(inner, labels, at, reference=group.place, leave_one_out=variant == "corrected")


@remembered
def scored(group: GroupLab, variant: Variant, member: str, direction: str) -> Scored:
    """AUROC of a member on its ``native`` or the ``universal`` direction; corrected: held out by topic."""
    labels, topics = labelled(group).labels, units(group)
    if direction == "native":
        scorer = projection_scorer(own_states(group, member), labels)
    else:
        scorer = _scorer(group, variant, member, labels)
    if variant == "corrected":
        held = held_out_auroc(scorer, labels, topics, splits=SPLITS, seed=SEED)
        return Scored(held.auroc, held.interval, held.leave_one_out, held.in_sample)
    found = auroc_jackknife(scorer(np.ones((1, len(labels))))[0], labels, topics)
    return Scored(found.auroc, found.interval, found.leave_one_out, found.auroc)


@remembered
def _shuffled_auroc(group: GroupLab, variant: Variant, member: str) -> Array:
    """AUROC on the universal direction with labels swapped between partners, fitted and scored again: (draws,)."""

    def one(labels: Array) -> float:
        scorer = _scorer(group, variant, member, labels)
        if variant == "corrected":
            return float(held_out_values(scorer, labels, units(group), splits=1, seed=SEED).mean())
        return float(auroc(scorer(np.ones((1, len(labels))))[0], labels))

    return np.array([one(labels) for labels in shuffled_labels(group, FEW_DRAWS)])


@remembered
def _untrained_auroc(group: GroupLab, member: str) -> Array:
    """Held-out AUROC of untrained twins on the direction that the other members share: (twins,)."""
    labels = labelled(group).labels
    scorers = (_shared(group, "corrected", member, labels, products_with(group, twin, member)) for twin in group.twins)
    found = [held_out_values(one, labels, units(group), splits=SPLITS, seed=SEED).mean() for one in scorers]
    return np.array(found, dtype=np.float64)


def universal_auroc(group: GroupLab, case: Case) -> Estimates:
    """AUROC of a member's states on the shared direction less that on its own."""
    return {variant: _universal_auroc(group, variant, case.key) for variant in VARIANTS}


def _universal_auroc(group: GroupLab, variant: Variant, member: str) -> Estimate:
    native, shared = (scored(group, variant, member, direction) for direction in ("native", "universal"))
    value, left_out = shared.value - native.value, shared.left_out - native.left_out
    chance = _shuffled_auroc(group, variant, member)
    null = Null.of(
        f"labels {labelled(group).permutation}, the shared direction fitted anew", chance - native.value, value
    )
    flipped = shared.interval.high < 0.5
    details = {
        "native": native.value,
        "native_low": native.interval.low,
        "native_high": native.interval.high,
        "universal": shared.value,
        "universal_low": shared.interval.low,
        "universal_high": shared.interval.high,
        "native_in_sample": native.in_sample,
        "universal_in_sample": shared.in_sample,
        "universal_strength": max(shared.value, 1 - shared.value),
        "sign": -1.0 if flipped else 1.0 if shared.interval.low > 0.5 else 0.0,
    }
    if variant == "corrected" and null is not None:
        twins = _untrained_auroc(group, member) - native.value
        details |= facts_of_twins(twins, null)
        null = null.beside(untrained_null(twins, value))

    def at_depths(depth: float) -> float:
        labels, ones = labelled(group).labels, np.ones((1, len(labelled(group).labels)))
        own = projection_scorer(own_states(group, member, depth), labels)(ones)[0]
        return float(auroc(_scorer(group, variant, member, labels, depth)(ones)[0], labels) - auroc(own, labels))

    notes = ["the curve at_depth is in sample"]
    notes += ["sign flipped: harmful requests score lower on the shared direction"] if flipped else []
    interval = jackknife_interval(value, left_out)
    left = without_each(group, left_out)
    return group_estimate(group, member, value, interval, left, null, details, at_depths=at_depths, notes=notes)


def no_global_threshold(group: GroupLab, case: Case) -> Estimates:
    """Balanced accuracy with a threshold for each member less that with one for all: direction and thresholds held out."""
    labels, topics, inner = labelled(group).labels, units(group), products(group, "corrected")
    places = range(len(group.members))

    def scorer(weights: Array) -> Array:
        fitted = broadcast(contrast(weights, labels), len(places))
        scores = [shared_scores(inner, fitted, at, reference=group.place, leave_one_out=False) for at in places]
        return np.stack(scores, axis=1)

    gap = threshold_gap(scorer, labels, topics, splits=SPLITS, seed=SEED)
    generator = np.random.default_rng(SEED)

    def dealt() -> float:
        order = generator.permuted(np.tile(np.arange(len(places))[:, None], (1, len(labels))), axis=0)
        return held_out_gap(
            lambda weights: np.take_along_axis(scorer(weights), order[None], axis=1),
            labels,
            topics,
            splits=SPLITS,
            seed=SEED,
        )

    null = Null.of("scores of a request dealt anew to the members", [dealt() for _ in range(PERMUTATIONS)], gap.gap)
    details = {"own_thresholds": gap.own, "one_threshold": gap.pooled, "in_sample": gap.in_sample}
    left = without_each(group, gap.leave_one_out)
    return {"corrected": group_estimate(group, None, gap.gap, gap.interval, left, null, details)}


def regime_break(group: GroupLab, case: Case) -> Estimates:
    """The least AUROC on the shared direction among members whose mapped direction agrees with the reference's."""
    regimes = {_regime(group.facts(member).alignment) for member in group.members}
    if len(regimes) < 2:
        raise NotApplicableError(
            Absence.ALIGNED_ALIKE,
            f"all members were aligned alike ({regimes.pop()}), and the claim is about members that were not: name their "
            "methods with alignment in the manifest or --alignment, or add a member",
        )
    return {variant: _regime_break(group, variant) for variant in VARIANTS}


def _regime(method: str | None) -> str:
    return "method not declared" if method is None else alignment_group_of(method)


def _regime_break(group: GroupLab, variant: Variant) -> Estimate:
    agreement = dict(zip(group.members, cosines(group, variant)[0][:, group.place], strict=True))
    agreeing = [name for name, cos in agreement.items() if cos > AGREES and name != group.reference]
    if not agreeing:
        raise NotApplicableError(
            Absence.NOTHING_AGREES,
            f"no member's mapped direction has a cosine above {AGREES} with the reference's, so no transfer can break in "
            "spite of it",
        )
    found = {member: scored(group, variant, member, "universal") for member in agreeing}
    worst = min(found, key=lambda member: found[member].value)
    one = found[worst]
    least = np.min([_shuffled_auroc(group, variant, member) for member in agreeing], axis=0)
    null = Null.of(f"least of as many members, labels {labelled(group).permutation}, fitted anew", least, one.value)
    broken = one.interval.high < 0.5
    details: dict[str, float | None] = {f"auroc_{member}": scores.value for member, scores in found.items()}
    details |= {f"cosine_{member}": float(agreement[member]) for member in agreeing}
    details |= {"agreeing_members": float(len(agreeing)), "broken": float(broken)}
    notes = [f"{worst} flips the sign: harmful requests score lower on the shared direction"] if broken else []
    left = without_each(group, one.left_out)
    return group_estimate(group, worst, one.value, one.interval, left, null, details, label=worst, notes=notes)
