"""What a check takes from a publication: its words looked up, and the numbers that they name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

import numpy as np

from geometry_bench.errors import GeometryBenchError
from geometry_bench.published.publication import Publication
from geometry_bench.published.statements import Bound, Reading
from geometry_bench.published.subject import PublishedSubject

Stated = Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """One number: whose it is, its name, and in words what sets it apart from the others of its reading."""

    subject: str
    name: str
    place: str
    value: float

    def __str__(self) -> str:
        return f"{self.place} {self.value:.4g}".lstrip()


@dataclass(frozen=True)
class Lookup:
    """Looks up the words of a check: in what is stated, among groups and lists; any other stands for itself."""

    stated: Stated
    publication: Publication

    def keys(self, words: Iterable[str]) -> tuple[str, ...]:
        """Keys of subjects, or names of values and curves."""
        found: list[str] = []
        for word in words:
            stated = self.stated.get(word, word)
            for key in (stated,) if isinstance(stated, str) else stated:
                group = self.publication.groups.get(key)
                found += group.members if group is not None else self.publication.lists.get(key, (key,))
        return tuple(found)

    def subjects(self, words: Sequence[str]) -> tuple[PublishedSubject, ...]:
        """The subjects named, all where none is; ``GeometryBenchError`` for an unknown one."""
        keys = self.keys(words) or tuple(self.publication.subjects)
        if unknown := [key for key in keys if key not in self.publication.subjects]:
            raise GeometryBenchError(f"{self.publication.id} has no subject {unknown[0]!r} to check; restore the file.")
        return tuple(self.publication.subjects[key] for key in keys)

    def subject(self, word: str | None) -> PublishedSubject | None:
        """The one subject of a word, None for no word."""
        return None if word is None else self.subjects((word,))[0]

    def number(self, bound: Bound) -> float | None:
        """A bound given as a number or as a word of what is stated."""
        return float(self.stated[bound]) if isinstance(bound, str) else bound

    def items(self, reading: Reading) -> tuple[str, list[Item]]:
        """What all numbers of a reading share, in words, and these numbers, subject by subject.

        Raises ``GeometryBenchError`` where there is none.
        """
        off = self.subject(reading.less_subject)
        found = [
            number for subject in self.subjects(reading.subjects) for number in self._numbers(reading, subject, off)
        ]
        if not found:
            raise GeometryBenchError(
                f"{self.publication.id} has no published values {', '.join(reading.of)} to check; restore the file."
            )
        taken = "" if off is None else f" less {off.label}"
        parts = [
            (self.publication.subjects[key].label + taken, self.publication.label(name), at)
            for key, name, at, _ in found
        ]
        shared = [len(set(column)) == 1 for column in zip(*parts, strict=True)]
        title = " ".join(part for part, same in zip(parts[0], shared, strict=True) if same and part)
        return (title or ", ".join(reading.of)) + _OVER.get(reading.over, ""), [
            Item(key, name, " ".join(part for part, same in zip(own, shared, strict=True) if part and not same), value)
            for (key, name, _, value), own in zip(found, parts, strict=True)
        ]

    def _numbers(
        self, reading: Reading, subject: PublishedSubject, off: PublishedSubject | None
    ) -> Iterator[tuple[str, str, str, float]]:
        """Key of the subject, name, where on the curve in words, and the number."""
        if reading.less:
            more, less = (np.mean([subject.number(n) for n in self.keys(w)]) for w in (reading.of, reading.less))
            yield subject.key, f"{', '.join(reading.of)} less {', '.join(reading.less)}", "", float(more - less)
            return
        for name in self._names(reading, subject):
            taken = {} if off is None else _points(reading, off, name)
            told = self.publication.explanation(name)
            for x, y in _points(reading, subject, name).items():
                at = "" if x is None or told is None else f"{told.over} {x:g}"
                yield subject.key, name, at, y - taken.get(x, 0.0)

    def _names(self, reading: Reading, subject: PublishedSubject) -> Iterator[str]:
        held = subject.names if reading.over == "last" else tuple(subject.curves)
        for name in self.keys(reading.of):
            yield from (n for n in held if fnmatchcase(n, name)) if "*" in name else (name,)


_OVER = {"steps": ", from each x to the next", "change": ", from the first x to the last"}


def _points(reading: Reading, subject: PublishedSubject, name: str) -> Mapping[float | None, float]:
    curve = subject.points(name)
    x, y = list(curve), list(curve.values())
    match reading.over:
        case "last":
            return {None: y[-1]}
        case "all":
            return curve
        case "steps":
            return {at: after - before for at, (before, after) in zip(x[1:], pairwise(y), strict=True)}
        case "change":
            return {None: y[-1] - y[0]}
