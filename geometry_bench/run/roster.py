"""Who is measured in a run: models pinned to their revisions, groups and families of them. Nothing is loaded here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from geometry_bench.errors import GeometryBenchError
from geometry_bench.published.alignment import alignment_group_of
from geometry_bench.records.files import revision_name
from geometry_bench.subjects.families import Family, embedded_specs
from geometry_bench.subjects.groups import OF_THE_RUN, Group
from geometry_bench.subjects.hashing import lines_hash
from geometry_bench.subjects.spec import Identity, SubjectSpec, resolve
from geometry_bench.updates.checkpoint import revision_of

Subject = tuple[SubjectSpec, Identity]
PublishedMethod = Callable[[str], str | None]
"""A model's name -> how it was aligned, where a source says so."""


@dataclass(frozen=True)
class PinnedGroup:
    """A group whose members are pinned: name in the group -> id among :attr:`Roster.known`."""

    id: str
    reference: str
    members: Mapping[str, str]
    revision: str
    """Content hash of the members' revisions and of which of them is the reference."""


FAMILY = "family"
"""Stands before a family's name where its weights are the subject."""


@dataclass(frozen=True)
class PinnedFamily:
    """A family whose weights are measured; ``revision`` is the content hash of its members' revisions and roles."""

    id: str
    family: Family
    members: Mapping[str, str]
    """Member -> revision."""
    revision: str


class Roster:
    """The subjects of a run by their ids in test ids and records, and what they are measured in together.

    ``known`` holds the subjects and those members of groups that are not measured on their own.

    Raises:
        GeometryBenchError: a model that cannot be pinned, two subjects of one id, one checkpoint declared as aligned in two
            ways, or a group whose members are one checkpoint twice.
    """

    def __init__(
        self,
        specs: Sequence[SubjectSpec],
        groups: Sequence[Group] = (),
        families: Sequence[Family] = (),
        published_method: PublishedMethod = lambda name: None,
    ) -> None:
        self._published_method = published_method
        self.subjects = self._pinned(specs)
        self.known = dict(self.subjects)
        self.groups = {group.id: self._pinned_group(group) for group in groups}
        self.families = {pinned.id: pinned for pinned in map(self._pinned_family, families)}

    def _pinned(self, specs: Sequence[SubjectSpec]) -> dict[str, Subject]:
        known = [_as_declared(spec) for spec in specs]
        resolved = [(spec, resolve(spec)) for spec in known]
        methods = _declared_methods(resolved)
        pinned: dict[str, Subject] = {}
        for spec, identity in resolved:
            method = methods.get(_checkpoint(identity)) or self._published_method(identity.name)
            spec = replace(spec, alignment=method)
            name = subject_id(spec, identity)
            if name in pinned and pinned[name] != (spec, identity):
                name = f"{name}@{revision_name(identity.revision)[:19]}"
            if pinned.setdefault(name, (spec, identity)) != (spec, identity):
                raise GeometryBenchError(
                    f"Two subjects of this run would both be called {name} ({pinned[name][0].model} and {spec.model}); "
                    "measure them in runs of their own."
                )
        return pinned

    def _pinned_group(self, group: Group) -> PinnedGroup:
        members: dict[str, str] = {}
        for name, spec in group.members.items():
            spec = _as_declared(spec)
            identity = resolve(spec)
            same = (id for id, known in self.known.items() if _checkpoint(known[1]) == _checkpoint(identity))
            members[name] = next(same, None) or self._add(spec, identity)
        checkpoints = {name: _checkpoint(self.known[id][1])[1:] for name, id in members.items()}
        for name, checkpoint in checkpoints.items():
            twin = next(other for other, found in checkpoints.items() if found == checkpoint)
            if twin != name:
                raise GeometryBenchError(
                    f"{twin} and {name} of the group {group.id} are the same checkpoint: name each model once."
                )
        content = [f"{name} {checkpoint}" for name, checkpoint in checkpoints.items()]
        digest = lines_hash([*content, f"about {checkpoints[group.reference]}"])
        reference = group.reference
        if (
            group.id == OF_THE_RUN
        ):  # made of the run's subjects, which have ids already; a folder's own name, not its path
            members, reference = {id: id for id in members.values()}, members[reference]
        return PinnedGroup(group.id, reference, members, f"sha256:{digest}")

    def _pinned_family(self, family: Family) -> PinnedFamily:
        members = {member.name: revision_of(family.spec(member)) for member in family.members}
        content = [f"{member.name} {member.role} {member.parent} {members[member.name]}" for member in family.members]
        digest = lines_hash(sorted(content))
        return PinnedFamily(f"{FAMILY}/{family.id}", family, members, f"sha256:{digest}")

    def _add(self, spec: SubjectSpec, identity: Identity) -> str:
        name = subject_id(spec, identity)
        if name in self.known:
            name = f"{name}@{revision_name(identity.revision)[:19]}"
        method = spec.alignment or self._published_method(identity.name)
        self.known[name] = (replace(spec, alignment=method), identity)
        return name

    def members_by_family(self) -> dict[str, list[SubjectSpec]]:
        """The subjects by the name of their family, in order."""
        families: dict[str, list[SubjectSpec]] = {}
        for spec, _ in self.subjects.values():
            if spec.family is not None:
                families.setdefault(spec.family, []).append(spec)
        return families

    def checkpoints(self) -> list[tuple[str, ...]]:
        """The subjects' ids, those with the same weights together: one checkpoint can go by several names."""
        same: dict[tuple[str, str | None], list[str]] = {}
        for name, (_, identity) in self.subjects.items():
            same.setdefault((identity.revision, identity.adapter_hash), []).append(name)
        return [tuple(names) for names in same.values()]


def subject_id(spec: SubjectSpec, identity: Identity) -> str:
    """A subject as it stands in test ids: its name, and its adapter's where there is one."""
    name = spec.name or identity.name
    return name if identity.adapter is None or spec.family is not None else f"{name}+{identity.adapter}"


def _as_declared(spec: SubjectSpec) -> SubjectSpec:
    """The spec with what the zoo's manifests say of an embedded model that was asked for by its own name.

    Raises:
        GeometryBenchError: an alignment method that is not known.
    """
    if spec.alignment is not None:
        alignment_group_of(spec.alignment)
    known = next((s for s in embedded_specs() if s.name == spec.model.rstrip("/")), None) if _is_zoo(spec) else None
    if known is None:
        return spec
    spec = replace(spec, alignment=spec.alignment or known.alignment)
    if spec.adapter is not None:
        return spec  # with an adapter on it, it is no longer the member
    place = {name: getattr(known, name) for name in ("model", "name", "family", "role", "parent")}
    return replace(spec, **place)


def _is_zoo(spec: SubjectSpec) -> bool:
    return spec.family is None and spec.model.startswith("zoo/")


def _checkpoint(identity: Identity) -> tuple[str, str, str | None]:
    """What a checkpoint's baseline goes by."""
    return identity.name, identity.revision, identity.adapter_hash


def _declared_methods(resolved: Sequence[Subject]) -> dict[tuple[str, str, str | None], str]:
    """The alignment method declared for each checkpoint, by where its baseline is kept.

    Raises:
        GeometryBenchError: two subjects that share a baseline are declared differently, so that their verdicts would
            overwrite one another.
    """
    methods: dict[tuple[str, str, str | None], str] = {}
    for spec, identity in resolved:
        if spec.alignment is not None:
            method = methods.setdefault(_checkpoint(identity), spec.alignment)
            if method != spec.alignment:
                raise GeometryBenchError(
                    f"{identity.name} is declared as aligned by {method!r} and by {spec.alignment!r} in one run; "
                    "declare one method, in the family manifests or with --alignment."
                )
    return methods
