"""Measurements in memory as what others are compared with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from geometry_bench.records.measurement import Baseline, Measurement


@dataclass(frozen=True)
class HeldBaseline:
    """One subject's values in memory."""

    baseline: Baseline
    place: str


@dataclass(frozen=True)
class Held:
    """Measurements as baselines."""

    stored: tuple[HeldBaseline, ...]

    @classmethod
    def holding(cls, measurements: Iterable[Measurement]) -> Self:
        """One baseline a subject and settings."""
        by_subject: dict[tuple[str, str, str], list[Measurement]] = {}
        for one in measurements:
            by_subject.setdefault(one.whose, []).append(one)
        return cls(
            tuple(
                HeldBaseline(Baseline.of(group, f"compared with {id}"), f"of {id}")
                for (id, _, _), group in by_subject.items()
            )
        )

    def of(self, name: str, revision: str, is_joint: bool, settings: str | None = None) -> HeldBaseline | None:
        """The subject's own values, else those of the only subject of its kind."""
        alike = [one for one in self.stored if one.baseline.subject.is_joint == is_joint]
        own = [one for one in alike if (one.baseline.subject.name, one.baseline.subject.revision) == (name, revision)]
        exact = [one for one in own if one.baseline.subject.settings == settings]
        return next(iter(exact or own), alike[0] if len(alike) == 1 else None)

    def others(self, name: str) -> Sequence[str]:
        """Other revisions of the subject."""
        subjects = (one.baseline.subject for one in self.stored)
        return sorted({subject.revision for subject in subjects if subject.name == name})
