"""What a claim can be about: one class for each kind of it. Nothing is loaded before a target's lab is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from geometry_bench.claims.model import Case, Claim, Scope
from geometry_bench.labs.family import FamilyLab, family_inputs
from geometry_bench.labs.group import GroupLab, group_hash
from geometry_bench.labs.model import Lab
from geometry_bench.labs.panel import Panel
from geometry_bench.prompts.pack import Pack
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.published.alignment import alignment_group_of
from geometry_bench.published.publication import Publication
from geometry_bench.records.facts import (
    Facts,
    FamilyFacts,
    GroupFacts,
    Inputs,
    MemberFacts,
    ModelFacts,
    PublicationFacts,
    PublicationInputs,
    Requested,
    panel_revision,
    shared,
)
from geometry_bench.records.measurement import Measurement
from geometry_bench.subjects.families import Family
from geometry_bench.subjects.spec import Identity, SubjectSpec
from geometry_bench.subjects.subject import Subject


@dataclass(frozen=True)
class Prompts:
    """The prompts of a run, loaded and checked."""

    pack: Pack
    requests: RequestSettings
    depth: float


@dataclass(frozen=True)
class Key:
    """All that decides a measurement and is known before anything is loaded."""

    claim: str
    version: int
    case: str
    subject: str
    revision: str
    adapter: str | None
    requested: Requested | None
    inputs: str
    alignment: tuple[str, ...] = ()
    """Groups of alignment methods, where the measurement itself depends on them."""

    @classmethod
    def of(cls, one: Measurement) -> Key:
        """The key of what was measured before."""
        subject = one.subject
        return cls(
            one.claim,
            one.claim_version,
            one.case,
            subject.id,
            subject.revision,
            subject.adapter_hash if isinstance(subject, ModelFacts) else None,
            subject.requested if isinstance(subject, ModelFacts | GroupFacts) else None,
            one.inputs.hash if one.inputs is not None else "",
            _alignments({name: facts.alignment for name, facts in subject.members.items()})
            if isinstance(subject, GroupFacts)
            else (),
        )


def _alignments(methods: Mapping[str, str | None]) -> tuple[str, ...]:
    groups = ((name, alignment_group_of(method) if method else "unknown") for name, method in methods.items())
    return tuple(f"{name}: {group}" for name, group in groups)


class Labs(Protocol):
    """Opens the labs of targets; one model is held at a time."""

    def model(self, target: ModelTarget) -> Lab:
        """The lab of a model, loaded."""

    def group(self, target: GroupTarget) -> GroupLab:
        """The lab of a group."""

    def family(self, target: FamilyTarget) -> FamilyLab:
        """The lab of a family's weights."""

    def panel(self, target: PanelTarget, claim: Claim) -> Panel:
        """What was measured on the models of the run."""


class Target(Protocol):
    """A subject of claims of one scope."""

    scope: ClassVar[Scope]
    is_joint: ClassVar[bool]

    @property
    def id(self) -> str:
        """The subject as in test ids."""

    @property
    def name(self) -> str:
        """The name under which baselines are kept."""

    @property
    def revision(self) -> str:
        """Commit or content hash."""

    def cases(self, claim: Claim) -> tuple[Case, ...]:
        """The claim's cases on this subject."""

    def key(self, claim: Claim, case: Case, prompts: Prompts) -> Key | None:
        """What decides the measurement; None for what is always computed again."""

    def open(self, labs: Labs, claim: Claim) -> Any:
        """The lab that the claim's ``measure`` takes."""

    def facts(self, lab: Any) -> Facts:
        """What the record says of the subject."""

    def inputs(self, lab: Any, claim: Claim, prompts: Prompts) -> Inputs | None:
        """What the record says of the inputs."""


@dataclass(frozen=True)
class ModelTarget:
    """One checkpoint, pinned; ``live`` where it is in memory already."""

    scope: ClassVar[Scope] = "model"
    is_joint: ClassVar[bool] = False
    id: str
    spec: SubjectSpec
    identity: Identity
    live: Subject | None = None

    @property
    def name(self) -> str:
        """The checkpoint's own name, whatever the run calls it."""
        return self.identity.name

    @property
    def revision(self) -> str:
        """Commit or content hash."""
        return self.identity.revision

    @property
    def checkpoint(self) -> tuple[str, str, str | None]:
        """What its baseline goes by."""
        return self.name, self.revision, self.identity.adapter_hash

    @property
    def requested(self) -> Requested:
        """What was asked of the loader."""
        return Requested(dtype=self.spec.dtype, device=self.spec.device, attention=self.spec.attention)

    def cases(self, claim: Claim) -> tuple[Case, ...]:
        """The declared cases."""
        return claim.cases

    def key(self, claim: Claim, case: Case, prompts: Prompts) -> Key:
        """Revision, adapter, settings and prompts."""
        inputs = claim.requires.inputs_hash(prompts.pack, prompts.requests)
        _, revision, adapter = self.checkpoint
        return Key(claim.id, claim.version, case.key, self.id, revision, adapter, self.requested, inputs)

    def open(self, labs: Labs, claim: Claim) -> Lab:
        """The model, loaded."""
        return labs.model(self)

    def facts(self, lab: Lab) -> ModelFacts:
        """Facts of the loaded model."""
        return lab.facts(self.id)

    def inputs(self, lab: Lab, claim: Claim, prompts: Prompts) -> Inputs:
        """The prompts as the model was given them."""
        return lab.inputs(claim.requires)


@dataclass(frozen=True)
class GroupTarget:
    """A group whose members are pinned, by their names in it; ``revision`` is a content hash of all that makes it."""

    scope: ClassVar[Scope] = "group"
    is_joint: ClassVar[bool] = True
    id: str
    reference: str
    members: Mapping[str, ModelTarget]
    revision: str

    @property
    def name(self) -> str:
        """Its id."""
        return self.id

    def cases(self, claim: Claim) -> tuple[Case, ...]:
        """The declared cases and those of members."""
        return claim.cases_of(tuple(self.members), self.reference)

    def key(self, claim: Claim, case: Case, prompts: Prompts) -> Key:
        """Revision, settings, prompts, and how the members were aligned."""
        inputs = group_hash(claim.requires, prompts.requests, prompts.depth)
        methods = _alignments({name: member.spec.alignment for name, member in self.members.items()})
        return Key(claim.id, claim.version, case.key, self.id, self.revision, None, self._requested, inputs, methods)

    @property
    def _requested(self) -> Requested:
        return next(iter(self.members.values())).requested

    def open(self, labs: Labs, claim: Claim) -> GroupLab:
        """The group's lab, whose members are loaded when it is first asked for states."""
        return labs.group(self)

    def facts(self, lab: GroupLab) -> GroupFacts:
        """Facts of the group and its members."""
        members = {name: lab.facts(name) for name in lab.members}
        return GroupFacts(
            id=self.id,
            name=self.id,
            revision=self.revision,
            reference=self.reference,
            members={name: MemberFacts.of(facts, lab.block(name)) for name, facts in members.items()},
            requested=self._requested,
            **shared(members),
        )

    def inputs(self, lab: GroupLab, claim: Claim, prompts: Prompts) -> Inputs:
        """The requests as all members were given them."""
        return lab.inputs(claim.requires)


@dataclass(frozen=True)
class FamilyTarget:
    """A family whose weights are measured; ``revision`` is a content hash of its members' revisions and roles."""

    scope: ClassVar[Scope] = "family"
    is_joint: ClassVar[bool] = True
    id: str
    family: Family
    members: Mapping[str, str]
    """Member -> revision."""
    revision: str

    @property
    def name(self) -> str:
        """Its id."""
        return self.id

    def cases(self, claim: Claim) -> tuple[Case, ...]:
        """The declared cases."""
        return claim.cases

    def key(self, claim: Claim, case: Case, prompts: Prompts) -> Key:
        """Revision, and the grids on which updates are compared."""
        inputs = family_inputs(self.members).hash
        return Key(claim.id, claim.version, case.key, self.id, self.revision, None, None, inputs)

    def open(self, labs: Labs, claim: Claim) -> FamilyLab:
        """The lab of the family's weights."""
        return labs.family(self)

    def facts(self, lab: FamilyLab) -> FamilyFacts:
        """Facts of the family; differences are taken in float32 whatever the files hold."""
        dtype = "float32"
        members = {
            member.name: MemberFacts(
                revision=self.members[member.name], role=member.role, parent=member.parent, dtype=dtype
            )
            for member in self.family.members
        }
        return FamilyFacts(id=self.id, name=self.id, revision=self.revision, members=members, dtype=dtype)

    def inputs(self, lab: FamilyLab, claim: Claim, prompts: Prompts) -> Inputs:
        """The grids, since there are no prompts."""
        return family_inputs(self.members)


@dataclass(frozen=True)
class PanelTarget:
    """All models of a run, each checkpoint once."""

    scope: ClassVar[Scope] = "panel"
    is_joint: ClassVar[bool] = True
    members: tuple[ModelTarget, ...]
    id: str = "panel"

    @property
    def name(self) -> str:
        """Its id."""
        return self.id

    @property
    def revision(self) -> str:
        """Content hash of the members' revisions."""
        return panel_revision({member.id: member.revision for member in self.members})

    def cases(self, claim: Claim) -> tuple[Case, ...]:
        """The declared cases."""
        return claim.cases

    def key(self, claim: Claim, case: Case, prompts: Prompts) -> None:
        """Computed from other measurements each time."""
        return None

    def open(self, labs: Labs, claim: Claim) -> Panel:
        """What was measured on the members."""
        return labs.panel(self, claim)

    def facts(self, lab: Panel) -> Facts:
        """Facts of the panel."""
        return lab.facts()

    def inputs(self, lab: Panel, claim: Claim, prompts: Prompts) -> Inputs | None:
        """What the members' prompts have in common."""
        return lab.inputs()


@dataclass(frozen=True)
class PublicationTarget:
    """A publication, held against its own reported values; ``revision`` is the hash of their file."""

    scope: ClassVar[Scope] = "publication"
    is_joint: ClassVar[bool] = True
    id: str
    publication: Publication
    revision: str

    @property
    def name(self) -> str:
        """The name under which baselines are kept."""
        return f"publication/{self.id}"

    def cases(self, claim: Claim) -> tuple[Case, ...]:
        """The statements, where the claim is about this publication."""
        return claim.cases if claim.source.id == self.id else ()

    def key(self, claim: Claim, case: Case, prompts: Prompts) -> Key:
        """The file of reported values."""
        return Key(claim.id, claim.version, case.key, self.id, self.revision, None, None, self.revision)

    def open(self, labs: Labs, claim: Claim) -> Publication:
        """The reported values."""
        return self.publication

    def facts(self, lab: Any) -> PublicationFacts:
        """Facts of the publication."""
        return PublicationFacts(id=self.id, name=self.name, revision=self.revision)

    def inputs(self, lab: Any, claim: Claim, prompts: Prompts) -> Inputs:
        """The file of reported values."""
        return PublicationInputs(hash=self.revision)
