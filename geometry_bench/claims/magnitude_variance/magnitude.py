"""Source C: *Day 1: I thought I had found direction. I instead found magnitude*, its claims on activations.

Requests are read as raw text, block outputs pooled over positions. Classes of the source's own procedure differ in length
and their means hold the first token and sinks; in the corrected variant partners have equal length and those positions are
left out. Intervals resample topics, since requests of one topic resemble one another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geometry_bench.claims.model import Case, Estimates
from geometry_bench.claims.requests import SEED, Classes, classes
from geometry_bench.geometry.clusters import permuted_labels
from geometry_bench.geometry.directions import Array, cosine
from geometry_bench.geometry.magnitude import (
    Profiles,
    bootstrap_profiles,
    jackknife_profiles,
    peak,
    peak_permutation_p,
    ratio_interval,
    resampled_profiles,
    variance_permutation,
)
from geometry_bench.geometry.resampling import Interval, jackknife_interval
from geometry_bench.labs.memo import remembered
from geometry_bench.labs.model import Lab
from geometry_bench.labs.requirements import LAST_KEPT, MEAN_KEPT
from geometry_bench.prompts.names import NEUTRAL
from geometry_bench.records.estimates import VARIANTS, Curve, Estimate, Null, Variant
from geometry_bench.records.measurement import Absence, NotApplicableError

DRAWS = 400
"""Bootstrap draws, permutations and groups of neutral topics."""

PEAK_FROM, PEAK_TO = 0.6, 0.7
BOUND = 0.99


@dataclass(frozen=True)
class Measured:
    """Two classes' profiles: as they are (layers,), with one topic left out, and under permuted labels (draws, layers)."""

    value: Profiles
    left_out: Profiles
    permuted: Profiles


@remembered
def measured(lab: Lab, variant: Variant) -> Measured:
    """Profiles of a variant, computed once for all claims of this module."""
    both = classes(lab, variant)
    every, neutral = np.ones((1, len(both.labels))), _neutral_mean(lab, variant)
    drawn = permuted_labels(both.labels, both.exchangeable, draws=DRAWS, seed=SEED).astype(np.float64)
    return Measured(
        _first(resampled_profiles(both.states, every * ~both.labels, every * both.labels, neutral)),
        jackknife_profiles(both.states, both.labels, both.topics, neutral=neutral),
        resampled_profiles(both.states, 1 - drawn, drawn, neutral),
    )


def _first(profiles: Profiles) -> Profiles:
    rows = {name: getattr(profiles, name) for name in Profiles.__dataclass_fields__}
    return Profiles(**{name: None if row is None else row[0] for name, row in rows.items()})  # type: ignore[arg-type]


def _neutral_mean(lab: Lab, variant: Variant) -> Array | None:
    """Mean of the neutral instructions (layers, width); the source has none."""
    if variant == "published":
        return None
    neutral = lab.requests(NEUTRAL, rendering="text", poolings=(MEAN_KEPT,))
    mean: Array = neutral.states[MEAN_KEPT].mean(axis=0, dtype=np.float64)
    return mean


def before_last(layers: int) -> slice:
    """The blocks of "until the last layers": all but the last one of 24 (and at least one)."""
    return slice(0, max(1, layers - max(1, round(layers / 24))))


def _estimate(
    lab: Lab,
    variant: Variant,
    value: float,
    interval: Interval,
    left_out: Array,
    profile: Array,
    *,
    block: int | None,
    null: Null | None,
    details: Mapping[str, float | None],
) -> Estimate:
    both = classes(lab, variant)
    return Estimate.of(
        value,
        interval,
        both.without_each(left_out),
        block=block,
        curves={"profile": Curve.over_blocks(profile)},
        null=null,
        details={**details, **both.facts()},
    )


# Where the classes are farthest apart


def distance_profile(profiles: Profiles, variant: Variant) -> Array:
    """Distance of the class means; relative to the mean norm in the corrected variant, since norms grow with depth."""
    return profiles.distance if variant == "published" else profiles.relative_distance


def peak_depth(lab: Lab, case: Case) -> Estimates:
    """Block at which the class means are farthest apart, over the number of blocks."""
    depths = np.arange(lab.layers) / lab.layers
    if not ((depths >= PEAK_FROM - 1e-9) & (depths <= PEAK_TO + 1e-9)).any():
        blocks = "block" if lab.layers == 1 else "blocks"
        raise NotApplicableError(
            Absence.TOO_FEW_BLOCKS,
            f"of {lab.layers} {blocks} none lies between {PEAK_FROM:.0%} and {PEAK_TO:.0%} of the depth; take a "
            "deeper model",
            blocks=lab.layers,
        )
    return {variant: _peak_depth(lab, variant) for variant in VARIANTS}


def _peak_depth(lab: Lab, variant: Variant) -> Estimate:
    found, both = measured(lab, variant), classes(lab, variant)
    drawn = bootstrap_profiles(both.states, both.labels, both.topics, draws=DRAWS, seed=SEED)
    profile = distance_profile(found.value, variant)
    top = peak(profile, distance_profile(drawn, variant))
    permuted = distance_profile(found.permuted, variant)
    return _estimate(
        lab,
        variant,
        top.depth,
        top.interval,
        distance_profile(found.left_out, variant).argmax(axis=1) / lab.layers,
        profile,
        block=top.layer,
        null=Null.of(f"labels {both.permutation}", permuted.argmax(axis=1) / lab.layers, top.depth),
        details={
            "distance": float(found.value.distance[top.layer]),
            "relative_distance": float(found.value.relative_distance[top.layer]),
            "share_of_resamples": float(top.shares[top.layer]),
            "distance_permutation_p": peak_permutation_p(profile, permuted),
        },
    )


# Whether the means point the same way


def parallel_means(lab: Lab, case: Case) -> Estimates:
    """Smallest cosine of the class means over the blocks before the last ones; centred on neutral instructions or not."""
    (kind,) = case.parameters
    if kind == "raw":
        return {variant: _parallel(lab, variant, centred=False) for variant in VARIANTS}
    return {"corrected": _parallel(lab, "corrected", centred=True)}


def _parallel(lab: Lab, variant: Variant, *, centred: bool) -> Estimate:
    blocks, found, both = before_last(lab.layers), measured(lab, variant), classes(lab, variant)

    def cosines(profiles: Profiles) -> Array:
        chosen = profiles.centred_cosine if centred else profiles.cosine
        assert chosen is not None  # a centred one is asked of the corrected variant, which has a neutral mean
        return chosen

    profile, left_out = cosines(found.value), cosines(found.left_out)[:, blocks].min(axis=1)
    value = float(profile[blocks].min())
    below = np.flatnonzero(profile < BOUND)
    details: dict[str, float | None] = {
        "last_block": float(profile[-1]),
        "first_block_below": float(below[0]) if len(below) else None,
    }
    if centred:
        null = _neutral_null(lab, value, centred=True)
    else:
        # Any two groups of prompts have parallel means where all share one large mean: no more than that is asked of it.
        null = Null.of(f"labels {both.permutation}", cosines(found.permuted)[:, blocks].min(axis=1), value)
        if variant == "corrected":
            halves = _neutral_null(lab, value, centred=False)
            details["halves_of_neutral_topics"] = halves.mean if halves else None
    return _estimate(
        lab,
        variant,
        value,
        jackknife_interval(value, left_out, correlation=True),
        left_out,
        profile,
        block=None,
        null=null,
        details=details,
    )


def _neutral_null(lab: Lab, value: float, *, centred: bool) -> Null | None:
    """What unrelated groups of neutral instructions give: halves, or two quarters centred on the rest."""
    neutral = lab.requests(NEUTRAL, rendering="text", poolings=(MEAN_KEPT,))
    states, topics = neutral.states[MEAN_KEPT], np.array(neutral.topics)
    names = np.unique(topics)
    size = len(names) // 4 if centred else len(names) // 2
    if size < 1:
        raise NotApplicableError(
            Absence.TOO_FEW_TOPICS,
            f"the neutral instructions have {len(names)} topics, too few to group; draw more of them",
            topics=len(names),
        )
    generator = np.random.default_rng(SEED)
    groups: list[list[NDArray[np.bool_]]] = []
    for _ in range(DRAWS):
        order = generator.permutation(names)
        groups.append([np.isin(topics, part) for part in (order[:size], order[size : 2 * size], order[2 * size :])])

    def means(index: int, layer: Array) -> Array:
        weights = np.array([group[index] for group in groups], dtype=np.float64)
        averages: Array = weights @ layer / weights.sum(axis=1, keepdims=True)
        return averages

    smallest = np.full(DRAWS, np.inf)
    for index in range(*before_last(lab.layers).indices(lab.layers)):
        layer = np.asarray(states[:, index], dtype=np.float64)
        centre = means(2, layer) if centred else 0.0
        smallest = np.minimum(smallest, cosine(means(0, layer) - centre, means(1, layer) - centre))
    name = "quarters of the neutral topics about the other half" if centred else "halves of the neutral topics"
    return Null.of(name, smallest, value)


# How far the prompts of a class spread


def variance_inversion(lab: Lab, case: Case) -> Estimates:
    """Variance per dimension of safe over that of harmful prompts, at the block where the class means are farthest apart."""
    return {variant: _variance_inversion(lab, variant) for variant in VARIANTS}


def _variance_inversion(lab: Lab, variant: Variant) -> Estimate:
    found, both = measured(lab, variant), classes(lab, variant)
    block = int(distance_profile(found.value, variant).argmax())
    profile, left_out = found.value.variance_ratio, found.left_out.variance_ratio[:, block]
    test = variance_permutation(both.states[:, block], both.labels, both.exchangeable, draws=DRAWS, seed=SEED)
    value = float(profile[block])
    details: dict[str, float | None] = {
        "safe_variance": float(found.value.safe_variance[block]),
        "harmful_variance": float(found.value.harmful_variance[block]),
        "permutation_p": test.p_greater,
        "permutation_p_two_sided": test.p_two_sided,
    }
    if variant == "corrected":
        details |= _last_token_ratio(classes(lab, variant, LAST_KEPT), block)
    return _estimate(
        lab,
        variant,
        value,
        ratio_interval(value, left_out),
        left_out,
        profile,
        block=block,
        null=Null.of(f"labels of centred classes {both.permutation}", test.null, value),
        details=details,
    )


def _last_token_ratio(both: Classes, block: int) -> dict[str, float | None]:
    """The ratio at the last token, where no length enters a mean; undefined where all prompts end in the same way."""
    layer = both.states[:, block : block + 1]
    every = np.ones((1, len(both.labels)))
    last = _first(resampled_profiles(layer, every * ~both.labels, every * both.labels))
    if min(last.safe_variance[0], last.harmful_variance[0]) <= 0:
        return {"last_token_ratio": None}
    left_out = jackknife_profiles(layer, both.labels, both.topics).variance_ratio[:, 0]
    interval = ratio_interval(float(last.variance_ratio[0]), left_out)
    return {
        "last_token_ratio": float(last.variance_ratio[0]),
        "last_token_low": interval.low,
        "last_token_high": interval.high,
    }


# How large the activations are


def norm_gap(lab: Lab, case: Case) -> Estimates:
    """Mean norm of safe less that of harmful prompts, over the mean of both; the smallest before the last blocks."""
    return {variant: _norm_gap(lab, variant) for variant in VARIANTS}


def _relative_gap(profiles: Profiles) -> Array:
    gap: Array = profiles.norm_gap / ((profiles.safe_norm + profiles.harmful_norm) / 2)
    return gap


def _norm_gap(lab: Lab, variant: Variant) -> Estimate:
    found, both, blocks = measured(lab, variant), classes(lab, variant), before_last(lab.layers)
    profile = _relative_gap(found.value)
    left_out = _relative_gap(found.left_out)[:, blocks].min(axis=1)
    value = float(profile[blocks].min())
    return _estimate(
        lab,
        variant,
        value,
        jackknife_interval(value, left_out),
        left_out,
        profile,
        block=None,
        null=Null.of(f"labels {both.permutation}", _relative_gap(found.permuted)[:, blocks].min(axis=1), value),
        details={
            "mean_gap": float(profile[blocks].mean()),
            "blocks_with_larger_safe_norm": float((profile[blocks] > 0).mean()),
            "last_block": float(profile[-1]),
        },
    )
