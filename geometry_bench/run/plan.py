"""A run as data: which case is measured on what, in which order. Nothing is loaded or written yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from geometry_bench.behavior.judges.verdict import Rules
from geometry_bench.claims.model import Case, Claim, Scope
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.claims.requests import Labelled
from geometry_bench.errors import GeometryBenchError
from geometry_bench.labs.questions import abilities
from geometry_bench.prompts.own import OwnPrompts
from geometry_bench.prompts.pack import load_pack
from geometry_bench.prompts.roles import FEWEST, RequestSettings
from geometry_bench.published.load import load_publication
from geometry_bench.records.facts import JudgeRecord
from geometry_bench.records.measurement import Baseline, case_key
from geometry_bench.resources import data_root
from geometry_bench.run.lineage import TrajectoryTarget, pairs_of
from geometry_bench.run.pinning import Pinned
from geometry_bench.run.request import Request, Settings
from geometry_bench.run.targets import PanelTarget, Prompts, PublicationTarget, Target
from geometry_bench.storage import digest_file

SUPPLIED_BY: Mapping[Scope, str] = {
    "model": "it needs a model: name some with --model or --family",
    "panel": "it needs several models: name some with --model or --family",
    "group": "it needs a group of models: give --group FILE, or several --model and --reference MODEL",
    "pair": "it needs a model and its parent: name the parent's baseline with --against, or give a --family",
    "trajectory": "it needs the checkpoints of a training run: name them with --checkpoints",
    "family": "it needs a family of checkpoints: give --family FILE, or --weights FILE for its weights alone",
    "publication": "it is about a publication alone: see `geometry-bench audit`",
}
"""What would supply a target of a scope."""


@dataclass(frozen=True)
class Task:
    """One case of one claim on one target."""

    claim: Claim
    case: Case
    target: Target

    @property
    def key(self) -> str:
        """``claim[case]``."""
        return case_key(self.claim.id, self.case.key)

    @property
    def id(self) -> str:
        """``case@subject``, or the subject alone where the claim has one case only."""
        return f"{self.case.key}@{self.target.id}" if self.case.key else self.target.id

    @property
    def place(self) -> tuple[str, str]:
        """Case and subject, which no two tasks share."""
        return self.key, self.target.id

    @property
    def is_joint(self) -> bool:
        """Whether it is computed from other measurements, by whoever gathers them."""
        return bool(self.claim.reads)


@dataclass(frozen=True)
class Missing:
    """A claim for which the run has no target, and what would supply one."""

    claim: Claim
    is_joint = False

    @property
    def place(self) -> tuple[str, str]:
        """The claim, and no subject."""
        return self.claim.id, ""

    @property
    def sentence(self) -> str:
        """What would supply a target."""
        return SUPPLIED_BY.get(self.claim.scope, f"it needs a {self.claim.scope}")


@dataclass(frozen=True)
class Plan:
    """The tasks of a run in their order: by target, those computed from other measurements last.

    ``claims`` holds, by id, those that a panel reads too, whether or not they are measured for their own sake. ``judge``
    grades harm.
    """

    tasks: tuple[Task, ...]
    missing: tuple[Missing, ...]
    pinned: Pinned
    prompts: Prompts
    settings: Settings
    claims: Mapping[str, Claim]
    judge: JudgeRecord

    def judge_of(self, claim: Claim) -> JudgeRecord | None:
        """Who judges the answers that a claim stands on; None where it stands on none."""
        if claim.judged is None:
            return None
        return self.judge if claim.judged == "harm" else JudgeRecord.of(Rules().facts)

    def of(self, claim: Claim) -> tuple[Task, ...]:
        """The tasks of a claim."""
        return tuple(task for task in self.tasks if task.claim.id == claim.id)


def plan(request: Request, parents_of: Callable[[Pinned], Iterable[Baseline]] = lambda _: ()) -> Plan:
    """Pin the subjects, check the inputs, and lay out the tasks; ``parents_of`` finds stored parents of all subjects.

    Raises:
        GeometryBenchError: any input is bad.
    """
    settings = request.settings
    _check_requests(settings.requests)
    if settings.requests.tasks and not any(claim.requires.abilities for claim in request.claims.values()):
        asking = (claim.id for claim in CLAIMS.values() if claim.requires.abilities)
        raise GeometryBenchError(f"No claim of this run asks the tasks that it names: {', '.join(asking)} do.")
    pinned = Pinned(request.specs, request.live, request.groups, request.families)
    parents = list(parents_of(pinned))
    checkpoints = [same[0] for same in pinned.checkpoints()]
    runs = [
        TrajectoryTarget(name, dict(zip(steps, pinned.of(steps.values()), strict=True)))
        for name, steps in request.trajectories.items()
    ]
    targets: list[Target] = [
        *pinned.models.values(),
        *pinned.groups.values(),
        *pinned.families.values(),
        *map(publication_target, request.publications),
        *request.targets,
        *([PanelTarget(tuple(checkpoints))] if len(checkpoints) > 1 else []),
        *pairs_of(pinned.models, parents),
        *runs,
    ]
    tasks = [
        Task(claim, case, target)
        for target in targets
        for claim in request.claims.values()
        if claim.scope == target.scope
        for case in target.cases(claim)
    ]
    prompts = _prompts(settings, (target.own for target in [*targets, *pinned.known.values()]))
    judge = _judge(settings, {task.claim.id: task.claim for task in tasks}.values())
    supplied = {target.scope for target in targets}
    missing = tuple(Missing(claim) for claim in request.claims.values() if claim.scope not in supplied)
    _check_unique(tasks)
    return Plan(tuple(tasks), missing, pinned, prompts, settings, {**CLAIMS, **request.claims}, judge)


def publication_target(source: str) -> PublicationTarget:
    """The target of a source's statements."""
    file = data_root() / "baselines" / "published" / f"{source}.json"
    return PublicationTarget(source, load_publication(source), f"sha256:{digest_file(file)}")


def _judge(settings: Settings, claims: Iterable[Claim]) -> JudgeRecord:
    """The judge of a run, checked: what it lacks is told before anything is measured."""
    choice = settings.judge
    if choice.grades:
        if not any(claim.judged == "harm" and claim.asked_by in (None, *settings.asked) for claim in claims):
            raise GeometryBenchError(
                "A judge is chosen, and nothing in this run is graded: give a family (--family or --weights) and --answers, "
                "or drop --judge."
            )
        choice.refuse_unready()
    return JudgeRecord.of(choice.facts)


def _prompts(settings: Settings, named: Iterable[OwnPrompts | None]) -> Prompts:
    """The run's prompts, with those that manifests name; what the user names wins over both."""
    common = Prompts(load_pack(settings.prompts), settings.requests, settings.depth)
    own: dict[OwnPrompts, Prompts] = {}
    for one in dict.fromkeys(named):
        if one is None:
            continue
        requests = replace(settings.requests, own=one.sets)
        try:
            _check_requests(requests)
            pack = common.pack if settings.prompts is not None or one.pack is None else load_pack(one.pack)
        except GeometryBenchError as error:
            raise GeometryBenchError(f"{one.manifest} names prompts that cannot be used: {error}") from None
        own[one] = Prompts(pack, requests, settings.depth)
    return replace(common, own=own)


def _check_requests(requests: RequestSettings) -> None:
    """Named sets and tasks are read at once, so that a fault in them is reported before anything is measured."""
    drawn = {role for role, _ in (*requests.sources, *requests.own)}
    for role in sorted(drawn):
        requests.load(role)
    if requests.tasks:
        _check_tasks(requests)
    if {"safe", "unsafe"} & drawn:
        Labelled.of(*(requests.load(role) for role in ("safe", "unsafe")))


def _check_tasks(requests: RequestSettings) -> None:
    asked = abilities(requests)
    labels = [one.label for one in asked]
    if len(set(labels)) < len(labels):
        raise GeometryBenchError(f"Two tasks of the run are called {max(labels, key=labels.count)}: name each once.")
    for one in asked:
        if len(one.topics) < FEWEST:
            raise GeometryBenchError(
                f"The task {one.label} asks {len(one.topics)} documents: at least {FEWEST} are needed, since intervals "
                "leave some out; raise --limit, or give more."
            )


def _check_unique(tasks: Sequence[Task]) -> None:
    seen: dict[tuple[str, str], Task] = {}
    for task in tasks:
        twin = seen.setdefault(task.place, task)
        if twin is not task:
            raise GeometryBenchError(
                f"Two tasks of the run are {task.key} on {task.target.id}: give one subject another name."
            )
