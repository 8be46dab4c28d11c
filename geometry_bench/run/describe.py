"""What a run reports before it measures and when it ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from geometry_bench.labs.questions import abilities
from geometry_bench.prompts.names import ROLES
from geometry_bench.prompts.own import OwnPrompts
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.records.baselines import short_revision
from geometry_bench.records.judgement import Judgement
from geometry_bench.report.comparison import comparisons
from geometry_bench.report.glance import glance
from geometry_bench.report.outcomes import warnings_of
from geometry_bench.report.summary import notes_of, summary_tables
from geometry_bench.report.terminal import columns, folded
from geometry_bench.run.bench import Bench
from geometry_bench.run.targets import ModelTarget, Prompts


def opening(bench: Bench) -> Iterator[str]:
    """The effective settings: subjects with revision and size, families, groups, prompts, baselines, results."""
    pinned, prompts, output = bench.plan.pinned, bench.plan.prompts, bench.output
    families: dict[str, list[str]] = {}
    for name, target in pinned.models.items():
        spec, identity = target.spec, target.identity
        yield (
            f"{name} at {short_revision(identity.revision)}, {identity.layers} blocks × {identity.width}, "
            f"dtype {spec.dtype}, device {spec.device}, alignment {spec.alignment or 'not declared'}"
        )
        if spec.family is not None:
            families.setdefault(spec.family, []).append(_member(target))
    yield from (f"family {name}: {', '.join(members)}" for name, members in families.items())
    for group in pinned.groups.values():
        members, depth = ", ".join(group.members), prompts.depth
        yield f"{group.id}: {members}; reference {group.reference}, relative depth {depth:.2f}"
    for same in pinned.checkpoints():
        if len(same) > 1:
            yield f"one checkpoint under several names: {', '.join(target.id for target in same)}"
    yield from _prompts(bench)
    if bench.plan.settings.judge.grades:
        yield f"harm judged by {bench.plan.judge.name}"
    yield (
        f"baselines {bench.baselines.store.roots[0]}"
        + "".join(f", against {found.path}" for found in bench.baselines.against)
        + (f", update {'+'.join(output.update)}" if output.update else "")
        + (f"; results {bench.results.path}" if bench.results else "")
    )


def _prompts(bench: Bench) -> Iterator[str]:
    """The pack and the sets of each subject; one line for all that have the same."""
    pinned, prompts = bench.plan.pinned, bench.plan.prompts
    subjects: dict[OwnPrompts | None, list[str]] = {}
    for target in (*pinned.models.values(), *pinned.groups.values()):
        subjects.setdefault(target.own, []).append(target.id)
    for own in subjects or {None: []}:
        found = prompts.of(own)
        of = f" of {', '.join(subjects[own])}:" if len(subjects) > 1 else ""
        yield f"prompts{of} {found.pack.id} {found.pack.hash[:12]}, controls {found.pack.controls_from}{_sets(found)}"


def _sets(prompts: Prompts) -> str:
    """The sets that are not the built-in ones, those of one file together; and tasks."""
    requests = prompts.requests
    named = [role for role in ROLES if requests.source(role) != RequestSettings().source(role)]
    by_file: dict[str, list[str]] = {}
    for role in named:
        by_file.setdefault(requests.load(role).name.partition(":")[0], []).append(role)
    tasks = [f"{one.label} ({len(one.topics)} documents)" for one in (abilities(requests) if requests.tasks else ())]
    named_sets = [f"; {', '.join(roles)} from {file}" for file, roles in by_file.items()]
    return "".join([*named_sets, *([f"; tasks {', '.join(tasks)}"] if tasks else [])])


def _member(target: ModelTarget) -> str:
    """``aligned-useful (useful, from aligned)``; the role is left out where it is the name."""
    spec = target.spec
    name, parent = (str(text).rpartition("/")[2] for text in (spec.name, spec.parent or ""))
    facts = [*([spec.role] if spec.role and spec.role != name else []), *([f"from {parent}"] if parent else [])]
    return f"{name} ({', '.join(facts)})" if facts else name


def closing(bench: Bench, judged: Sequence[Judgement], written: Sequence[Path] | None, *, whole: bool) -> Iterator[str]:
    """What was found at a glance, tables, counts, warnings, the files written; ``written`` is None for a run cut short."""
    width = columns()
    if judged and bench.output.against is not None:
        yield from (line for one in comparisons(judged, bench.output.undecided) for line in folded(one.answer))
        yield ""
    if judged:
        yield from glance(judged, width)
        yield ""
        yield summary_tables(judged, whole=whole, width=width)
        yield ""
    yield from (line for note in notes_of(judged) for line in folded(f"note: {note}"))
    yield from (line for warning in warnings_of(judged) for line in folded(f"warning: {warning}"))
    yield from (f"baseline written: {path}" for path in written or ())
    if bench.output.update and written is None:
        yield "warning: no baseline was written, since the run was cut short: run it again to its end"
    elif bench.output.update and not written:
        yield "no baseline file needed a change"
    if bench.output.report is not None and judged:
        yield f"report: {bench.output.report}"
    if bench.results is not None:
        yield f"records: {bench.results.path}"
