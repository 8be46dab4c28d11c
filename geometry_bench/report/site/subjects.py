"""A page a subject: what it is, and every measurement of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from geometry_bench.records.facts import Facts, ModelFacts, PairFacts
from geometry_bench.records.judgement import Judgement
from geometry_bench.report.board import KINDS, kind_of
from geometry_bench.report.site.contents import Contents, Subject
from geometry_bench.report.site.measured import Shared, Told, environment_facts, inputs_facts, requests_of, shown_of
from geometry_bench.report.site.page import Page, drawings
from geometry_bench.report.site.places import SUBJECTS, anchor, subject_page
from geometry_bench.report.site.shown import tally


def pages(contents: Contents) -> Iterator[Page]:
    """The list of subjects, and a page for each."""
    listed = [_listed(subject, group) for subject, group in contents.subjects.items()]
    listed.sort(key=lambda row: KINDS.index(row["kind"]))  # stable: by name within
    yield Page(SUBJECTS, "subjects.html", "Subjects", "subjects", {"subjects": listed})
    for subject, group in contents.subjects.items():
        yield _page(contents, subject, group)


def _listed(subject: Subject, group: Sequence[Judgement]) -> dict[str, object]:
    facts = group[0].measurement.subject
    return {
        "facts": facts,
        "kind": kind_of(facts),
        "place": subject_page(subject),
        "counts": tally(one.claim.verdict for one in group),
        "count": len(group),
    }


def _page(contents: Contents, subject: Subject, group: Sequence[Judgement]) -> Page:
    facts = group[0].measurement.subject
    shared = Shared()
    by_claim: dict[str, list[Judgement]] = {}
    for one in group:
        by_claim.setdefault(one.measurement.claim, []).append(one)
    sections = [
        {
            "claim": contents.claims[id],
            "id": f"claim-{anchor(id)}",
            "measured": [shown_of(one, contents.claims[id], shared) for one in of_claim],
        }
        for id, of_claim in by_claim.items()
    ]
    fields = {
        **_listed(subject, group),
        "told": facts_of(facts),
        "notes": getattr(facts, "notes", []),
        "members": _members(contents, facts),
        "sections": sections,
        "drawings": drawings(group, "subject"),
        "inputs": [
            (place, inputs_facts(one), requests_of(one), getattr(one, "notes", []))
            for one, place in shared.inputs.values()
        ],
        "environments": [(place, environment_facts(one)) for one, place in shared.environments.values()],
    }
    return Page(subject_page(subject), "subject.html", subject[0], "subjects", fields)


def facts_of(facts: Facts) -> list[Told]:
    """What is known of a subject, in the order in which a person asks."""
    told: list[tuple[str, object]] = [("revision", facts.revision), ("name of its baselines", facts.name)]
    if isinstance(facts, ModelFacts):
        told += [
            ("alignment", facts.alignment or "not declared"),
            ("architecture", f"{facts.architecture}, {facts.layers} blocks × {facts.width}"),
            ("origin", facts.origin),
            ("family", facts.family),
            ("role", facts.role),
            ("made from", facts.parent),
            ("adapter", facts.adapter),
        ]
    told += [
        ("dtype", facts.dtype or "mixed"),
        ("attention kernel", facts.attention),
        ("quantisation", facts.quantisation),
    ]
    if isinstance(facts, ModelFacts):
        told += [
            ("device", facts.device),
            ("chat template", facts.template),
            ("system prompts", facts.system_policy),
            ("text that the template adds", facts.injected_text),
            ("what follows the user's text", facts.prompt_tail),
            ("tokenizer", facts.tokenizer_hash),
            ("template arguments", " ".join(facts.template_arguments) or None),
        ]
    return [Told(name, str(value)) for name, value in told if value is not None]


def _members(contents: Contents, facts: Facts) -> list[dict[str, object]]:
    """The members of several, each with its page where it was measured too."""
    pages_of = {revision: subject_page((id, revision, settings)) for id, revision, settings in contents.subjects}
    found = []
    for name, member in getattr(facts, "members", {}).items():
        place = pages_of.get(member.revision)
        role = member.role
        if isinstance(facts, PairFacts):
            role = "child" if name == facts.child else "parent"
        found.append({"name": name, "member": member, "place": place, "role": role})
    return found
