"""Statements of source B that take a check of their own; the others declare theirs in the published file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from geometry_bench.claims.checks import Observation, listing
from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.transfer import best_penalty, null_cosine, universal_from_gram
from geometry_bench.published.publication import Publication


def _clusters(stated: Mapping[str, Any], publication: Publication) -> Observation:
    found: dict[str, Any] = {}
    said, clustered = [], True
    for name in stated["groups"]:
        cosines = {member.label: member.number("universal_cosine") for member in publication.members(name)}
        mean, chance = float(np.mean([*cosines.values()])), null_cosine(len(cosines))
        below = [f"{label} {value:.2f}" for label, value in cosines.items() if value <= chance]
        clustered = clustered and mean > chance
        found |= {f"{name}.mean": mean, f"{name}.orthogonal": chance, f"{name}.below": below}
        said.append(
            f"{mean:.4f} on average in the {name} group against {chance:.4f} for {len(cosines)} orthogonal directions"
            + (f", which {listing(below)} does not reach" if below else "")
        )
    return Observation(found, clustered, f"Cosines: {'; '.join(said)}.")


def _svd_rule(stated: Mapping[str, Any], publication: Publication) -> Observation:
    off: dict[str, float] = {}
    for name, group in publication.groups.items():
        place = group.members.index(group.reference)
        computed = universal_from_gram(np.array(publication.gram(name)), place).cosines
        for member, value in zip(publication.members(name), computed, strict=True):
            off[member.label] = abs(float(value) - member.number("universal_cosine"))
    worst = max(off, key=lambda label: off[label])
    return Observation(
        off,
        off[worst] <= stated["tolerance"],
        f"From the cosines of the pairs the rule gives all {len(off)} cosines with the universal direction within "
        f"{off[worst]:.4f} ({worst}); needed: {stated['tolerance']:g}.",
    )


def _weak_gain(stated: Mapping[str, Any], publication: Publication) -> Observation:
    ranked = sorted(publication.members(stated["group"]), key=lambda member: member.number("auroc_native"))
    gains = {m.label: m.number("auroc_universal") - m.number("auroc_native") for m in ranked}
    signs = [gain > 0 for gain in gains.values()]
    return Observation(
        gains,
        signs[0] and signs == sorted(signs, reverse=True),
        "From the weakest native direction to the strongest, AUROC changes by "
        f"{', '.join(f'{label} {gain:+.4f}' for label, gain in gains.items())}.",
    )


def _moderate(stated: Mapping[str, Any], publication: Publication) -> Observation:
    found: dict[str, float] = {}
    said, inside = [], True
    for subject in publication.subjects.values():
        errors = subject.curve(stated["curve"])
        if errors is None:
            continue
        best = best_penalty(list(errors), np.array(list(errors.values())))
        inside = inside and not best.at_edge
        found |= {f"{subject.key}.penalty": best.penalty, f"{subject.key}.error": best.error}
        said.append(
            f"{subject.label} {best.error:.4f} at λ = {best.penalty:g}"
            + (", an end of the grid" if best.at_edge else "")
            + f" ({max(errors.values()) - best.error:.4f} below the worst of {len(errors)})"
        )
    if not found:
        raise GeometryBenchError(f"{publication.id} has no curve {stated['curve']!r} to check; restore the file.")
    return Observation(found, inside, f"Least error: {'; '.join(said)}.")


FUNCTIONS = {
    "shared_axis.clusters": _clusters,
    "shared_axis.svd_rule": _svd_rule,
    "auroc.weak_directions_gain": _weak_gain,
    "alignment_error.moderate": _moderate,
}
