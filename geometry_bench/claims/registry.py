"""All declared claims: the sources' own, those of installed packages, those of a file."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path

from geometry_bench.checked import did_you_mean
from geometry_bench.claims import (
    audited,
    gate,
    magnitude_variance,
    safety_compassion,
    safety_subspaces,
    universal_direction,
)
from geometry_bench.claims.model import Claim
from geometry_bench.errors import GeometryBenchError
from geometry_bench.records.measurement import case_key

ENTRY_POINTS = "geometry_bench.claims"
"""Group of the entry points by which a package declares claims: each names an iterable of them."""

_OWN = (
    *safety_compassion.CLAIMS,
    *magnitude_variance.CLAIMS,
    *universal_direction.CLAIMS,
    *safety_subspaces.CLAIMS,
    *gate.CLAIMS,
    *audited.CLAIMS,
)


def joined(*declared: Iterable[Claim]) -> dict[str, Claim]:
    """Claims by id, in their order.

    Raises:
        GeometryBenchError: two different ones have one id.
    """
    claims: dict[str, Claim] = {}
    for claim in (one for several in declared for one in several):
        if claims.setdefault(claim.id, claim) is not claim:
            raise GeometryBenchError(f"Two claims are called {claim.id}: give one of them another id.")
    return claims


CLAIMS: dict[str, Claim] = joined(_OWN, *(point.load() for point in entry_points(group=ENTRY_POINTS)))
"""Claims by id, in the order in which they are measured."""


def claims_of(files: Iterable[str | Path]) -> dict[str, Claim]:
    """The declared claims and those that Python files declare, each as its ``CLAIMS``.

    Raises:
        GeometryBenchError: no such file, one that does not run or declares none, or two claims of one id.
    """
    return joined(CLAIMS.values(), *map(_declared_in, files))


def _declared_in(file: str | Path) -> list[Claim]:
    path = Path(file)
    if not path.is_file():
        raise GeometryBenchError(f"There is no file {path} with claims; give a Python file that declares CLAIMS.")
    spec = importlib.util.spec_from_file_location(f"geometry_bench_claims_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise GeometryBenchError(f"{path} is no Python file; give one that declares CLAIMS.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file does wrong is the user's to read
        raise GeometryBenchError(f"{path} does not run ({type(error).__name__}: {error}); mend it.") from error
    found = [claim for claim in getattr(module, "CLAIMS", ()) if isinstance(claim, Claim)]
    if not found:
        raise GeometryBenchError(f"{path} declares no claims; give it CLAIMS, a tuple of Claim.")
    return found


def find_claim(claim: str, among: Mapping[str, Claim] = CLAIMS) -> Claim:
    """The claim of an id.

    Raises:
        GeometryBenchError: there is none; the nearest id is named.
    """
    if claim in among:
        return among[claim]
    raise GeometryBenchError(f"There is no claim '{claim}'{did_you_mean(claim, among)}: see `geometry-bench list`.")


def known_cases(members: Collection[str] = (), claims: Mapping[str, Claim] = CLAIMS) -> frozenset[str]:
    """Case keys of all claims, those for each of a group's ``members`` among them."""
    return frozenset(
        case_key(claim.id, case.key) for claim in claims.values() for case in claim.cases_of(tuple(members))
    )
