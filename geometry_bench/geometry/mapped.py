"""Directions and scores of several models' mapped states, from the states' inner products alone (source B).

All members' states of the same prompts are in the reference's space. A direction there is a contrast of prompts, a weight
for each, applied to a member's states; so inner products between all pairs of prompts and members give every cosine and
every score, and the hundreds of fits of a jackknife over splits do not touch the states again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.clusters import two_classes
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.scorers import Scorer, contrast
from geometry_bench.geometry.transfer import universal_from_gram, weights_without


def inner_products(states: Sequence[Array], reference: int = 0) -> Array:
    """⟨z_i(p), z_j(q)⟩ of mapped states, each (prompts, width): (members, members, prompts, prompts).

    All are taken about the mean of the reference's states: one shift for all, so that scores stay comparable between
    members. Raises GeometryBenchError for fewer than two members, unequal shapes, NaN, or a member without any spread.
    """
    members = [np.asarray(member, dtype=np.float64) for member in states]
    if len(members) < 2:
        raise GeometryBenchError("a shared direction needs two models or more, but there is one: add models")
    if len({member.shape for member in members}) != 1 or members[0].ndim != 2:
        raise GeometryBenchError(
            f"mapped states must be of the same prompts in one space, but have shapes {[m.shape for m in members]}"
        )
    for place, member in enumerate(members):
        if not np.isfinite(member).all():
            raise GeometryBenchError(f"the mapped states of member {place} hold NaN or infinity: check its weights")
        if not (member - member[:1]).any():
            raise GeometryBenchError(
                f"the activations of member {place} are the same for every prompt, so nothing separates them: "
                "check the layer"
            )
    stacked = np.stack(members) - members[reference].mean(axis=0)
    products: Array = np.einsum("ipw,jqw->ijpq", stacked, stacked, optimize=True)
    return products


def direction_cosines(products: Array, contrasts: Array) -> Array:
    """Cosines of the members' directions, contrasts (draws, members, prompts) -> (draws, members, members).

    GeometryBenchError where a direction is zero.
    """
    cosines = cross_fitted_cosines(products, contrasts, contrasts)
    cosines = (cosines + cosines.transpose(0, 2, 1)) / 2
    cosines[:, range(len(products)), range(len(products))] = 1.0
    return cosines


def cross_fitted_cosines(products: Array, first: Array, second: Array) -> Array:
    """Cosine of member i's direction by ``first`` with member j's by ``second``: (draws, members, members).

    With contrasts (draws, members, prompts) of different prompts the two directions share no sampling noise. A map carries
    noise over as well as anything else: members that read the same prompts agree about it. GeometryBenchError where a
    direction is zero.
    """
    inner = np.einsum("dip,ijpq,djq->dij", first, products, second, optimize=True)
    cosines: Array = inner / (_lengths(products, first)[:, :, None] * _lengths(products, second)[:, None, :])
    return cosines


def cross_fitted_with_shared(products: Array, first: Array, second: Array, *, reference: int = 0) -> Array:
    """Cosine of each member's direction by ``first`` with the one that the others share by ``second``: (draws, members)."""
    cross_fitted, grams = cross_fitted_cosines(products, first, second), direction_cosines(products, second)
    rows = []
    for cosines, gram in zip(cross_fitted, grams, strict=True):
        weights = np.array([weights_without(gram, member, reference) for member in range(len(gram))])
        lengths = np.sqrt(np.einsum("mi,ij,mj->m", weights, gram, weights))
        rows.append((cosines * weights).sum(axis=1) / lengths)
    return np.array(rows)


def _lengths(products: Array, contrasts: Array) -> Array:
    """Lengths of the members' directions, (draws, members)."""
    own = np.array([products[member, member] for member in range(len(products))])
    squares = np.einsum("dip,ipq,diq->di", contrasts, own, contrasts, optimize=True)
    if not (np.isfinite(squares).all() and (squares > 0).all()):
        raise GeometryBenchError("a direction is zero or not finite: check whether its two class means are equal")
    lengths: Array = np.sqrt(squares)
    return lengths


def broadcast(contrasts: Array, members: int) -> Array:
    """One contrast for all members: (draws, prompts) -> (draws, members, prompts)."""
    repeated: Array = np.repeat(contrasts[:, None], members, axis=1)
    return repeated


def shared_scores(
    products: Array, contrasts: Array, member: int, *, reference: int = 0, leave_one_out: bool = True
) -> Array:
    """Projections of a member's states on the shared unit direction, (draws, prompts); contrasts (draws, members, prompts).

    ``leave_one_out`` takes the direction of the others, so that the member does not help to define its own yardstick.
    """
    cosines, lengths = direction_cosines(products, contrasts), _lengths(products, contrasts)
    towards = np.einsum("jpq,djq->djp", products[member], contrasts, optimize=True) / lengths[:, :, None]
    rows = []
    for gram, row in zip(cosines, towards, strict=True):
        weights = (
            weights_without(gram, member, reference) if leave_one_out else universal_from_gram(gram, reference).weights
        )
        rows.append(weights @ row / np.sqrt(weights @ gram @ weights))
    return np.array(rows)


def shared_scorer(
    products: Array, labels: Array, member: int, *, reference: int = 0, leave_one_out: bool = True
) -> Scorer:
    """Score = projection of a member's mapped states on the direction shared by the members' fitted prompts."""
    flags = two_classes(labels)

    def score(weights: Array) -> Array:
        fitted = broadcast(contrast(weights, flags), len(products))
        return shared_scores(products, fitted, member, reference=reference, leave_one_out=leave_one_out)

    return score
