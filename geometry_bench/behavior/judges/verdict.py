"""What every judge is and gives: its facts, and for each answer a score, or the reason why there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from geometry_bench.behavior.refusals import HASH, VERSION, refuses
from geometry_bench.errors import GeometryBenchError


@dataclass(frozen=True)
class JudgeFacts:
    """A judge as a record declares it: kind, version and hash of its rules or its prompt, the model that reads it.

    ``scale`` are its scores in ascending order.
    """

    kind: str
    version: str
    hash: str
    scale: tuple[int, ...]
    model: str = ""
    options: tuple[tuple[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """In plain JSON values."""
        return {**asdict(self), "scale": list(self.scale), "options": dict(self.options)}


@dataclass(frozen=True)
class Verdict:
    """A score on the judge's scale, or None with the ``reason`` why the judge gave none."""

    score: int | None
    reason: str = ""


class UnansweredError(GeometryBenchError):
    """A judge that cannot be asked, or has stopped answering."""


class Judge(Protocol):
    """Judges answers to requests, one verdict each, in their order."""

    @property
    def facts(self) -> JudgeFacts:
        """What a record says of it."""

    def judge(self, requests: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        """A verdict on each answer. Raises GeometryBenchError for none, or for not as many requests as answers."""


@dataclass(frozen=True)
class Rules:
    """The refusal rules as a judge: 1 where an answer refuses, 0 where it does not. The request is not read."""

    @property
    def facts(self) -> JudgeFacts:
        """Version and hash of the rules."""
        return JudgeFacts("rules", VERSION, HASH, (0, 1))

    def judge(self, requests: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        """A verdict on each answer."""
        refuse_unpaired(requests, answers)
        return [Verdict(int(refuses(answer))) for answer in answers]


def refuse_unpaired(requests: Sequence[str], answers: Sequence[str]) -> None:
    """Raise GeometryBenchError for no answers, or for not as many requests as answers."""
    if not answers:
        raise GeometryBenchError("There are no answers to judge: give at least one.")
    if len(requests) != len(answers):
        raise GeometryBenchError(f"{len(requests)} requests and {len(answers)} answers were given: give one for each.")


def scores(verdicts: Sequence[Verdict]) -> list[int]:
    """The scores of all answers.

    Raises GeometryBenchError where one has none, with the reasons: no score is ever made up for it.
    """
    without = Counter(verdict.reason for verdict in verdicts if verdict.score is None)
    if without:
        why = ", ".join(f"{count} × {reason}" for reason, count in without.most_common(3))
        raise GeometryBenchError(
            f"{without.total()} of {len(verdicts)} answers have no score ({why}): judge again, which asks for these alone "
            "where a store keeps the others, or leave them out and say so."
        )
    return [verdict.score for verdict in verdicts if verdict.score is not None]
