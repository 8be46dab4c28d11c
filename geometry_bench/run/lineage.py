"""Targets of several checkpoints that came one from another: a child with its parent, and the steps of a training run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

from geometry_bench.claims.model import Case, Claim
from geometry_bench.errors import GeometryBenchError
from geometry_bench.labs.pair import Measured, Pair, Trajectory
from geometry_bench.records.facts import Inputs, MemberFacts, ModelFacts, PairFacts, PromptInputs, TrajectoryFacts
from geometry_bench.records.facts import panel_revision as revision_of_members
from geometry_bench.records.measurement import Baseline, Measurement, case_key
from geometry_bench.run.targets import Labs, ModelTarget, Prompts, Target
from geometry_bench.subjects.spec import SubjectSpec

# The methods below are those of Target.
# ruff: noqa: D102


@dataclass(frozen=True)
class Stored:
    """A parent whose measurements are stored: nothing is measured on it."""

    baseline: Baseline = field(repr=False)

    @property
    def facts(self) -> ModelFacts:
        facts = self.baseline.subject
        assert isinstance(facts, ModelFacts), "a parent is one model"
        return facts

    @property
    def id(self) -> str:
        return self.facts.id

    @property
    def revision(self) -> str:
        return self.facts.revision


@dataclass(frozen=True)
class PairTarget(Target):
    """A child and its parent: a model of the run, or a stored baseline."""

    scope: ClassVar[str] = "pair"
    child: ModelTarget
    parent: ModelTarget | Stored

    @property
    def id(self) -> str:  # type: ignore[override]
        return f"{self.child.id}~{self.parent.id}"

    @property
    def revision(self) -> str:  # type: ignore[override]
        return revision_of_members({one.id: one.revision for one in (self.child, self.parent)})

    def key(self, claim: Claim, case: Case, prompts: Prompts) -> None:
        return None

    def open(self, labs: Labs, claim: Claim) -> Pair:
        parent = _stored(self.parent.baseline) if isinstance(self.parent, Stored) else _measured(labs, self.parent)
        names = self.child.id, self.parent.id
        return Pair(_measured(labs, self.child), parent, names, partial(labs.model, self.child))

    def facts(self, lab: Pair) -> PairFacts:
        members = {one.id: _member(one) for one in (self.child, self.parent)}
        return PairFacts(
            id=self.id,
            name=self.id,
            revision=self.revision,
            members=members,
            child=self.child.id,
            parent=self.parent.id,
        )

    def inputs(self, lab: Pair, claim: Claim) -> Inputs | None:
        return _inputs_in_common(lab, claim)


@dataclass(frozen=True)
class TrajectoryTarget(Target):
    """The checkpoints of a training run, by their steps."""

    scope: ClassVar[str] = "trajectory"
    id: str
    members: Mapping[float, ModelTarget]

    @property
    def revision(self) -> str:  # type: ignore[override]
        return revision_of_members({f"{step:g}": member.revision for step, member in self.members.items()})

    def key(self, claim: Claim, case: Case, prompts: Prompts) -> None:
        return None

    def open(self, labs: Labs, claim: Claim) -> Trajectory:
        return Trajectory(
            {step: _measured(labs, member) for step, member in self.members.items()},
            {step: member.id for step, member in self.members.items()},
            {step: partial(labs.model, member) for step, member in self.members.items()},
        )

    def facts(self, lab: Trajectory) -> TrajectoryFacts:
        members = {member.id: _member(member) for member in self.members.values()}
        return TrajectoryFacts(
            id=self.id, name=self.id, revision=self.revision, members=members, steps=list(self.members)
        )

    def inputs(self, lab: Trajectory, claim: Claim) -> Inputs | None:
        return _inputs_in_common(lab.pair(next(iter(self.members))), claim)


def _measured(labs: Labs, target: ModelTarget) -> Measured:
    return lambda claim, case: labs.measured(claim, case, target)


def _stored(baseline: Baseline) -> Measured:
    by_key = {one.key: one for one in baseline.measurements()}
    return lambda claim, case: by_key.get(case_key(claim, case))


def _member(target: ModelTarget | Stored) -> MemberFacts:
    if isinstance(target, Stored):
        return MemberFacts.of(target.facts)
    spec, identity = target.spec, target.identity
    return MemberFacts(
        name=target.name,
        revision=target.revision,
        adapter_hash=identity.adapter_hash,
        layers=identity.layers,
        width=identity.width,
        alignment=spec.alignment,
        role=spec.role,
        parent=spec.parent,
    )


def _inputs_in_common(pair: Pair, claim: Claim) -> PromptInputs | None:
    found: list[Measurement | None] = [pair.child(name, case) for name, case in claim.read_cases[:1]]
    inputs = found[0].inputs if found and found[0] is not None else None
    return inputs.in_common() if isinstance(inputs, PromptInputs) else None


def pairs_of(models: Mapping[str, ModelTarget], stored: Iterable[Baseline] = ()) -> list[PairTarget]:
    """Each model with its parent, where that is a model of the run, and with each stored baseline of another model."""
    parents = [Stored(one) for one in stored if isinstance(one.subject, ModelFacts)]
    pairs: list[PairTarget] = []
    for child in models.values():
        own = models.get(child.spec.parent or "")
        found: dict[str, ModelTarget | Stored] = {} if own is None else {own.revision: own}
        found |= {one.revision: one for one in parents if one.revision not in found}
        pairs += [PairTarget(child, one) for revision, one in found.items() if revision != child.revision]
    return pairs


# Checkpoints of a training run

_STEP = re.compile(r"(?:.*[-_])?(\d+)$")


def checkpoints_of(place: str) -> tuple[str, dict[float, SubjectSpec]]:
    """Name and checkpoints, by step, of a folder of ``checkpoint-STEP`` folders, or of ``ORG/NAME@REV1,REV2,...``.

    Checkpoints that are adapters alone lie over the model that their configuration names.

    Raises:
        GeometryBenchError: there are fewer than two.
    """
    folder = Path(place).expanduser()
    if folder.is_dir():
        found = _folders(folder)
        name = folder.resolve().name
    else:
        model, _, revisions = place.partition("@")
        listed = [one.strip() for one in revisions.split(",") if one.strip()]
        if "/" not in model or not listed:
            raise GeometryBenchError(
                f"--checkpoints {place}: there is no such folder; give a folder of checkpoint-STEP folders, or "
                "ORG/NAME@REVISION,REVISION,..."
            )
        name = model
        found = {
            float(number): SubjectSpec(model, revision=revision, name=f"{model}@{revision}")
            for number, revision in enumerate(listed)
        }
    if len(found) < 2:
        raise GeometryBenchError(
            f"--checkpoints {place} holds {len(found)} checkpoint{'s' if len(found) != 1 else ''}: a trajectory needs two "
            "or more, as folders checkpoint-STEP or as revisions."
        )
    return name, found


def _folders(folder: Path) -> dict[float, SubjectSpec]:
    found: dict[float, SubjectSpec] = {}
    for inner in sorted(folder.iterdir()):
        step = _STEP.match(inner.name)
        whole, adapter = (inner / "config.json").is_file(), (inner / "adapter_config.json").is_file()
        if not inner.is_dir() or step is None or not (whole or adapter):
            continue
        name = f"{folder.resolve().name}/{inner.name}"
        if whole:
            found[float(step[1])] = SubjectSpec(str(inner), name=name)
        else:
            found[float(step[1])] = SubjectSpec(_base_of(inner), adapter=str(inner), name=name)
    return dict(sorted(found.items()))


def _base_of(adapter: Path) -> str:
    try:
        base = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError):
        raise GeometryBenchError(
            f"The adapter {adapter} does not say which model it is for: restore its adapter_config.json."
        ) from None
    return str(base)
