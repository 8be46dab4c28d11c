"""Audit of source B: its sentences against its own table of AUROC, matrices of cosines and ridge errors.

The sentences, their places and their figures stand in ``baselines/published/universal_direction.json``; each has its check
here, by the same id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from geometry_bench.claims.audit import Checks, Finding, Observation, Statement
from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.transfer import best_penalty, null_cosine, universal_from_gram
from geometry_bench.published.schema import FigureSubject, PublishedFigures, load_figures

SOURCE = "universal_direction"

Stated = Mapping[str, Any]
_check: Checks[PublishedFigures] = Checks()


def statements(published: PublishedFigures) -> tuple[Statement, ...]:
    """The audited sentences in the file's order."""
    return _check.statements(published)


def audit(published: PublishedFigures | None = None) -> list[Finding]:
    """Check every sentence of source B, against ``published`` or against the stored figures."""
    return _check.audit(load_figures(SOURCE) if published is None else published)


# -- the shared axis --------------------------------------------------------------------------------------------------


@_check("shared_axis.mean_cosine")
def _mean_cosine(stated: Stated, published: PublishedFigures) -> Observation:
    subjects = published.subjects.values()
    mean = _mean(subjects, _universal)
    mapped = _mean([s for s in subjects if "reference_cosine" in s.figures], _universal)
    groups = {name: _mean(published.members(name), _universal) for name in published.groups}
    by_group = ", ".join(f"{value:.4f} in the {name} group" for name, value in groups.items())
    return Observation(
        {"mean": mean, "groups": groups, "without_references": mapped},
        abs(mean - stated["value"]) <= published.resolution + 1e-9,
        f"The mean is {mean:.4f} over {len(subjects)} models, {by_group}, {mapped:.4f} without the references; stated "
        f"{stated['value']:.2f}.",
    )


@_check("shared_axis.clusters")
def _clusters(stated: Stated, published: PublishedFigures) -> Observation:
    found, said, clustered = {}, [], True
    for name in stated["groups"]:
        members = published.members(name)
        mean, chance = _mean(members, _universal), null_cosine(len(members))
        below = {s.label: _universal(s) for s in members if _universal(s) <= chance}
        clustered = clustered and mean > chance
        found[name] = {"mean": mean, "orthogonal": chance, "below": below}
        said.append(
            f"{mean:.4f} on average in the {name} group against {chance:.4f} for {len(members)} orthogonal directions"
            + (f", which {_listing(below, '.2f')} does not reach" if below else "")
        )
    return Observation(found, clustered, f"Cosines: {'; '.join(said)}.")


@_check("shared_axis.svd_rule")
def _svd_rule(stated: Stated, published: PublishedFigures) -> Observation:
    off: dict[str, float] = {}
    for name, group in published.groups.items():
        computed = universal_from_gram(np.array(published.gram(name)), group.members.index(group.reference)).cosines
        off |= {
            s.label: abs(float(value) - _universal(s))
            for s, value in zip(published.members(name), computed, strict=True)
        }
    worst = max(off, key=lambda label: off[label])
    return Observation(
        {"differences": off},
        off[worst] <= stated["tolerance"],
        f"From the cosines of the pairs the rule gives all {len(off)} cosines with the universal direction within "
        f"{off[worst]:.4f} ({worst}); needed: {stated['tolerance']:g}.",
    )


@_check("reference.above_half")
def _above_half(stated: Stated, published: PublishedFigures) -> Observation:
    values = {
        s.label: s.figures["reference_cosine"] for s in published.subjects.values() if "reference_cosine" in s.figures
    }
    below = {label: value for label, value in values.items() if not value > stated["bound"]}
    return Observation(
        {"cosines": values, "below": below},
        not below,
        f"{len(values) - len(below)} of {len(values)} lie above {stated['bound']:g}"
        + (f"; not {_listing(below, '.2f')}." if below else f", the lowest at {min(values.values()):.2f}."),
    )


# -- AUROC ------------------------------------------------------------------------------------------------------------


@_check("auroc.matches_overall")
def _matches_overall(stated: Stated, published: PublishedFigures) -> Observation:
    subjects = published.subjects.values()
    gains = {s.label: _gain(s) for s in subjects}
    # A model whose universal AUROC is lower by no more than the source's resolution still "matches".
    matching = {label: gain for label, gain in gains.items() if gain >= -published.resolution}
    native = _mean(subjects, lambda s: _figure(s, "auroc_native"))
    universal = _mean(subjects, lambda s: _figure(s, "auroc_universal"))
    return Observation(
        {"gains": gains, "matching": list(matching), "mean_native": native, "mean_universal": universal},
        len(matching) > stated["share"] * len(gains) and universal >= native - published.resolution,
        f"It does in {len(matching)} of {len(gains)} models"
        + (f" ({_listing(matching, '+.4f')})" if matching else "")
        + f"; the mean goes from {native:.4f} to {universal:.4f}.",
    )


@_check("auroc.small_models_most")
def _small_most(stated: Stated, published: PublishedFigures) -> Observation:
    small, large = (_mean(published.members(name), _gain) for name in stated["groups"])
    most = max(published.subjects.values(), key=_gain)
    return Observation(
        {"small": small, "large": large, "most": most.key},
        small > max(large, 0.0),
        f"Mean change of AUROC {small:+.4f} in the {stated['groups'][0]} group, {large:+.4f} in the "
        f"{stated['groups'][1]} one; the largest gain of one model is {_gain(most):+.4f} ({most.label}).",
    )


@_check("auroc.weak_directions_gain")
def _weak_gain(stated: Stated, published: PublishedFigures) -> Observation:
    ranked = sorted(published.members(stated["group"]), key=lambda s: _figure(s, "auroc_native"))
    gains = {s.label: _gain(s) for s in ranked}
    signs = [gain > 0 for gain in gains.values()]
    return Observation(
        {"gains": gains},
        signs[0] and signs == sorted(signs, reverse=True),
        f"From the weakest native direction to the strongest, AUROC changes by {_listing(gains, '+.4f')}.",
    )


@_check("regime_break.llama2")
def _regime_break(stated: Stated, published: PublishedFigures) -> Observation:
    broken = [
        s
        for s in published.subjects.values()
        if s.figures.get("reference_cosine", 0.0) > stated["cosine"]
        and _figure(s, "auroc_universal") < stated["chance"]
    ]
    said = ", ".join(
        f"{s.label} (cosine {s.figures['reference_cosine']:.2f}, AUROC {_figure(s, 'auroc_universal'):.4f}, or "
        f"{1 - _figure(s, 'auroc_universal'):.4f} with the sign turned)"
        for s in broken
    )
    return Observation(
        {"broken": [s.key for s in broken]},
        stated["subject"] in [s.key for s in broken],
        f"With the reference above {stated['cosine']:g}, yet below an AUROC of {stated['chance']:g}: {said or 'none'}.",
    )


# -- the maps ---------------------------------------------------------------------------------------------------------


@_check("alignment_error.moderate")
def _moderate(stated: Stated, published: PublishedFigures) -> Observation:
    found, said = {}, []
    for subject in published.subjects.values():
        errors = subject.profile(stated["profile"])
        if errors is None:
            continue
        best = best_penalty(list(errors), np.array(list(errors.values())))
        spread = max(errors.values()) - best.error
        found[subject.key] = {"penalty": best.penalty, "error": best.error, "at_edge": best.at_edge}
        said.append(
            f"{subject.label} {best.error:.4f} at λ = {best.penalty:g}"
            + (", an end of the grid" if best.at_edge else "")
            + f" ({spread:.4f} below the worst of {len(errors)})"
        )
    if not found:
        raise GeometryBenchError(f"{published.id} has no figures {stated['profile']!r} to check; restore the file.")
    return Observation(found, not any(best["at_edge"] for best in found.values()), f"Least error: {'; '.join(said)}.")


# -- helpers ----------------------------------------------------------------------------------------------------------


def _figure(subject: FigureSubject, name: str) -> float:
    value = subject.figure(name)
    if value is None:
        raise GeometryBenchError(f"{subject.key} has no {name} in the published figures; restore the file.")
    return value


def _universal(subject: FigureSubject) -> float:
    return _figure(subject, "universal_cosine")


def _gain(subject: FigureSubject) -> float:
    """AUROC on the universal direction less that on the native one."""
    return _figure(subject, "auroc_universal") - _figure(subject, "auroc_native")


def _mean(subjects: Iterable[FigureSubject], value: Callable[[FigureSubject], float]) -> float:
    return float(np.mean([value(subject) for subject in subjects]))


def _listing(values: Mapping[str, float], form: str) -> str:
    return ", ".join(f"{label} {value:{form}}" for label, value in values.items())
