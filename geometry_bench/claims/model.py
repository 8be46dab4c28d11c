"""A claim, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from geometry_bench.activations.pooling import Pooling
from geometry_bench.labs.model import Lab, RequestRendering
from geometry_bench.prompts.pack import Pack
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.records.schema import Estimate, Record, Variant
from geometry_bench.records.verdicts import Criterion

Estimates = Mapping[Variant, Estimate]
Need = Literal["model", "system role", "panel", "group", "family"]
Condition = Literal["systems", "bare", "controls", "topics"]
"""Kinds of system prompts."""

Scope = Literal["model", "panel", "group", "family"]
"""What a claim is about: one subject, all subjects of a run, a group about its reference, a family of checkpoints."""


BEYOND_NULL = Criterion()
SIGN_ALONE = Criterion(beyond_null=False)


class NotApplicableError(Exception):
    """Raised by a measurement that cannot be made on this subject; the message gives the reason and the way out."""


@dataclass(frozen=True)
class Source:
    """A publication whose claims are measured."""

    id: str
    letter: str
    citation: str
    resolution: float
    """Smallest difference that the source's figures resolve."""


@dataclass(frozen=True)
class Case:
    """One parameter set of a claim; ``key`` stands in the test id, empty where a claim has one case only."""

    key: str = ""
    parameters: tuple[str, ...] = ()


Figure = Callable[[Any, Case], float | None]
"""A published subject and a case -> the source's figure."""


@dataclass(frozen=True)
class Panel:
    """Several subjects measured together: the records of each, by case key."""

    members: Sequence[Mapping[str, Record]]


@dataclass(frozen=True)
class Claim:
    """One sentence of a source and how it is held against a model.

    ``measure`` takes what its ``scope`` offers (a :class:`Lab`, a :class:`Panel`, a ``GroupLab`` or a ``FamilyLab``) and a
    case and returns an estimate for each variant; it raises :class:`NotApplicableError` where a subject lacks what it
    needs. ``figure`` reads or derives the source's figure for a published subject. ``smallest_change`` is the smallest
    difference between two subjects, in units of the value, that would matter to a user. ``conditions`` and ``messages`` name
    the kinds of system prompts and the message sets they meet, ``sets`` the sets of requests, in ``rendering``: from these
    the forward passes are counted, and a record holds their hashes and the ``poolings`` read of them. ``reads`` names the
    cases whose records a panel takes. ``per_member`` adds a case for each member of a group, or for each but the reference.
    """

    id: str
    version: int
    source: Source
    where: str
    statement: str
    measure: Callable[[Any, Case], Estimates]
    null: str
    needs: tuple[Need, ...] = ("model",)
    cases: tuple[Case, ...] = (Case(),)
    criterion: Criterion = BEYOND_NULL
    published_criterion: Criterion | None = SIGN_ALONE
    figure: Figure | None = None
    metric: str = "cosine"
    smallest_change: float = 0.05
    messages: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    sets: tuple[str, ...] = ()
    rendering: RequestRendering = "text"
    poolings: tuple[Pooling, ...] = ()
    reads: tuple[str, ...] = field(default=())
    per_member: Literal["all", "others"] | None = None
    open_question: bool = False

    @property
    def short_name(self) -> str:
        """The id without its family: the name of the test function."""
        return self.id.split(".", 1)[1]

    @property
    def scope(self) -> Scope:
        """What the claim is about."""
        return next((scope for scope in ("panel", "group", "family") if scope in self.needs), "model")

    def cases_of(self, members: Sequence[str] = (), reference: str | None = None) -> tuple[Case, ...]:
        """The declared cases and, for a claim about each member of a group, one for each of these."""
        if self.per_member is None:
            return self.cases
        declared = tuple(case for case in self.cases if case.key)
        others = [name for name in members if self.per_member == "all" or name != reference]
        return (*declared, *(Case(name, (name,)) for name in others)) or self.cases

    def cost(self, pack: Pack, requests: RequestSettings | None = None) -> int:
        """Forward passes that the claim would take alone; claims on one message set or set of requests share them."""
        sizes = {
            "systems": len(pack.systems),
            "bare": len(pack.openings),
            "controls": len(pack.controls),
            "topics": len(pack.safety_topics),
        }
        passes = sum(sizes[kind] for kind in self.conditions)
        settings = requests or RequestSettings()
        return sum(passes * len(pack.messages[name]) for name in self.messages) + sum(
            len(settings.load(name)) for name in self.sets
        )


Measure = Callable[[Lab, Case], Estimates]
