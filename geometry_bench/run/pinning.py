"""From what is asked for to targets: models pinned to their revisions, groups and families of them. Loads nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from geometry_bench.errors import GeometryBenchError
from geometry_bench.prompts.own import OwnPrompts
from geometry_bench.published.alignment import alignment_group_of
from geometry_bench.published.load import SOURCES, load_publication
from geometry_bench.records.baselines import revision_name
from geometry_bench.run.targets import FamilyTarget, GroupTarget, ModelTarget
from geometry_bench.storage import digest_lines
from geometry_bench.subjects.families import Family, embedded_specs
from geometry_bench.subjects.groups import OF_THE_RUN, Group
from geometry_bench.subjects.spec import Identity, SubjectSpec, resolve
from geometry_bench.updates.checkpoint import revision_of

if TYPE_CHECKING:
    from geometry_bench.subjects.subject import Subject

Checkpoint = tuple[str, str, str | None]


class Pinned:
    """The targets of a run by id; ``known`` holds those members of groups too that are not measured on their own.

    Raises:
        GeometryBenchError: a model that cannot be pinned, two subjects of one id, one checkpoint declared as aligned in two
            ways, or a group whose members are one checkpoint twice.
    """

    def __init__(
        self,
        specs: Sequence[SubjectSpec],
        live: Sequence[Subject],
        groups: Sequence[Group],
        families: Sequence[Family],
    ) -> None:
        subjects = [_resolved(spec) for spec in specs]
        members = {group.id: {name: _resolved(spec) for name, spec in group.members.items()} for group in groups}
        self._methods = _declared_methods([*subjects, *(one for group in members.values() for one in group.values())])
        self.known: dict[str, ModelTarget] = {}
        for spec, identity in subjects:
            self._add(spec, identity)
        for subject in live:
            self._add(subject.spec, subject.identity, subject)
        self.models = dict(self.known)
        self.groups = {group.id: self._group(group, members[group.id]) for group in groups}
        self.families = {family.id: family for family in map(_family, families)}

    def _add(self, spec: SubjectSpec, identity: Identity, live: Subject | None = None) -> ModelTarget:
        method = self._methods.get(_checkpoint(identity)) or spec.alignment or self._published_method(identity.name)
        spec = replace(spec, alignment=method)
        name = _subject_id(spec, identity)
        target = ModelTarget(name, spec, identity, live)
        if self.known.get(name, target) != target:
            target = replace(target, id=f"{name}@{revision_name(identity.revision)[:19]}")
        if self.known.setdefault(target.id, target) != target:
            raise GeometryBenchError(
                f"Two subjects of this run would both be called {target.id} ({self.known[target.id].spec.model} and "
                f"{spec.model}); measure them in runs of their own."
            )
        return target

    @staticmethod
    def _published_method(name: str) -> str | None:
        found = (load_publication(source).find(name) for source in SOURCES if "/" in name)
        return next((subject.alignment_method for subject in found if subject and subject.alignment_method), None)

    def _group(self, group: Group, resolved: Mapping[str, tuple[SubjectSpec, Identity]]) -> GroupTarget:
        members: dict[str, ModelTarget] = {}
        for name, (spec, identity) in resolved.items():
            same = (known for known in self.known.values() if known.checkpoint == _checkpoint(identity))
            members[name] = next(same, None) or self._add(spec, identity)
        checkpoints = {name: target.checkpoint[1:] for name, target in members.items()}
        for name, checkpoint in checkpoints.items():
            twin = next(other for other, found in checkpoints.items() if found == checkpoint)
            if twin != name:
                raise GeometryBenchError(
                    f"{twin} and {name} of the group {group.id} are the same checkpoint: name each model once."
                )
        content = [f"{name} {checkpoint}" for name, checkpoint in checkpoints.items()]
        digest = digest_lines([*content, f"about {checkpoints[group.reference]}"])
        reference = group.reference
        if group.id == OF_THE_RUN:  # made of the run's subjects, which have ids already; not a folder's path
            reference, members = members[reference].id, {target.id: target for target in members.values()}
        prompts = group.prompts or _shared_prompts(members.values())
        return GroupTarget(group.id, reference, members, f"sha256:{digest}", prompts)

    def of(self, specs: Iterable[SubjectSpec]) -> list[ModelTarget]:
        """The models that were asked for by these specs."""
        return [self.models[spec.name or spec.model] for spec in specs]

    def checkpoints(self) -> list[tuple[ModelTarget, ...]]:
        """The models, those with the same weights together: one checkpoint can go by several names."""
        same: dict[tuple[str, str | None], list[ModelTarget]] = {}
        for target in self.models.values():
            same.setdefault(target.checkpoint[1:], []).append(target)
        return [tuple(targets) for targets in same.values()]


def _shared_prompts(members: Iterable[ModelTarget]) -> OwnPrompts | None:
    """What all members' manifests name; None where they differ, since all members of a group read the same."""
    named = {member.own for member in members}
    return named.pop() if len(named) == 1 else None


def _family(family: Family) -> FamilyTarget:
    members = {member.name: revision_of(family.spec(member)) for member in family.members}
    content = [f"{member.name} {member.role} {member.parent} {members[member.name]}" for member in family.members]
    return FamilyTarget(f"family/{family.id}", family, members, f"sha256:{digest_lines(sorted(content))}")


def _subject_id(spec: SubjectSpec, identity: Identity) -> str:
    """A subject as in test ids: its name, and its adapter's where there is one."""
    name = spec.name or identity.name
    return name if identity.adapter is None or spec.family is not None else f"{name}+{identity.adapter}"


def _resolved(spec: SubjectSpec) -> tuple[SubjectSpec, Identity]:
    declared = _as_declared(spec)
    return declared, resolve(declared)


def _as_declared(spec: SubjectSpec) -> SubjectSpec:
    """The spec with what the zoo's manifests say of an embedded model that was asked for by its own name.

    Raises:
        GeometryBenchError: an alignment method that is not known.
    """
    if spec.alignment is not None:
        alignment_group_of(spec.alignment)
    if spec.family is not None or not spec.model.startswith("zoo/"):
        return spec
    known = next((s for s in embedded_specs() if s.name == spec.model.rstrip("/")), None)
    if known is None:
        return spec
    spec = replace(spec, alignment=spec.alignment or known.alignment, prompts=known.prompts)
    if spec.adapter is not None:
        return spec  # with an adapter on it, it is no longer the member
    place = {name: getattr(known, name) for name in ("model", "name", "family", "role", "parent")}
    return replace(spec, **place)


def _checkpoint(identity: Identity) -> Checkpoint:
    """What a checkpoint's baseline goes by."""
    return identity.name, identity.revision, identity.adapter_hash


def _declared_methods(resolved: Iterable[tuple[SubjectSpec, Identity]]) -> dict[Checkpoint, str]:
    """The alignment method declared for each checkpoint, by where its baseline is kept.

    Raises:
        GeometryBenchError: two subjects that share a baseline are declared differently, so that their verdicts would
            overwrite one another.
    """
    methods: dict[Checkpoint, str] = {}
    for spec, identity in resolved:
        if spec.alignment is not None:
            method = methods.setdefault(_checkpoint(identity), spec.alignment)
            if method != spec.alignment:
                raise GeometryBenchError(
                    f"{identity.name} is declared as aligned by {method!r} and by {spec.alignment!r} in one run; "
                    "declare one method, in the manifests or with --alignment."
                )
    return methods
