"""What claims about a group share: maps into the reference's space, the classes there, directions fitted on halves.

Members read the same prompts, and a good map carries their sampling noise over together with everything else: directions
fitted on the same prompts agree even where the classes do not differ. The corrected variant therefore takes the two
directions of a cosine from different halves of the topics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geometry_bench.claims.requests import SEED, Labelled
from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.clusters import leave_one_cluster_out, permuted_labels, split_halves
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.groups import deal_topics
from geometry_bench.geometry.mapped import broadcast, direction_cosines, inner_products
from geometry_bench.geometry.resampling import Interval
from geometry_bench.geometry.scorers import contrast, label_contrasts
from geometry_bench.geometry.transfer import PenaltyChoice, RidgeMap, best_penalty, fit_ridge
from geometry_bench.labs.group import GroupLab
from geometry_bench.labs.memo import remembered
from geometry_bench.prompts.names import ALIGNMENT
from geometry_bench.records.estimates import Curve, Estimate, Null, Units, Variant
from geometry_bench.records.measurement import Absence, NotApplicableError

CLASSES = ("safe", "unsafe")
GROUP_SETS = (*CLASSES, ALIGNMENT)
"""The sets that a group is measured on."""

PENALTIES: Mapping[Variant, tuple[float, ...]] = {
    "published": (0.01, 0.1, 1.0),
    "corrected": tuple(10.0**power for power in range(-5, 4)),
}
"""λ of the source, or relative to the mean eigenvalue of the Gram matrix, so that it means the same in every model."""

SPLITS = 4
FOLDS = 2
FEWEST_INSTRUCTIONS = 8
UNITS = 40
"""Prompts are left out by topic, or, where there are more topics than this, in so many groups of them."""

DRAWS = 200


@remembered
def labelled(group: GroupLab) -> Labelled:
    """The two classes' prompts."""
    return Labelled.of(*(group.requests(role) for role in CLASSES))


@remembered
def units(group: GroupLab) -> NDArray[np.int64]:
    """What is left out together and stays on one side of a split, by number: a topic or a group of them, (prompts,)."""
    return deal_units(labelled(group).topics, UNITS)


def without_each(group: GroupLab, values: Array) -> Units:
    """The values (units,) without each unit, in the order in which the prompts have them."""
    topics, codes = labelled(group).topics, units(group)
    several = len(set(topics)) > len(set(codes))
    names = {
        code: f"topics {code}" if several else str(topic) for topic, code in zip(topics, codes.tolist(), strict=True)
    }
    return Units.of("group of topics" if several else "topic", list(names.values()), values)


def deal_units(topics: Sequence[str], most: int) -> NDArray[np.int64]:
    """Topics as they are where there are few, else folded into ``most`` groups: (prompts,)."""
    names, codes = np.unique(np.array(topics), return_inverse=True)
    return codes.astype(np.int64) if len(names) <= most else deal_topics(topics, len(topics), most, seed=SEED)


# Maps


@dataclass(frozen=True)
class Map:
    """A member's map to the reference: fitted on all instructions with the penalty of least held-out error."""

    map: RidgeMap
    choice: PenaltyChoice
    held_out: Array
    """Relative error for each penalty (penalties,), the mean over folds."""


def mapping(group: GroupLab, member: str, variant: Variant, depth: float | None = None) -> Map:
    """The member's map to the reference at a relative depth (the declared one if None)."""
    return _mapping(group, member, variant, group.depth if depth is None else depth)


@remembered
def _mapping(group: GroupLab, member: str, variant: Variant, depth: float) -> Map:
    x, y = (group.states(name, ALIGNMENT, depth) for name in (member, group.reference))
    held_out = map_errors(group, x, y, variant)
    path = fit_ridge(x, y, intercept=variant == "corrected")
    choice = best_penalty(PENALTIES[variant], held_out)
    scale = path.mean_eigenvalue if variant == "corrected" else 1.0
    return Map(path.map(choice.penalty * scale), choice, held_out)


def map_errors(group: GroupLab, x: Array, y: Array, variant: Variant, kept: Array | None = None) -> Array:
    """Relative errors (penalties,) on topics that the map was not fitted on, mean over folds; of the ``kept`` prompts."""
    chosen = np.ones(len(x), dtype=bool) if kept is None else kept
    rows = [_errors(x[chosen], y[chosen], fold[chosen], variant) for fold in _folds(group)]
    errors: Array = np.mean(rows, axis=0)
    return errors


@remembered
def _folds(group: GroupLab) -> list[Array]:
    """Halves of the instructions' topics, (prompts,) True for those held out."""
    instructions = group.requests(ALIGNMENT)
    if len(instructions) < FEWEST_INSTRUCTIONS:
        raise GeometryBenchError(
            f"The instructions that maps are fitted on ({instructions.name}) are {len(instructions)}: at least "
            f"{FEWEST_INSTRUCTIONS} are needed, add some."
        )
    topics = np.array(instructions.topics)
    names = np.random.default_rng(SEED).permutation(np.unique(topics))
    if len(names) < FOLDS:
        raise NotApplicableError(
            Absence.TOO_FEW_TOPICS,
            "the instructions that maps are fitted on have one topic: none can be held out",
            topics=len(names),
        )
    return [np.isin(topics, names[fold::FOLDS]) for fold in range(FOLDS)]


def _errors(x: Array, y: Array, held: Array, variant: Variant) -> Array:
    corrected = variant == "corrected"
    path = fit_ridge(x[~held], y[~held], intercept=corrected)
    scale = path.mean_eigenvalue if corrected else 1.0
    return path.errors(x[held], y[held], [scale * p for p in PENALTIES[variant]], about_mean=corrected)


# Mapped classes


def own_states(group: GroupLab, member: str, depth: float | None = None) -> Array:
    """A member's states of both classes in its own space, (prompts, width)."""
    return np.concatenate([group.states(member, role, depth) for role in CLASSES])


def products(group: GroupLab, variant: Variant, depth: float | None = None) -> Array:
    """Inner products of all members' states in the reference's space (members, members, prompts, prompts)."""
    return _products(group, variant, group.depth if depth is None else depth)


@remembered
def _products(group: GroupLab, variant: Variant, depth: float) -> Array:
    return inner_products([_mapped(group, member, variant, depth) for member in group.members], group.place)


@remembered
def _mapped(group: GroupLab, member: str, variant: Variant, depth: float) -> Array:
    """A member's states of both classes in the reference's space, (prompts, width of the reference)."""
    own = own_states(group, member, depth)
    return own if member == group.reference else mapping(group, member, variant, depth).map.states(own)


def products_with(group: GroupLab, twin: str, member: str) -> Array:
    """The same, corrected and at the declared depth, with an untrained model mapped like a member in a member's place."""
    names = [twin if name == member else name for name in group.members]
    return inner_products([_mapped(group, name, "corrected", group.depth) for name in names], group.place)


# Directions


def _left_out(group: GroupLab) -> Array:
    """Weights of all prompts, and of all but one unit each: (1 + units, prompts)."""
    prompts = len(labelled(group).labels)
    return np.concatenate([np.ones((1, prompts)), leave_one_cluster_out(units(group), prompts)])


def cosines(group: GroupLab, variant: Variant, depth: float | None = None) -> Array:
    """Cosines of all members' directions with each other, whole and leaving units out: (1 + units, members, members)."""
    return _cosines(group, variant, group.depth if depth is None else depth)


@remembered
def _cosines(group: GroupLab, variant: Variant, depth: float) -> Array:
    contrasts = broadcast(contrast(_left_out(group), labelled(group).labels), len(group.members))
    return direction_cosines(products(group, variant, depth), contrasts)


@remembered
def shuffled_labels(group: GroupLab, draws: int = DRAWS) -> NDArray[np.bool_]:
    """Labels swapped between partners, (draws, prompts): the same swaps in all members, since they read the same prompts."""
    both = labelled(group)
    halves = split_halves(both.labels, units(group), splits=SPLITS, seed=SEED)
    return permuted_labels(both.labels, both.exchangeable, draws=draws, seed=SEED, halves=halves)


@remembered
def shuffled_cosines(group: GroupLab, variant: Variant) -> Array:
    """Cosines of the members' directions for any contrast of these prompts, (draws, members, members)."""
    drawn = label_contrasts(shuffled_labels(group), np.ones(len(labelled(group).labels)))
    return direction_cosines(products(group, variant), broadcast(drawn, len(group.members)))


CrossFitted = Callable[[int, Array, Array, Array], Array]
"""Place of the reference, products, contrasts of one half and of the other (draws, members, prompts) -> (draws, …)."""


def cross_fitted(group: GroupLab, statistic: CrossFitted, depth: float | None = None) -> Array:
    """A statistic of directions from different halves, mean over splits and sides: whole and leaving units out."""
    return _cross_fitted(group, statistic, group.depth if depth is None else depth)


@remembered
def _cross_fitted(group: GroupLab, statistic: CrossFitted, depth: float) -> Array:
    labels = labelled(group).labels
    inner = products(group, "corrected", depth)
    return _over_halves(group, statistic, inner, lambda half: contrast(_left_out(group) * half, labels))


@remembered
def cross_fitted_null(group: GroupLab, statistic: CrossFitted) -> Array:
    """The same under labels swapped in the same way in all members: (draws, …)."""
    labels = shuffled_labels(group)
    inner = products(group, "corrected")
    return _over_halves(group, statistic, inner, lambda half: label_contrasts(labels, half))


@remembered
def cross_fitted_untrained(group: GroupLab, statistic: CrossFitted, member: str) -> Array:
    """The same with each untrained twin in turn in a member's place: (twins, …)."""
    labels = labelled(group).labels
    rows = [
        _over_halves(group, statistic, products_with(group, twin, member), lambda half: contrast(half[None], labels))
        for twin in group.twins
    ]
    return np.concatenate(rows) if rows else np.empty((0, *cross_fitted(group, statistic).shape[1:]))


def untrained_null(draws: Array, value: float) -> Null | None:
    """What untrained models give in the place of members, (twins,)."""
    return Null.of_few("untrained twins of the members in its place", draws, value)


def facts_of_twins(draws: Array, permuted: Null) -> dict[str, float]:
    """Both parts of a null: what untrained twins (twins,) give, and where permuted labels alone end."""
    given = {"untrained_mean": float(draws.mean()), "untrained_most": float(draws.max())} if len(draws) else {}
    return {**given, "permuted_high": permuted.high}


def _over_halves(group: GroupLab, statistic: CrossFitted, inner: Array, fitted: Callable[[Array], Array]) -> Array:
    members = len(group.members)
    halves = split_halves(labelled(group).labels, units(group), splits=SPLITS, seed=SEED)
    rows = [
        statistic(group.place, inner, *(broadcast(fitted(half.astype(np.float64)), members) for half in pair))
        for first in halves
        for pair in ((first, ~first), (~first, first))
    ]
    mean: Array = np.mean(rows, axis=0)
    return mean


# Estimates


def group_estimate(
    group: GroupLab,
    member: str | None,
    value: float,
    interval: Interval,
    units: Units,
    null: Null | None,
    details: Mapping[str, float | None],
    *,
    at_depths: Callable[[float], float] | None = None,
    curves: Mapping[str, Curve] | None = None,
    label: str | None = None,
    notes: Sequence[str] = (),
) -> Estimate:
    """An estimate with its values at other depths and the circumstances of the prompts."""
    known = dict(curves or {})
    if at_depths is not None:
        known["at_depth"] = Curve.along("relative depth", {depth: at_depths(depth) for depth in group.depths})
    return Estimate.of(
        value,
        interval,
        units,
        block=None if member is None else group.block(member),
        curves=known,
        null=null,
        label=label,
        details={**details, "depth": group.depth},
        notes=list(notes),
    )
