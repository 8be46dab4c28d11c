"""Statements of source D that take a check of their own; the others declare theirs in the published file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from geometry_bench.claims.checks import Observation, listing
from geometry_bench.published.publication import Publication
from geometry_bench.published.subject import PublishedSubject
from geometry_bench.published.tables import agrees

BASES = ("top_k", "random_k", "random")
MEASURES = ("utility", "harm")


def _orthogonal_caption(stated: Mapping[str, Any], publication: Publication) -> Observation:
    table = publication.table(stated["table"])
    sweeps = [
        [subject.points(f"{under}/{basis}/{measure}") for measure in MEASURES]
        for subject, _, under in _rows(publication, stated["table"])
        for basis in BASES
    ]
    rising = sum(all(y[-1] > y[0] for y in (list(curve.values()) for curve in both)) for both in sweeps)
    return Observation(
        {"caption": table.caption, "section": table.section, "rising": rising, "sweeps": len(sweeps)},
        table.caption == table.section == stated["projection"],
        f"It stands in the section on {table.section} projection; its caption says {table.caption}. Utility and harm end "
        f"higher at the largest SVD fraction than at the smallest in {rising} of {len(sweeps)} sweeps.",
    )


def _top_k(stated: Mapping[str, Any], publication: Publication) -> Observation:
    counts, lower = Counter[str](), []
    for subject, name, under in _rows(publication, stated["table"]):
        for measure in MEASURES:
            controls = {control: subject.points(f"{under}/{control}/{measure}") for control in stated["controls"]}
            for fraction, mine in subject.points(f"{under}/{stated['basis']}/{measure}").items():
                best = max(controls, key=lambda control: controls[control][fraction])
                theirs = controls[best][fraction]
                order = "higher" if mine > theirs else "equal" if mine == theirs else "lower"
                counts[order] += 1
                if order == "lower":
                    lower.append(f"{name} {measure} at ρ={fraction:g} ({mine:g}, {best} {theirs:g})")
    return Observation(
        {**{order: counts[order] for order in ("higher", "equal", "lower")}, "exceptions": lower},
        not lower,
        f"Of {counts.total()} entries {stated['basis']} is above both controls in {counts['higher']}, level with the better "
        f"one in {counts['equal']}, below it in {counts['lower']}" + (f": {listing(lower)}." if lower else "."),
    )


def _no_selective_removal(stated: Mapping[str, Any], publication: Publication) -> Observation:
    entries, selective = 0, []
    for subject, name, under in _rows(publication, stated["table"]):
        tuned_utility, tuned_harm = (subject.number(f"{under}/fine_tuned/{measure}") for measure in MEASURES)
        for basis in BASES:
            utility, harm = (subject.points(f"{under}/{basis}/{measure}") for measure in MEASURES)
            entries += len(utility)
            selective += [
                f"{name} {basis} at ρ={fraction:g}"
                for fraction in utility
                if harm[fraction] < tuned_harm and utility[fraction] >= tuned_utility - publication.resolution - 1e-9
            ]
    return Observation(
        {"entries": entries, "selective": selective},
        not selective,
        f"{len(selective)} of {entries} projected models are less harmful than the fine-tuned one and as useful within "
        f"{publication.resolution:g}" + (f": {listing(selective)}." if selective else "."),
    )


def _contamination(stated: Mapping[str, Any], publication: Publication) -> Observation:
    useful, harmful = (publication.protocol["training_examples"][name] for name in ("useful", "harmful"))
    share = harmful / (useful + harmful)
    return Observation(
        {"share": share, "harmful_per_useful": harmful / useful},
        agrees(stated["share"], share),
        f"{harmful:,} of {useful + harmful:,} examples are harmful, {share:.1%} ({harmful / useful:.1%} of the useful "
        f"ones); stated {stated['share']:.0%}.",
    )


def _rows(publication: Publication, table: str) -> Iterator[tuple[PublishedSubject, str, str]]:
    """The rows of a table: the model, its name with the variant, and what the names of its entries begin with."""
    found = publication.table(table)
    for row in found.rows:
        subject = publication.subjects[row.subject]
        name = subject.label if row.variant == "aligned" else f"{subject.label} ({row.variant})".replace("_", "-")
        yield subject, name, f"{found.under}/{row.variant}"


FUNCTIONS = {
    "tables.2_orthogonal": _orthogonal_caption,
    "parallel.top_k_consistently": _top_k,
    "orthogonal.no_selective_removal": _no_selective_removal,
    "training.contamination": _contamination,
}
