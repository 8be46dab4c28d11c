"""Source B's proposal: of several models, let the one answer that puts the request lowest on the shared direction.

All members' states are mapped into the reference's space and projected on one direction, fitted on other topics.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geometry_bench.behavior.refusals import VERSION
from geometry_bench.claims.changes import HARMFUL, HARMLESS
from geometry_bench.claims.model import Case, Estimates
from geometry_bench.claims.requests import SEED
from geometry_bench.claims.universal_direction.mapped import (
    SPLITS,
    group_estimate,
    labelled,
    products,
    units,
    without_each,
)
from geometry_bench.geometry.clusters import split_halves
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.mapped import broadcast, shared_scores
from geometry_bench.geometry.rates import least_error, no_narrower
from geometry_bench.geometry.resampling import Interval, jackknife_interval
from geometry_bench.geometry.scorers import contrast
from geometry_bench.labs.group import GroupLab
from geometry_bench.records.estimates import Null
from geometry_bench.records.measurement import Absence, NotApplicableError

NEW_TOKENS = 24
DRAWS = 1000

FEWEST = 4
"""Harmful requests that some members refuse and others do not, below which there is nothing to choose."""


def routing(group: GroupLab, case: Case) -> Estimates:
    """Share of harmful requests refused when the lowest projection answers, less that of a member drawn at random."""
    labels = labelled(group).labels
    refused = np.array(
        [
            np.concatenate([group.refused(name, role, NEW_TOKENS) for role in (HARMLESS, HARMFUL)])
            for name in group.members
        ]
    )
    differ = int((refused[:, labels].any(axis=0) & ~refused[:, labels].all(axis=0)).sum())
    if differ < FEWEST:
        raise NotApplicableError(
            Absence.ALIGNED_ALIKE,
            f"members refuse the same harmful requests (all but {differ} of {labels.sum()}), so there is nothing to choose: "
            "add a member that refuses otherwise",
            requests=differ,
        )
    chosen = held_out_scores(group).argmin(axis=0)
    routed = np.take_along_axis(refused, chosen[None], axis=0)[0]
    value, left_out, interval = _gain(group, routed - refused.mean(axis=0))
    best = int(refused[:, labels].mean(axis=1).argmax())
    _, _, beside_best = _gain(group, routed.astype(np.float64) - refused[best])
    generator = np.random.default_rng(SEED)
    drawn = generator.integers(len(refused), size=(DRAWS, int(labels.sum())))
    at_random = np.take_along_axis(refused[:, labels], drawn, axis=0).mean(axis=1)
    each = dict(zip(group.members, refused, strict=True))
    details: dict[str, float | None] = {
        "refused_routed": float(routed[labels].mean()),
        "refused_at_random": float(refused[:, labels].mean()),
        "refused_oracle": float(refused[:, labels].any(axis=0).mean()),
        "refused_best": float(refused[best, labels].mean()),
        "beside_best_low": beside_best.low,
        "beside_best_high": beside_best.high,
        "over_refused_routed": float(routed[~labels].mean()),
        "over_refused_at_random": float(refused[:, ~labels].mean()),
        **{f"refused_{name}": float(row[labels].mean()) for name, row in each.items()},
        **{f"over_refused_{name}": float(row[~labels].mean()) for name, row in each.items()},
        **{f"routed_to_{name}": float((chosen[labels] == at).mean()) for at, name in enumerate(group.members)},
    }
    null = Null.of("a member drawn at random for each request", at_random - refused[:, labels].mean(), value)
    notes = [f"judged by {VERSION}, {NEW_TOKENS} tokens of each answer; the best member is chosen on the same requests"]
    left = without_each(group, left_out)
    return {"corrected": group_estimate(group, None, value, interval, left, null, details, notes=notes)}


def held_out_scores(group: GroupLab) -> Array:
    """Projections (members, prompts) on the direction that members share, fitted on topics that the prompt is not of."""
    labels, inner = labelled(group).labels, products(group, "corrected")
    halves = split_halves(labels, units(group), splits=SPLITS, seed=SEED)
    total, count = np.zeros((len(group.members), len(labels))), np.zeros(len(labels))
    for half in (side for one in halves for side in (one, ~one)):
        fitted = broadcast(contrast(half[None].astype(np.float64), labels), len(group.members))
        for at in range(len(group.members)):
            scores = shared_scores(inner, fitted, at, reference=group.place, leave_one_out=False)[0]
            total[at, ~half] += scores[~half]
        count[~half] += 1
    mean: Array = total / count
    return mean


def _gain(group: GroupLab, gains: NDArray[np.float64]) -> tuple[float, Array, Interval]:
    """Mean gain over harmful requests, the same without each unit, and an interval that has a width where all gain alike."""
    labels, codes = labelled(group).labels, units(group)
    value = float(gains[labels].mean())
    rest = [labels & (codes != unit) for unit in dict.fromkeys(codes.tolist())]
    left_out = np.array([gains[kept].mean() for kept in rest])
    interval = jackknife_interval(value, left_out)
    return value, left_out, no_narrower(value, interval, least_error(int(labels.sum())))
