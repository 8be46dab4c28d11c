"""All declared claims."""

from __future__ import annotations

from collections.abc import Collection

from geometry_bench.checked import did_you_mean
from geometry_bench.claims import audited, magnitude_variance, safety_compassion, safety_subspaces, universal_direction
from geometry_bench.claims.model import Claim
from geometry_bench.errors import GeometryBenchError
from geometry_bench.records.measurement import case_key

_ALL = (
    *safety_compassion.CLAIMS,
    *magnitude_variance.CLAIMS,
    *universal_direction.CLAIMS,
    *safety_subspaces.CLAIMS,
    *audited.CLAIMS,
)

CLAIMS: dict[str, Claim] = {claim.id: claim for claim in _ALL}
"""Claims by id, in the order in which they are measured: those of single subjects before those of several together."""


def find_claim(claim: str) -> Claim:
    """The claim of an id.

    Raises:
        GeometryBenchError: there is none; the nearest ids are named.
    """
    if claim in CLAIMS:
        return CLAIMS[claim]
    raise GeometryBenchError(f"There is no claim '{claim}'{did_you_mean(claim, CLAIMS)}: see `geometry-bench list`.")


def known_cases(members: Collection[str] = ()) -> frozenset[str]:
    """Case keys of all claims, those for each of a group's ``members`` among them."""
    return frozenset(
        case_key(claim.id, case.key) for claim in CLAIMS.values() for case in claim.cases_of(tuple(members))
    )
