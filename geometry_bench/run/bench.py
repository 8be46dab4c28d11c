"""A plan with its surroundings: earlier measurements, results file, baselines. Every front end runs one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from geometry_bench.claims.model import Claim
from geometry_bench.claims.registry import CLAIMS, find_claim, known_cases
from geometry_bench.errors import GeometryBenchError
from geometry_bench.judging import Margins, StoredBaselines, judge_alone, judge_run, testable
from geometry_bench.records.baselines import BaselineStore, Found, check_update, revision_name, update_baselines
from geometry_bench.records.files import ResultsFile
from geometry_bench.records.judgement import Judgement
from geometry_bench.records.measurement import Baseline, Measurement
from geometry_bench.report.comparison_text import markdown
from geometry_bench.report.outcomes import Asked, Outcome, Undecided, exit_code, outcome_of
from geometry_bench.run.execute import Session
from geometry_bench.run.pinning import Pinned
from geometry_bench.run.plan import Plan, plan
from geometry_bench.run.request import Request
from geometry_bench.storage import write_atomically
from geometry_bench.subjects.spec import SubjectSpec, resolve


@dataclass(frozen=True)
class Output:
    """Where measurements go and what they are compared with."""

    results: Path | None = None
    resume: bool = False
    baselines: Path | None = None
    against: str | None = None
    update: tuple[str, ...] = ()
    update_reason: str | None = None
    require_comparison: bool = False
    undecided: Undecided = "fail"
    margins: Margins = field(default_factory=dict)
    report: Path | None = None

    @property
    def asked(self) -> Asked:
        """What decides how cases are shown."""
        return Asked(self.update, self.against is not None, self.require_comparison, self.undecided)


@dataclass
class Bench:
    """One run. It is a sink: ``write`` takes what was measured here or by a worker.

    Raises:
        GeometryBenchError: any input is bad. Nothing has been written then.
    """

    request: Request
    output: Output = field(default_factory=Output)

    def __post_init__(self) -> None:
        check_update(self.output.update, self.output.update_reason)
        check_margins(self.output.margins, self.request.claims)
        if self.output.report is not None and self.output.against is None:
            raise GeometryBenchError("--report is about a comparison: name what to compare with by --against.")
        store = BaselineStore.beside(self.output.baselines)
        against: list[Found] = []

        def parents(pinned: Pinned) -> list[Baseline]:
            against.extend(against_of(self.output.against, store, pinned))
            return [found.baseline for found in against]

        self.plan: Plan = plan(self.request, parents)
        self.results = ResultsFile(self.output.results) if self.output.results else None
        self.baselines = StoredBaselines(store, tuple(against))
        for target in {task.target.id: task.target for task in self.plan.tasks}.values():
            found = self.baselines.of(target.name, target.revision, target.is_joint)
            _ = found and found.baseline  # a damaged one is told before anything is measured
        self.session = Session(self.plan, self._earlier())
        self.measurements: list[Measurement] = []
        self.chosen: frozenset[tuple[str, str]] | None = None
        """Case and subject of the tasks that are measured, where a front end chose some of them."""

    def _earlier(self) -> Sequence[Measurement]:
        if not self.output.resume:
            return ()
        if self.results is None:
            raise GeometryBenchError("--resume needs --results DIR: the folder of the run to go on with.")
        return self.results.read()

    @cached_property
    def comparisons(self) -> int:
        """How many of the planned cases can be tested against a baseline, as far as is known before measuring."""
        tasks = [t for t in self.plan.tasks if self.chosen is None or t.place in self.chosen]
        targets = {task.target.id: task.target for task in tasks}
        stored = {id: self.baselines.of(one.name, one.revision, one.is_joint) for id, one in targets.items()}
        return sum(testable(task.key, stored[task.target.id]) for task in tasks)

    def write(self, measurement: Measurement, *, resumed: bool = False) -> None:
        """Keep a measurement, and write it unless it is in the results file already."""
        self.measurements.append(measurement)
        self.session.know(measurement)
        if self.results is not None and not resumed:
            self.results.write(measurement)

    def judge(self, measurement: Measurement) -> Judgement:
        """The judgement of one measurement while the run goes on."""
        return judge_alone(measurement, self.comparisons, self.baselines, self.plan.claims, self.output.margins)

    def outcome(self, judged: Judgement) -> Outcome:
        """What a judged case shows in this run."""
        return outcome_of(judged, self.output.asked)

    def exit_code(self, judged: Sequence[Judgement], faults: int) -> int:
        """What this run returns."""
        return exit_code(judged, self.output.asked, faults=faults)

    def judgements(self) -> list[Judgement]:
        """All of them, judged together, in the plan's order whoever measured them."""
        order = {task.place: number for number, task in enumerate(self.plan.tasks)}
        measurements = sorted(self.measurements, key=lambda one: order[one.key, one.subject.id])
        return judge_run(measurements, self.baselines, self.plan.claims, self.output.margins)

    def write_report(self, judged: Sequence[Judgement]) -> None:
        """Write the comparison as markdown where ``--report`` asks for it."""
        if self.output.report is not None and self.output.against is not None and judged:
            write_atomically(self.output.report, markdown(judged, self.output.against, self.output.undecided))

    def update_baselines(self) -> list[Path]:
        """Store what ``--baseline-update`` asks for; returns the files that changed."""
        modes, reason = self.output.update, self.output.update_reason
        known = partial(known_cases, claims=self.plan.claims)
        return update_baselines(self.baselines.store, self.measurements, modes, reason, known)


def check_margins(margins: Margins, claims: Mapping[str, Claim]) -> None:
    """Refuse a margin of a claim that the run does not know, or that is no positive number.

    Raises:
        GeometryBenchError: there is one.
    """
    for name, margin in margins.items():
        find_claim(name.partition("[")[0], {**CLAIMS, **claims})
        if not 0 < margin < float("inf"):
            raise GeometryBenchError(f"--margin {name}={margin:g}: a margin is a positive number.")


def against_of(name: str | None, store: BaselineStore, pinned: Pinned) -> tuple[Found, ...]:
    """The baselines that ``--against`` names: a subject of the run, a model, or a name that baselines are stored under.

    Raises:
        GeometryBenchError: there is none, or there are several.
    """
    if name is None:
        return ()
    wanted, _, revision = name.partition("@")
    target = pinned.models.get(wanted)
    if target is not None and target.spec.family is not None:
        # A folder of the family's name may be in the working directory; the member of this run is meant.
        wanted, revision = target.identity.name, revision or revision_name(target.identity.revision)
    elif Path(wanted).exists() or wanted.startswith("zoo/"):
        identity = resolve(SubjectSpec(wanted))
        if store.revisions(identity.name) or not store.revisions(wanted):
            wanted, revision = identity.name, revision_name(identity.revision)
    found = [one for one in store.all(wanted) if one.revision.startswith(revision)]
    revisions = sorted({one.revision for one in found})
    if not found:
        stored = ", ".join(name for name in store.names() if "~" not in name) or "none"  # no pair is a parent
        raise GeometryBenchError(
            f"--against {name}: no baseline is stored for it (stored: {stored}); measure it first with "
            "--baseline-update=new."
        )
    if len(revisions) > 1:
        raise GeometryBenchError(
            f"--against {name}: baselines of several revisions are stored; say which, as "
            f"{wanted}@{' or @'.join(revisions)}."
        )
    if found[0].baseline.subject.is_joint and not (pinned.groups or pinned.families):
        raise GeometryBenchError(
            f"--against {name}: that is a baseline of several models together, and this run measures single ones only; "
            "name a single model's, or a group or family to measure."
        )
    return tuple(found)
