"""Source B: *Do Language Models Share Unsafe Directions in Activation Space?*, its claims on activations.

A group of models reads the same safe and unsafe requests; ridge maps, fitted on benign instructions, carry each member's
states into the space of a reference model, where the unsafe directions meet. The source does not state its layer: values are
taken at a declared relative depth and recorded at others beside it.

The published variant maps without intercept, takes the direction shared by all members and scores the prompts that it was
fitted on. The corrected one maps with an intercept, leaves a member out of the direction that it is held against, and
never compares directions that were fitted on the same prompts.
"""

from __future__ import annotations

import numpy as np

from geometry_bench.claims.model import Case, Estimates
from geometry_bench.claims.requests import SEED
from geometry_bench.claims.universal_direction.mapped import (
    PENALTIES,
    cosines,
    cross_fitted,
    cross_fitted_null,
    cross_fitted_untrained,
    deal_units,
    facts_of_twins,
    group_estimate,
    labelled,
    map_errors,
    mapping,
    own_states,
    shuffled_cosines,
    untrained_null,
    without_each,
)
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.mapped import cross_fitted_cosines, cross_fitted_with_shared
from geometry_bench.geometry.resampling import jackknife_interval
from geometry_bench.geometry.scorers import contrast
from geometry_bench.geometry.transfer import mapped_null, null_cosine, universal_from_gram
from geometry_bench.labs.group import GroupLab
from geometry_bench.prompts.names import ALIGNMENT
from geometry_bench.records.estimates import VARIANTS, Curve, Estimate, Null, Units, Variant
from geometry_bench.records.measurement import Absence, NotApplicableError

MEAN = Case("mean")
"""The mean over members, beside a case for each of them."""

ERROR_UNITS = 10
ERROR_DRAWS = 20
"""Groups of topics that are left out, and shuffles, of a statistic that fits maps again each time."""

ALIKE = "labels swapped between partners, alike in all members"


# Whether directions meet


def reference_cosine(group: GroupLab, case: Case) -> Estimates:
    """Cosine of a member's mapped unsafe direction with the reference's own; corrected: from different halves."""
    return {variant: _reference_cosine(group, variant, case.key) for variant in VARIANTS}


def _reference_cosine(group: GroupLab, variant: Variant, member: str) -> Estimate:
    at, place = group.members.index(member), group.place
    if variant == "published":
        rows, chance = cosines(group, variant), shuffled_cosines(group, variant)
    else:
        rows, chance = (measure(group, with_each_other) for measure in (cross_fitted, cross_fitted_null))
    value, left_out = float(rows[0, at, place]), rows[1:, at, place]

    def at_depths(depth: float) -> float:
        if variant == "published":
            return float(cosines(group, variant, depth)[0, at, place])
        return float(cross_fitted(group, with_each_other, depth)[0, at, place])

    any_contrast = shuffled_cosines(group, variant)[:, at, place]
    random = _random_directions(group, variant, member)
    details = {
        "same_prompts": float(cosines(group, variant)[0, at, place]),
        "any_contrast_mean": float(any_contrast.mean()),
        "any_contrast_high": float(np.quantile(any_contrast, 0.95)),
        "halves_of_the_reference": float(cross_fitted(group, with_each_other)[0, place, place]),
        "random_directions_mean": float(random.mean()),
        "random_directions_high": float(np.quantile(random, 0.95)),
        "map_error": mapping(group, member, variant).choice.error,
        "map_penalty": mapping(group, member, variant).choice.penalty,
    }
    null = Null.of(
        f"labels {labelled(group).permutation}, alike in all members",
        chance[:, at, place],
        value,
        np.delete(chance[:, :, place], place, axis=1),
    )
    if variant == "corrected" and null is not None:
        twins = cross_fitted_untrained(group, with_each_other, member)[:, at, place]
        details |= facts_of_twins(twins, null)
        null = null.beside(untrained_null(twins, value))
    interval = jackknife_interval(value, left_out, correlation=True)
    units = without_each(group, left_out)
    return group_estimate(group, member, value, interval, units, null, details, at_depths=at_depths)


def _random_directions(group: GroupLab, variant: Variant, member: str) -> Array:
    """Cosines (draws,) with the reference's direction of random ones of the member sent through its map."""
    labels = labelled(group).labels
    direction = contrast(np.ones((1, len(labels))), labels)[0] @ own_states(group, group.reference)
    return mapped_null(mapping(group, member, variant).map, direction, seed=SEED)


def with_each_other(place: int, inner: Array, first: Array, second: Array) -> Array:
    """Cosines of all members' directions of one half with those of the other."""
    return cross_fitted_cosines(inner, first, second)


def with_shared_axis(place: int, inner: Array, first: Array, second: Array) -> Array:
    """Cosines of each member's direction of one half with the axis that the others share in the other half."""
    return cross_fitted_with_shared(inner, first, second, reference=place)


def shared_axis(group: GroupLab, case: Case) -> Estimates:
    """Cosine with the shared direction, or its mean over members; corrected: that of the others, from the other half."""
    return {variant: _shared_axis(group, variant, case.key) for variant in VARIANTS}


def _shared_axis(group: GroupLab, variant: Variant, member: str) -> Estimate:
    place = group.place

    def with_shared(grams: Array) -> Array:
        return np.array([universal_from_gram(gram, place).cosines for gram in grams])

    def of(rows: Array) -> Array:
        chosen: Array = rows.mean(axis=1) if member == MEAN.key else rows[:, group.members.index(member)]
        return chosen

    def at_depths(depth: float) -> float:
        if variant == "published":
            return float(of(with_shared(cosines(group, variant, depth)[:1]))[0])
        return float(of(cross_fitted(group, with_shared_axis, depth))[0])

    if variant == "published":
        rows, joint = of(with_shared(cosines(group, variant))), with_shared(shuffled_cosines(group, variant))
    else:
        rows, joint = of(cross_fitted(group, with_shared_axis)), cross_fitted_null(group, with_shared_axis)
    value, left_out = float(rows[0]), rows[1:]
    whole = universal_from_gram(cosines(group, variant)[0], place)
    details = {
        "same_prompts": float(of((whole.cosines if variant == "published" else whole.leave_one_out)[None])[0]),
        "top_singular_share": whole.top_share,
        "orthogonal_directions": null_cosine(len(group.members)) if variant == "published" else 0.0,
        "members": float(len(group.members)),
    }
    interval = jackknife_interval(value, left_out, correlation=True)
    name = None if member == MEAN.key else member
    units, null = (
        without_each(group, left_out),
        Null.of(
            f"labels {labelled(group).permutation}, alike in all members",
            of(joint),
            value,
            None if member == MEAN.key else joint,
        ),
    )
    if variant == "corrected" and null is not None:
        # Each member in turn gives its place to a twin, and the twin's own cosine is read there.
        places = range(len(group.members))
        twins = of(
            np.stack(
                [cross_fitted_untrained(group, with_shared_axis, group.members[at])[:, at] for at in places], axis=1
            )
        )
        details |= facts_of_twins(twins, null)
        null = null.beside(untrained_null(twins, value))
    return group_estimate(group, name, value, interval, units, null, details, at_depths=at_depths)


# Whether a moderate penalty maps best


def alignment_error(group: GroupLab, case: Case) -> Estimates:
    """Held-out error at the better end of the penalty grid less the least error inside the grid, for one member's map."""
    return {variant: _alignment_error(group, variant, case.key) for variant in VARIANTS}


def interior_gain(errors: Array) -> Array:
    """min(first, last) − min(inside), errors (..., penalties) -> (...): positive where a moderate penalty is best."""
    gain: Array = np.minimum(errors[..., 0], errors[..., -1]) - errors[..., 1:-1].min(axis=-1)
    return gain


def _alignment_error(group: GroupLab, variant: Variant, member: str) -> Estimate:
    x, y = (group.states(name, ALIGNMENT) for name in (member, group.reference))
    codes = deal_units(group.requests(ALIGNMENT).topics, ERROR_UNITS)
    if codes.max() < 2:
        raise NotApplicableError(
            Absence.TOO_FEW_TOPICS,
            f"the instructions have {codes.max() + 1} topics, too few for an interval: give 3 or more",
            topics=int(codes.max()) + 1,
        )
    whole = mapping(group, member, variant)
    value = float(interior_gain(whole.held_out))
    left_out = np.array(
        [interior_gain(map_errors(group, x, y, variant, codes != unit)) for unit in range(codes.max() + 1)]
    )
    generator = np.random.default_rng(SEED)
    shuffled = [
        interior_gain(map_errors(group, x, y[generator.permutation(len(y))], variant)) for _ in range(ERROR_DRAWS)
    ]
    null = Null.of("instructions of the target shuffled", shuffled, value)
    errors = Curve.along("penalty", dict(zip(PENALTIES[variant], whole.held_out.tolist(), strict=True)))
    details = {
        "best_penalty": whole.choice.penalty,
        "best_error": whole.choice.error,
        "best_at_edge_of_grid": float(whole.choice.at_edge),
    }

    def at_depths(depth: float) -> float:
        return mapping(group, member, variant, depth).choice.error

    notes = ["the curve at_depth holds errors at the best penalty"]
    if whole.choice.at_edge:
        notes.append("the least error lies at an end of the grid: the minimum may lie beyond")
    interval = jackknife_interval(value, left_out)
    units = Units.of("group of topics", [f"topics {unit}" for unit in range(codes.max() + 1)], left_out)
    curves = {"error": errors}
    return group_estimate(
        group, member, value, interval, units, null, details, at_depths=at_depths, curves=curves, notes=notes
    )
