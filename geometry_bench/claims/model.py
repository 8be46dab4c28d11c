"""A claim, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from geometry_bench.claims.changes import Comparison, ValueChange
from geometry_bench.claims.criteria import Above, Criterion
from geometry_bench.labs.requirements import NO_PROMPTS, Requirements
from geometry_bench.published.subject import PublishedSubject
from geometry_bench.records.estimates import Estimate, Variant

Option = Literal["answers", "ruler"]
"""Options of a run that ask for claims which cost much."""

Judged = Literal["refusals", "harm"]
"""What is judged of answers: refusals by the rules, harm by the judge that a run chooses."""

Estimates = Mapping[Variant, Estimate]
Scope = str
"""What a claim is about: one ``model``, a ``group`` about its reference, a ``family``'s weights, the ``panel`` of all models
of a run, a ``pair`` of a model and its parent, the ``trajectory`` of a training run, a ``publication``, or a further kind
that has a target of its own."""

ReportedValue = Callable[[PublishedSubject, "Case"], float | None]
"""The source's value for a published subject and a case; None where it has none."""


METRICS: Mapping[str, str] = {
    "cosine": "cosine",
    "share": "share",
    "accuracy": "share of requests",
    "correlation": "correlation",
    "depth": "relative depth",
    "ratio": "ratio",
    "auroc": "AUROC",
    "relative_error": "relative error",
    "overlap": "overlap (MSO)",
    "energy": "share of energy",
    "log_odds": "log-odds (nats)",
}
"""What a claim's metric is called on an axis."""


@dataclass(frozen=True)
class Source:
    """A publication whose claims are measured."""

    id: str
    letter: str
    citation: str
    resolution: float
    """Smallest difference that the source's values resolve."""


@dataclass(frozen=True)
class Case:
    """One parameter set of a claim; ``key`` is part of the test id, empty where a claim has one case only."""

    key: str = ""
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """One sentence of a source and how it is tested on a subject.

    ``measure`` takes the lab of its ``scope`` (``Lab``, ``GroupLab``, ``FamilyLab``, ``Panel``, ``Pair``, ``Trajectory`` or
    ``Publication``) and a case and returns an estimate for each variant; it raises ``NotApplicableError`` where a subject
    lacks what it needs. ``requires`` names the prompts that it is measured on, ``published_requires`` those of the published
    variant where they are read in another way. ``reported`` reads or derives the source's value for a published subject.
    ``smallest_change`` is the smallest difference between two subjects, in units of the value, that would matter to a user,
    and ``comparison`` how two are compared; ``across`` names settings that may differ then. A claim that ``decides`` was
    made to compare models: where such claims were compared, whether a run can tell is read from them alone. ``reads`` names
    the claims whose measurements it is computed from, as ``claim[case]`` where cases matter. ``per_member`` adds a case for
    each member of a group, or for each but the reference. A claim ``asked_by`` an option costs much, and is measured where a
    run asks for it alone. ``judged`` says what is judged of answers, where the value stands on any. ``ruler`` is the case of
    a baseline whose numbers are shown beside a change, as a scale for it. ``window`` gives the blocks that a claim reads
    of a model with so many, where it reads some; ``profile`` says what the estimates' curve of that name shows, where that
    is another quantity than the value.
    """

    id: str
    source: Source
    where: str
    statement: str
    measure: Callable[[Any, Case], Estimates]
    null: str
    version: int = 1
    scope: Scope = "model"
    requires: Requirements = NO_PROMPTS
    published_requires: Requirements | None = None
    cases: tuple[Case, ...] = (Case(),)
    criterion: Criterion = field(default_factory=Above)
    published_criterion: Criterion | None = field(default_factory=lambda: Above(beyond_null=False))
    reported: ReportedValue | None = None
    metric: str = "cosine"
    smallest_change: float = 0.05
    comparison: Comparison = field(default_factory=ValueChange)
    across: tuple[str, ...] = ()
    decides: bool = False
    asked_by: Option | None = None
    judged: Judged | None = None
    ruler: str | None = None
    reads: tuple[str, ...] = ()
    per_member: Literal["all", "others"] | None = None
    open_question: bool = False
    window: Callable[[int], Sequence[int]] | None = None
    profile: str | None = None

    @property
    def short_name(self) -> str:
        """The id without its first word: the name of the test function."""
        return self.id.split(".", 1)[1]

    @property
    def unit(self) -> str:
        """What a value is, in words, with its unit where it has one."""
        return METRICS.get(self.metric, self.metric)

    @property
    def unit_of_profile(self) -> str:
        """The same of the curve over blocks."""
        return self.profile or self.unit

    @property
    def needs(self) -> tuple[str, ...]:
        """What a subject must be or have."""
        return (self.scope, *(["system role"] if self.requires.system_role else []))

    @property
    def read_cases(self) -> tuple[tuple[str, str], ...]:
        """Claim and case of each measurement that it reads."""
        split = (name.partition("[") for name in self.reads)
        return tuple((claim, case.removesuffix("]")) for claim, _, case in split)

    def cases_of(self, members: Sequence[str] = (), reference: str | None = None) -> tuple[Case, ...]:
        """The declared cases and, for a claim about each member of a group, one for each of these."""
        if self.per_member is None:
            return self.cases
        declared = tuple(case for case in self.cases if case.key)
        others = [name for name in members if self.per_member == "all" or name != reference]
        return (*declared, *(Case(name, (name,)) for name in others)) or self.cases
