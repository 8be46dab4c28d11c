"""Everything that one source published, as data: one schema for all sources, nothing corrected on the way in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from pydantic import Field, model_validator

from geometry_bench.errors import GeometryBenchError
from geometry_bench.published.statements import PublishedStatement
from geometry_bench.published.subject import Finite, Frozen, PublishedSubject
from geometry_bench.published.tables import PrintedValue, PublishedTable

SCHEMA_VERSION = 2


class Explanation(Frozen):
    """What the values and curves of a name are, and their place in the source.

    ``over`` says what x is; over ``block``, x are 0-based decoder blocks up to the final one. ``grid`` holds the x that
    each curve must have, ``bounds`` the least and greatest y that the definition allows (None: no bound).
    """

    means: str
    label: str | None = None
    over: str | None = None
    grid: tuple[Finite, ...] | None = None
    bounds: tuple[Finite | None, Finite | None] = (None, None)


class PublishedGroup(Frozen):
    """Models mapped into the space of one of them, by key. ``cosines`` are those of pairs ``a|b`` of mapped directions
    without the reference; those with it are the members' values ``reference_cosine``.
    """

    key: str
    reference: str
    members: tuple[str, ...] = Field(min_length=2)
    cosines: Mapping[str, Finite]

    @model_validator(mode="after")
    def _every_pair(self) -> PublishedGroup:
        if self.reference not in self.members:
            raise ValueError(f"the reference {self.reference!r} of the group {self.key} is not one of its members")
        rest = [member for member in self.members if member != self.reference]
        wanted = {frozenset((a, b)) for i, a in enumerate(rest) for b in rest[i + 1 :]}
        given = [frozenset(name.split("|")) for name in self.cosines]
        if len(given) != len(wanted) or set(given) != wanted:
            raise ValueError(
                f"the group {self.key} must give the cosine of each pair of members but the reference once"
            )
        if outside := [value for value in self.cosines.values() if not -1 <= value <= 1]:
            raise ValueError(f"the group {self.key} has a cosine {outside[0]:g}, which cannot lie outside -1 to 1")
        return self


class Publication(Frozen):
    """One source: its models with their values and curves, what it prints, and what it says."""

    schema_version: int
    id: str
    title: str
    citation: str
    precision: str
    resolution: float = Field(gt=0)
    """The smallest difference that the source's precision lets one see."""
    layer_index: str
    protocol: Mapping[str, Any]
    explained: Mapping[str, Explanation]
    """By name of a value or curve, or by a pattern of names; the first that matches counts."""
    lists: Mapping[str, tuple[str, ...]] = {}
    """Names that statements use together."""
    qualitative: tuple[str, ...] = ()
    """What the source says without a number, in this project's words."""
    statements: Mapping[str, PublishedStatement] = {}
    tables: Mapping[str, PublishedTable] = {}
    printed: tuple[PrintedValue, ...] = ()
    groups: Mapping[str, PublishedGroup] = {}
    subjects: Mapping[str, PublishedSubject]

    def find(self, name: str) -> PublishedSubject | None:
        """The subject with this key or Hub id (case-insensitive), or None."""
        wanted = name.casefold()
        for key, subject in self.subjects.items():
            if wanted in (key.casefold(), (subject.hub_id or key).casefold()):
                return subject
        return None

    def explanation(self, name: str) -> Explanation | None:
        """What a value or curve of this name is, None where that is explained nowhere."""
        return next((told for pattern, told in self.explained.items() if fnmatchcase(name, pattern)), None)

    def label(self, name: str) -> str:
        """A name for the eye: the explained one; else ``a↔b`` for a pair of axes; else the name itself."""
        told = self.explanation(name)
        if told is not None and told.label is not None:
            return told.label
        return name.rpartition("/")[2].replace("|", "↔") if "|" in name else name

    def table(self, name: str) -> PublishedTable:
        """A printed table; ``GeometryBenchError`` for an unknown one."""
        if name not in self.tables:
            raise GeometryBenchError(f"{self.id} has no table {name!r}; it has {', '.join(self.tables) or 'none'}.")
        return self.tables[name]

    def members(self, group: str) -> tuple[PublishedSubject, ...]:
        """The subjects of a group, in its order; ``GeometryBenchError`` for an unknown group."""
        return tuple(self.subjects[key] for key in self._group(group).members)

    def reference(self, group: str) -> PublishedSubject:
        """The subject into whose space the others of a group were mapped."""
        return self.subjects[self._group(group).reference]

    def gram(self, group: str) -> list[list[float]]:
        """Published cosines of all pairs of mapped directions in the order of the members; 1 on the diagonal."""
        found = self._group(group)
        pairs = {frozenset(name.split("|")): value for name, value in found.cosines.items()}
        for member in self.members(group):
            if member.key != found.reference:
                pairs[frozenset((found.reference, member.key))] = member.number("reference_cosine")
        return [[1.0 if a == b else pairs[frozenset((a, b))] for b in found.members] for a in found.members]

    def _group(self, name: str) -> PublishedGroup:
        if name not in self.groups:
            raise GeometryBenchError(f"{self.id} has no group {name!r}; it has {', '.join(self.groups) or 'none'}.")
        return self.groups[name]

    @model_validator(mode="after")
    def _explained(self) -> Publication:
        for subject in self.subjects.values():
            for name in subject.names:
                self._check(subject.key, name, subject.points(name).values())
                if name in subject.curves:
                    self._check_x(subject, name, list(subject.curves[name]))
        for one in self.printed:
            self._check(one.subject or "a printed value", one.name, ())
        return self

    def _check(self, owner: str, name: str, numbers: Iterable[float]) -> None:
        told = self.explanation(name)
        if told is None:
            raise ValueError(f"{owner} has {name!r}, which is explained nowhere")
        low, high = told.bounds
        for y in numbers:
            if (low is not None and y < low) or (high is not None and y > high):
                raise ValueError(f"{owner} has {name} = {y:g}, which cannot lie outside {low} to {high}")

    def _check_x(self, subject: PublishedSubject, name: str, x: list[float]) -> None:
        told = self.explanation(name)
        assert told is not None
        if told.over == "block":
            if outside := [at for at in x if at not in range(subject.layers)]:
                raise ValueError(
                    f"{subject.key}: {name} names block {outside[0]:g} of a model with {subject.layers} blocks"
                )
            if x[-1] != subject.final_block:
                raise ValueError(f"{subject.key}: {name} ends at block {x[-1]:g}, not at the final one")
        if told.grid is not None and x != list(told.grid):
            raise ValueError(f"{subject.key}: {name} is given at {x}, not at {list(told.grid)}")

    @model_validator(mode="after")
    def _names_exist(self) -> Publication:
        for where, key in self._named():
            if key not in self.subjects:
                raise ValueError(f"{key!r} is named by {where} but is not among the subjects")
        for title, table in self.tables.items():
            if table.extends is not None and table.extends not in self.tables:
                raise ValueError(f"table {table.extends!r} is extended but described nowhere")
            for row in table.rows:
                held = self.subjects[row.subject].names
                if missing := [n for n in (table.name(row, c) for c in table.columns) if n not in held]:
                    raise ValueError(f"{row.subject} has no {missing[0]} for its row of table {title}")
        for one in self.printed:
            if one.subject is not None and one.name not in self.subjects[one.subject].names:
                raise ValueError(f"{one.subject} has no {one.name}, which is printed in {one.where}")
        return self

    def _named(self) -> Iterator[tuple[str, str]]:
        yield from ((f"table {t}", row.subject) for t, table in self.tables.items() for row in table.rows)
        yield from ((one.where, one.subject) for one in self.printed if one.subject is not None)
        yield from ((f"{s.key} as its parent", s.parent) for s in self.subjects.values() if s.parent is not None)
        yield from ((f"group {group.key}", member) for group in self.groups.values() for member in group.members)

    @model_validator(mode="after")
    def _grouped(self) -> Publication:
        seen: set[str] = set()
        for group in self.groups.values():
            for member in group.members:
                if member in seen:
                    raise ValueError(f"{member!r} is in two groups")
                seen.add(member)
                if member != group.reference and self.subjects[member].value("reference_cosine") is None:
                    raise ValueError(f"{member} has no reference_cosine in the group {group.key}")
        return self
