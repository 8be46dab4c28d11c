"""What a claim can be about: one class for each kind of it. Nothing is loaded before a target's lab is opened."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from geometry_bench.behavior.judges.verdict import Judge
from geometry_bench.caches import cache_folder
from geometry_bench.claims.model import Case, Claim, Scope
from geometry_bench.labs.family import FamilyLab, family_inputs
from geometry_bench.labs.group import GroupLab, group_hash
from geometry_bench.labs.model import Lab
from geometry_bench.labs.panel import Panel
from geometry_bench.labs.prompt_inputs import prompt_inputs
from geometry_bench.prompts.own import OwnPrompts
from geometry_bench.prompts.pack import Pack
from geometry_bench.prompts.roles import RequestSettings
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
from geometry_bench.records.measurement import Measurement, case_key
from geometry_bench.run.key import Key, alignments
from geometry_bench.run.request import Settings
from geometry_bench.subjects.families import Family
from geometry_bench.subjects.spec import Identity, SubjectSpec
from geometry_bench.subjects.threads import SMALL, block_weights

if TYPE_CHECKING:
    from geometry_bench.subjects.subject import Subject

L = TypeVar("L")


@dataclass(frozen=True)
class Prompts:
    """The prompts of a run, loaded and checked; ``own`` are those of the models whose manifest names some."""

    pack: Pack
    requests: RequestSettings
    depth: float
    own: Mapping[OwnPrompts, Prompts] = field(default_factory=dict)

    def of(self, own: OwnPrompts | None) -> Prompts:
        """What is read with a manifest's prompts; with None, what is read where no manifest names any."""
        return self if own is None else self.own[own]


class Labs(Protocol):
    """What a target may ask for to open its lab."""

    settings: Settings
    prompts: Prompts

    def model(self, target: ModelTarget, prompts: Prompts | None = None) -> Lab:
        """The lab of a model, loaded, with its own prompts or others; the one held before may be closed."""

    def kept(self, key: Hashable, make: Callable[[], L]) -> L:
        """A lab that is made once and kept under a key: the target's id, with what else decides it."""

    def measured(self, claim: str, case: str, target: Target) -> Measurement:
        """The measurement of a claim's case on another target, of its first where none is named."""

    def judge(self) -> Judge:
        """The judge of harm, loaded."""


class Target:
    """A subject of the claims of one scope.

    Measurements go by ``id``, which test ids hold too, and baselines by ``name`` and ``revision``.
    """

    scope: ClassVar[Scope]
    is_joint: ClassVar[bool] = True
    id: str
    revision: str

    @property
    def own(self) -> OwnPrompts | None:
        """The prompts that a manifest names for it."""
        return None

    @property
    def name(self) -> str:
        """The name under which baselines are kept."""
        return self.id

    @property
    def weights(self) -> int:
        """About how many weights a measurement passes at once: decides how many threads it takes."""
        return 0

    def cases(self, claim: Claim) -> tuple[Case, ...]:
        """The claim's cases on this subject."""
        return claim.cases

    def key(self, claim: Claim, case: Case, prompts: Prompts) -> Key | None:
        """What decides the measurement; None for what is always computed again."""
        inputs = self.inputs_hash(claim, prompts.of(self.own))
        return Key(claim.id, claim.version, case.key, self.id, self.revision, inputs, **self.declared())

    def declared(self) -> dict[str, Any]:
        """Further parts of the key."""
        return {}

    def inputs_hash(self, claim: Claim, prompts: Prompts) -> str:
        """Content hash of the inputs, known before any lab is opened; ``prompts`` are those that it is measured with."""
        raise NotImplementedError

    def open(self, labs: Labs, claim: Claim) -> Any:
        """The lab that the claim's ``measure`` takes."""
        raise NotImplementedError

    def facts(self, lab: Any) -> Facts:
        """What the record says of the subject."""
        raise NotImplementedError

    def inputs(self, lab: Any, claim: Claim) -> Inputs | None:
        """What the record says of the inputs."""
        raise NotImplementedError


# The methods below are those of Target.
# ruff: noqa: D102


@dataclass(frozen=True)
class ModelTarget(Target):
    """One checkpoint, pinned; ``live`` where it is in memory already."""

    scope = "model"
    is_joint = False
    id: str
    spec: SubjectSpec
    identity: Identity
    live: Subject | None = None

    @property
    def own(self) -> OwnPrompts | None:
        return self.spec.prompts

    @property
    def name(self) -> str:
        return self.identity.name

    @property
    def revision(self) -> str:  # type: ignore[override]
        return self.identity.revision

    @property
    def weights(self) -> int:
        return block_weights(self.identity.layers, self.identity.width)

    @property
    def checkpoint(self) -> tuple[str, str, str | None]:
        """What its baseline goes by."""
        return self.name, self.revision, self.identity.adapter_hash

    @property
    def requested(self) -> Requested:
        """What was asked of the loader."""
        return Requested.of(self.spec)

    def declared(self) -> dict[str, Any]:
        return {"adapter": self.identity.adapter_hash, "requested": self.requested}

    def inputs_hash(self, claim: Claim, prompts: Prompts) -> str:
        return claim.requires.inputs_hash(prompts.pack, prompts.requests)

    def open(self, labs: Labs, claim: Claim) -> Lab:
        return labs.model(self)

    def facts(self, lab: Lab) -> ModelFacts:
        return lab.facts(self.id)

    def inputs(self, lab: Lab, claim: Claim) -> Inputs:
        return prompt_inputs(lab, claim.requires, claim.published_requires)


@dataclass(frozen=True)
class GroupTarget(Target):
    """A group whose members are pinned, by their names in it; ``revision`` is a content hash of all that makes it."""

    scope = "group"
    id: str
    reference: str
    members: Mapping[str, ModelTarget]
    revision: str
    prompts: OwnPrompts | None = None

    @property
    def own(self) -> OwnPrompts | None:
        return self.prompts

    @property
    def weights(self) -> int:
        return max(member.weights for member in self.members.values())

    def cases(self, claim: Claim) -> tuple[Case, ...]:
        return claim.cases_of(tuple(self.members), self.reference)

    @property
    def requested(self) -> Requested:
        """What was asked of the loader."""
        return next(iter(self.members.values())).requested

    def declared(self) -> dict[str, Any]:
        methods = {name: member.spec.alignment for name, member in self.members.items()}
        return {"requested": self.requested, "alignment": alignments(methods)}

    def inputs_hash(self, claim: Claim, prompts: Prompts) -> str:
        return group_hash(claim.requires, prompts.requests, prompts.depth)

    def open(self, labs: Labs, claim: Claim) -> GroupLab:
        members, ids = self.members, {name: member.id for name, member in self.members.items()}
        prompts = labs.prompts.of(self.own)
        return labs.kept(
            (self.id, claim.requires),
            lambda: GroupLab(
                tuple(members),
                self.reference,
                lambda member: labs.model(members[member], prompts),
                claim.requires,
                prompts.requests,
                prompts.depth,
                ids,
            ),
        )

    def facts(self, lab: GroupLab) -> GroupFacts:
        members = {name: lab.facts(name) for name in lab.members}
        return GroupFacts(
            id=self.id,
            name=self.name,
            revision=self.revision,
            reference=self.reference,
            members={name: MemberFacts.of(facts, lab.block(name)) for name, facts in members.items()},
            requested=self.requested,
            **shared(members),
        )

    def inputs(self, lab: GroupLab, claim: Claim) -> Inputs:
        return lab.inputs(claim.requires)


@dataclass(frozen=True)
class FamilyTarget(Target):
    """A family whose weights are measured; ``members`` gives their revisions, ``revision`` a content hash of them."""

    scope = "family"
    id: str
    family: Family
    members: Mapping[str, str]
    revision: str

    @property
    def weights(self) -> int:
        return SMALL  # matrices may be large whatever the family; decompositions share well

    @property
    def own(self) -> OwnPrompts | None:
        return self.family.prompts

    def inputs_hash(self, claim: Claim, prompts: Prompts) -> str:
        return family_inputs(self.members, claim.requires, prompts.requests).hash

    def open(self, labs: Labs, claim: Claim) -> FamilyLab:
        from geometry_bench.updates.store import Store

        settings = labs.settings
        store = Store(settings.cache_dir) if settings.cache else None
        points = cache_folder("projections", settings.cache_dir) if settings.cache else None
        requests = labs.prompts.of(self.own).requests
        return labs.kept(
            self.id,
            lambda: FamilyLab(
                self.family,
                store,
                progress=settings.capture.progress,
                requests=requests,
                points=points,
                judge=labs.judge,
            ),
        )

    def facts(self, lab: FamilyLab) -> FamilyFacts:
        dtype = "float32"  # differences are taken in it whatever the files hold
        members = {
            one.name: MemberFacts(revision=self.members[one.name], role=one.role, parent=one.parent, dtype=dtype)
            for one in self.family.members
        }
        return FamilyFacts(id=self.id, name=self.name, revision=self.revision, members=members, dtype=dtype)

    def inputs(self, lab: FamilyLab, claim: Claim) -> Inputs:
        return lab.inputs(self.members, claim.requires)


@dataclass(frozen=True)
class PanelTarget(Target):
    """All models of a run, each checkpoint once: what was measured on them is the lab."""

    scope = "panel"
    members: tuple[ModelTarget, ...]
    id: str = "panel"

    @property
    def revision(self) -> str:  # type: ignore[override]
        return panel_revision({member.id: member.revision for member in self.members})

    def key(self, claim: Claim, case: Case, prompts: Prompts) -> None:
        return None

    def open(self, labs: Labs, claim: Claim) -> Panel:
        return Panel(
            {
                member.id: {case_key(name, case): labs.measured(name, case, member) for name, case in claim.read_cases}
                for member in self.members
            }
        )

    def facts(self, lab: Panel) -> Facts:
        return lab.facts()

    def inputs(self, lab: Panel, claim: Claim) -> Inputs | None:
        return lab.inputs()


@dataclass(frozen=True)
class PublicationTarget(Target):
    """A publication, which is its own lab; ``revision`` is the hash of the file of its reported values."""

    scope = "publication"
    id: str
    publication: Publication
    revision: str

    @property
    def name(self) -> str:
        return f"publication/{self.id}"

    def cases(self, claim: Claim) -> tuple[Case, ...]:
        return claim.cases if claim.source.id == self.id else ()

    def inputs_hash(self, claim: Claim, prompts: Prompts) -> str:
        return self.revision

    def open(self, labs: Labs, claim: Claim) -> Publication:
        return self.publication

    def facts(self, lab: Publication) -> PublicationFacts:
        return PublicationFacts(id=self.id, name=self.name, revision=self.revision)

    def inputs(self, lab: Publication, claim: Claim) -> Inputs:
        return PublicationInputs(hash=self.revision)
