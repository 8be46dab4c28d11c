"""What sets of requests are there for, which set fills which role, and how many requests are drawn. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from geometry_bench.errors import GeometryBenchError
from geometry_bench.prompts.names import ALIGNMENT, NEUTRAL
from geometry_bench.prompts.public import parts_of
from geometry_bench.prompts.sets import RequestSet, load_set

_FOLLOWS = {ALIGNMENT: NEUTRAL, "safe-unmatched": "safe"}
"""Roles that take the set of another role where they have none of their own."""

_TIMES = {NEUTRAL: 2, ALIGNMENT: 10}
"""How many times the count of a class is drawn: neutral instructions are halved into two groups as large as the classes,
and a map has far more coefficients than a direction."""


def times(role: str) -> int:
    """How many times the count of a class is drawn for a role."""
    return _TIMES.get(role, 1)


FEWEST = 4
"""Requests of a set, and topics where it has any, so that each half of a held-out split keeps one when another is left
out."""


@dataclass(frozen=True)
class RequestSettings:
    """How many requests are drawn of each set, with which seed, and of which set for which role.

    ``count`` is that of each class; some roles get a multiple of it. A set that holds fewer gives all it has. Sets that pair
    off are drawn alike. ``sources`` are pairs of role and set (a built-in or public name, or a file) that the user names,
    ``own`` those of the models' manifest; without one, a role is filled by the built-in set of its name. ``tasks`` are
    those of lm-eval that stand for the ability of models, as `geometry_bench.behavior.harness.tasks` names them, and
    ``limit`` how many documents of each are asked.
    """

    count: int = 60
    seed: int = 0
    sources: tuple[tuple[str, str], ...] = ()
    own: tuple[tuple[str, str], ...] = ()
    tasks: tuple[str, ...] = ()
    limit: int | None = None

    def source(self, role: str) -> str:
        """Name of the set that fills a role."""
        followed = _FOLLOWS.get(role, role)
        for named in map(dict, (self.sources, self.own)):
            if role in named or followed in named:
                return named.get(role) or named[followed]
        return NEUTRAL if role == ALIGNMENT else role

    def load(self, role: str) -> RequestSet:
        """The requests drawn for a role.

        Raises:
            GeometryBenchError: its set cannot be read, holds fewer than ``FEWEST`` requests, or safe and unsafe ones alike.
        """
        return _drawn(self.source(role), times(role) * self.count, self.seed)


@cache
def _drawn(name: str, count: int, seed: int) -> RequestSet:
    parts = parts_of(name)
    if parts:
        raise GeometryBenchError(f"The set {name} holds requests of both kinds: name {' or '.join(parts)}.")
    whole = load_set(name)
    if whole.mixed:
        raise GeometryBenchError(
            f"The set {name} holds requests of both kinds, as its column label says: write {name}?label=safe or "
            f"{name}?label=unsafe."
        )
    taken = min(count, len(whole))
    if taken < FEWEST:
        given = f"{taken} request{'s' if taken > 1 else ''}"
        remedy = "add some" if taken == len(whole) else "draw more with --requests"
        raise GeometryBenchError(
            f"The set {name} gives {given}: at least {FEWEST} are needed, since intervals leave some out; {remedy}."
        )
    drawn = load_set(name, count=taken, seed=seed)
    notes = list(drawn.notes)
    if taken < count and drawn.origin != "pack":
        notes.append(f"{taken} requests are all it has, {count} were asked for")
    topics = {request.topic for request in drawn.requests} - {None}
    if topics and len(set(drawn.topics)) < FEWEST:
        notes.append(f"topics are left out, {len(topics)} being too few to resample: each request stands alone")
        drawn = replace(drawn, requests=tuple(replace(request, topic=None) for request in drawn.requests))
    return replace(drawn, notes=tuple(notes))
