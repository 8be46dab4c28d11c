"""A plan carried out: measurements, one at a time, in the plan's order."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from geometry_bench.behavior.judges.verdict import Judge, JudgeFacts, UnansweredError, Verdict
from geometry_bench.claims.model import Estimates, Option
from geometry_bench.claims.requests import SEED
from geometry_bench.errors import GeometryBenchError
from geometry_bench.labs.model import Lab
from geometry_bench.labs.requirements import Wanted
from geometry_bench.records.environment import environment
from geometry_bench.records.facts import ModelFacts, judge_name
from geometry_bench.records.measurement import Absence, Measurement, Missing, NotApplicableError, was_asked
from geometry_bench.run.key import Key
from geometry_bench.run.plan import Plan, Task
from geometry_bench.run.targets import ModelTarget, Prompts, Target
from geometry_bench.subjects.threads import threads_for

L = TypeVar("L")


class SubjectFailedError(GeometryBenchError):
    """A further case of a subject that could not be loaded, or of a judge that stopped answering."""


@dataclass
class OnceFailed:
    """A judge that is asked no more in a run once it has stopped answering: each further case would wait for it again."""

    asked: Judge
    stopped: bool = False

    @property
    def facts(self) -> JudgeFacts:
        """What a record says of it."""
        return self.asked.facts

    def judge(self, requests: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        """A verdict on each answer; a :class:`SubjectFailedError` where it has stopped answering before."""
        if self.stopped:
            raise SubjectFailedError("not measured: the judge stopped answering, see the case before")
        try:
            return self.asked.judge(requests, answers)
        except UnansweredError:
            self.stopped = True
            raise


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
        self.plan, self.settings, self.prompts = plan, plan.settings, plan.prompts
        self._earlier = {Key.of(one): one for one in earlier}
        self._done: dict[tuple[str, str], Measurement] = {}
        self._resumed: set[tuple[str, str]] = set()
        claims = {task.claim.id: task.claim for task in plan.tasks}.values()
        asked = (one for claim in claims for one in (claim.requires, claim.published_requires))
        self._wanted = Wanted.by(one for one in asked if one is not None)
        self._held: Lab | None = None
        self._kept: dict[Hashable, Any] = {}
        self._failed: set[str] = set()

    def measure(self, task: Task) -> Measurement:
        """The measurement of a task: measured now, or taken from the run that is resumed; made once.

        Raises:
            GeometryBenchError: the subject cannot be loaded; a :class:`SubjectFailedError` for each task after the first.
        """
        if task.place not in self._done:
            known = self._known(task)
            if known is None:
                with threads_for(task.target.weights):
                    self._done[task.place] = self._measured(task)
            else:
                self.take(task, known)
        return self._done[task.place]

    def _known(self, task: Task) -> Measurement | None:
        """What the run that is resumed has of a task; not that it was not asked for where it is now."""
        key = task.target.key(task.claim, task.case, self.prompts)
        if key is None:
            return None
        known = self._earlier.get(replace(key, judge=judge_name(self.plan.judge_of(task.claim))))
        left_out = known is not None and not was_asked(known.missing)
        return None if left_out and task.claim.asked_by in self.settings.asked else known

    def take(self, task: Task, measurement: Measurement) -> None:
        """Take what was measured elsewhere for a task; how a model was aligned is declared by each run."""
        target, facts = task.target, measurement.subject
        declared = target.spec.alignment if isinstance(target, ModelTarget) else None
        if isinstance(facts, ModelFacts) and facts.alignment != declared:
            facts = facts.model_copy(update={"alignment": declared})
            measurement = measurement.model_copy(update={"subject": facts})
        else:
            self._resumed.add(task.place)
        self._done[task.place] = measurement

    def know(self, measurement: Measurement) -> None:
        """Have a measurement that a worker made, for what is computed from it."""
        self._done.setdefault((measurement.key, measurement.subject.id), measurement)

    def is_resumed(self, measurement: Measurement) -> bool:
        """Whether the measurement is unchanged in the file that it came from."""
        return (measurement.key, measurement.subject.id) in self._resumed

    def _measured(self, task: Task) -> Measurement:
        started, claim, target = time.perf_counter(), task.claim, task.target
        lab = target.open(self, claim)
        estimates, missing = _attempt(task, lab, self.settings.asked)
        inputs = target.inputs(lab, claim)
        if inputs is not None and claim.judged is not None:
            inputs = inputs.model_copy(update={"judge": self.plan.judge_of(claim)})
        return Measurement(
            claim=claim.id,
            claim_version=claim.version,
            case=task.case.key,
            subject=target.facts(lab),
            inputs=inputs,
            estimates=dict(estimates),
            missing=missing,
            environment=environment(time.perf_counter() - started, SEED),
        )

    # What targets ask for to open their labs

    def model(self, target: ModelTarget, prompts: Prompts | None = None) -> Lab:
        """The lab of a model, loaded, with its own prompts or others; the one held before is closed.

        Raises:
            GeometryBenchError: it cannot be loaded; a :class:`SubjectFailedError` from the second time on.
        """
        if target.id in self._failed:
            raise SubjectFailedError(f"not measured: {target.id} could not be loaded, see its first case")
        prompts = prompts or self.prompts.of(target.own)
        held = self._held
        if held is not None and (held.identity, held.pack, held.request_settings) != (
            target.identity,
            prompts.pack,
            prompts.requests,
        ):
            self.close()
        if self._held is None:
            lab = self._lab(target, prompts)
            try:
                _ = lab.subject
            except GeometryBenchError:
                self._failed.add(target.id)
                raise
            self._held = lab
        return self._held

    def _lab(self, target: ModelTarget, prompts: Prompts) -> Lab:
        from geometry_bench.activations.cache import Cache
        from geometry_bench.behavior.store import Answers

        settings = self.settings
        return Lab(
            target.spec,
            target.identity,
            prompts.pack,
            settings.capture,
            Cache(settings.cache_dir) if settings.cache else None,
            prompts.requests,
            self._wanted,
            target.live,
            Answers(settings.cache_dir) if settings.cache else None,
        )

    def kept(self, key: Hashable, make: Callable[[], L]) -> L:
        """A lab that is made once and kept under a key."""
        if key not in self._kept:
            self._kept[key] = make()
        lab: L = self._kept[key]
        return lab

    def measured(self, claim: str, case: str, target: Target) -> Measurement:
        """The measurement of a claim's case on a target, of its first where none is named, made now where it was not yet."""
        found = self.plan.claims[claim]
        return self.measure(Task(found, next(one for one in target.cases(found) if case in ("", one.key)), target))

    def judge(self) -> Judge:
        """The judge of harm, loaded.

        Raises:
            GeometryBenchError: it cannot be loaded.
        """
        from geometry_bench.behavior.judges.kept import Verdicts

        settings = self.settings
        store = Verdicts(settings.cache_dir) if settings.cache else None
        return self.kept("judge", lambda: OnceFailed(settings.judge.open(store, progress=settings.capture.progress)))

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


def _attempt(task: Task, lab: object, asked: Collection[Option]) -> tuple[Estimates, Missing | None]:
    option = task.claim.asked_by
    if option is not None and option not in asked:
        return {}, Missing(reason=Absence.NOT_ASKED, sentence=f"it takes long, so it is measured with --{option} alone")
    if isinstance(lab, Lab) and task.claim.requires.system_role and lab.subject.chat.system_policy == "not_applicable":
        sentence = "the chat template has no place for a system prompt; use a template with a system role"
        return {}, Missing(reason=Absence.NO_SYSTEM_ROLE, sentence=sentence)
    try:
        return task.claim.measure(lab, task.case), None
    except NotApplicableError as absent:
        return {}, absent.missing
