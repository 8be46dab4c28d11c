"""A plan carried out: measurements, one at a time, in the plan's order."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from geometry_bench.claims.model import Claim, Estimates
from geometry_bench.errors import GeometryBenchError
from geometry_bench.labs.family import FamilyLab
from geometry_bench.labs.group import GroupLab
from geometry_bench.labs.model import Lab
from geometry_bench.labs.panel import Panel
from geometry_bench.labs.requirements import Wanted
from geometry_bench.records.environment import environment
from geometry_bench.records.facts import ModelFacts
from geometry_bench.records.measurement import Absence, Measurement, Missing, NotApplicableError
from geometry_bench.run.plan import Plan, Task
from geometry_bench.run.targets import FamilyTarget, GroupTarget, Key, ModelTarget, PanelTarget

SEED = 0
"""What every draw of a run starts from."""


class SubjectFailedError(GeometryBenchError):
    """A further case of a subject that could not be loaded."""


class Sink(Protocol):
    """Takes measurements as they come: a file, a list, a report."""

    def write(self, measurement: Measurement) -> None:
        """Keep one measurement."""


@dataclass(frozen=True)
class Failure:
    """A task that ended in bad input."""

    task: Task
    error: GeometryBenchError


class Session:
    """The labs of a plan: opened on the first question, one model held at a time. It remembers what was measured.

    ``earlier`` are measurements of a run that is resumed: those with the key of a task are taken over.
    """

    def __init__(self, plan: Plan, earlier: Iterable[Measurement] = ()) -> None:
        self.plan = plan
        self._earlier = {Key.of(one): one for one in earlier}
        self.done: dict[tuple[str, str], Measurement] = {}
        self.resumed: set[tuple[str, str]] = set()
        self._wanted = Wanted.by(plan.requirements)
        self._held: Lab | None = None
        self._groups: dict[str, GroupLab] = {}
        self._families: dict[str, FamilyLab] = {}
        self._failed: set[str] = set()

    # Measuring

    def measure(self, task: Task) -> Measurement:
        """The measurement of a task: measured now, or taken from the run that is resumed; made once.

        Raises:
            GeometryBenchError: the subject cannot be loaded; a :class:`SubjectFailedError` for each task after the first.
        """
        place = task.place
        if place not in self.done:
            key = self.plan.key(task)
            known = self._earlier.get(key) if key is not None else None
            if known is not None:
                self.take(task, known)
            else:
                self.done[place] = self._measured(task)
        return self.done[place]

    def take(self, task: Task, measurement: Measurement) -> None:
        """Take a measurement made elsewhere for a task; how the model was aligned is declared by each run."""
        place, target, facts = task.place, task.target, measurement.subject
        same = True
        if (
            isinstance(target, ModelTarget)
            and isinstance(facts, ModelFacts)
            and facts.alignment != target.spec.alignment
        ):
            declared = facts.model_copy(update={"alignment": target.spec.alignment})
            measurement, same = measurement.model_copy(update={"subject": declared}), False
        self.done[place] = measurement
        if same:
            self.resumed.add(place)

    def is_resumed(self, measurement: Measurement) -> bool:
        """Whether the measurement is already in the file that it came from."""
        return (measurement.key, measurement.subject.id) in self.resumed

    def _measured(self, task: Task) -> Measurement:
        started, claim, target = time.perf_counter(), task.claim, task.target
        lab = target.open(self, claim)
        estimates, missing = _attempt(task, lab)
        return Measurement(
            claim=claim.id,
            claim_version=claim.version,
            case=task.case.key,
            subject=target.facts(lab),
            inputs=target.inputs(lab, claim, self.plan.prompts),
            estimates=dict(estimates),
            missing=missing,
            environment=environment(time.perf_counter() - started, SEED),
        )

    # Labs

    def model(self, target: ModelTarget) -> Lab:
        """The lab of a model, loaded; the one held before is closed.

        Raises:
            GeometryBenchError: it cannot be loaded; a :class:`SubjectFailedError` from the second time on.
        """
        if target.id in self._failed:
            raise SubjectFailedError(f"not measured: {target.id} could not be loaded, see its first case")
        if self._held is not None and self._held.identity != target.identity:
            self.close()
        if self._held is None:
            lab = self._lab(target)
            try:
                _ = lab.subject
            except GeometryBenchError:
                self._failed.add(target.id)
                raise
            self._held = lab
        return self._held

    def _lab(self, target: ModelTarget) -> Lab:
        from geometry_bench.activations.cache import Cache

        settings, prompts = self.plan.settings, self.plan.prompts
        return Lab(
            target.spec,
            target.identity,
            prompts.pack,
            settings.capture,
            Cache(settings.cache_dir) if settings.cache else None,
            requests=prompts.requests,
            wanted=self._wanted,
            subject=target.live,
        )

    def group(self, target: GroupTarget) -> GroupLab:
        """The lab of a group, whose members are loaded when it is first asked for states."""
        if target.id not in self._groups:
            requires = [task.claim.requires for task in self.plan.tasks if task.target is target]
            self._groups[target.id] = GroupLab(
                tuple(target.members),
                target.reference,
                lambda member: self.model(target.members[member]),
                requires[0].joined(requires[1:]),
                self.plan.prompts.requests,
                self.plan.prompts.depth,
                ids={name: member.id for name, member in target.members.items()},
            )
        return self._groups[target.id]

    def family(self, target: FamilyTarget) -> FamilyLab:
        """The lab of a family's weights."""
        if target.id not in self._families:
            from geometry_bench.updates.store import Store

            settings = self.plan.settings
            store = Store(settings.cache_dir) if settings.cache else None
            self._families[target.id] = FamilyLab(target.family, store, progress=settings.capture.progress)
        return self._families[target.id]

    def panel(self, target: PanelTarget, claim: Claim) -> Panel:
        """What a panel's claim reads of each member, measured now where it was not yet."""
        return Panel(
            {
                member.id: {name: self.measure(self.plan.first(name, member)) for name in claim.reads}
                for member in target.members
            }
        )

    def close(self) -> None:
        """Release the loaded model."""
        if self._held is not None:
            self._held.close()
            self._held = None


def execute(session: Session, tasks: Sequence[Task] | None = None) -> Iterator[Measurement | Failure]:
    """Measure the tasks (all of the plan if None), one after another."""
    try:
        for task in session.plan.tasks if tasks is None else tasks:
            try:
                yield session.measure(task)
            except GeometryBenchError as error:
                yield Failure(task, error)
    finally:
        session.close()


def _attempt(task: Task, lab: object) -> tuple[Estimates, Missing | None]:
    if isinstance(lab, Lab) and task.claim.requires.system_role and lab.subject.chat.system_policy == "not_applicable":
        sentence = "the chat template has no place for a system prompt; use a template with a system role"
        return {}, Missing(reason=Absence.NO_SYSTEM_ROLE, sentence=sentence)
    try:
        return task.claim.measure(lab, task.case), None
    except NotApplicableError as absent:
        return {}, absent.missing
