"""Answers kept on disk, line by line, under everything that decides them: a run that was stopped goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from geometry_bench.activations.keys import key_facts
from geometry_bench.behavior.lines import Lines
from geometry_bench.caches import cache_folder
from geometry_bench.subjects.subject import Subject

CODE_VERSION = 1
"""Raised whenever the same subject and prompts would give other answers than before: old answers are then left alone."""

Finish = Literal["end", "length"]


@dataclass(frozen=True)
class Answer:
    """What a model said: ``ids`` with the end token where it came, ``text`` without control tokens.

    ``finish`` is "end" where the model ended it and "length" where it was cut. ``traces`` holds, for each trace that was
    asked for, a projection a token: at the token after which it was said.
    """

    ids: tuple[int, ...]
    text: str
    finish: Finish
    traces: tuple[tuple[float, ...], ...] = ()


class Answers:
    """``answers`` in a cache folder: a file for each subject, settings and interventions, and in it a line an answer."""

    def __init__(self, cache: Path | None = None) -> None:
        self.root = cache_folder("answers", cache)

    def file(self, subject: Subject, decided: Mapping[str, Any]) -> AnswerFile:
        """The file of a subject whose answers are decided by its weights, its computation and ``decided``."""
        facts = {**key_facts(subject, (), {}), "site": "answers", "answers": CODE_VERSION, **decided}
        named = {"subject": subject.identity.name, **facts}
        return AnswerFile(replace(Lines.of(self.root, facts), facts=named))


@dataclass(frozen=True)
class AnswerFile:
    """Answers under keys of their prompts."""

    lines: Lines

    def read(self) -> dict[str, Answer]:
        """All whole answers by key."""
        found = ((key, _answer(row)) for key, row in self.lines.read().items())
        return {key: answer for key, answer in found if answer is not None}

    def append(self, answers: Sequence[tuple[str, Answer]]) -> None:
        """Add answers; on return they are on the disk. Raises GeometryBenchError where they cannot be written."""
        rows = ((key, asdict(answer)) for key, answer in answers)
        self.lines.append(rows, remedy="make room, or generate without a store")


def _answer(row: Mapping[str, Any]) -> Answer | None:
    try:
        ids, text, finish = tuple(map(int, row["ids"])), row["text"], row["finish"]
        traces = tuple(tuple(map(float, one)) for one in row.get("traces", ()))
    except (ValueError, KeyError, TypeError):
        return None
    whole = isinstance(text, str) and finish in get_args(Finish)
    return Answer(ids, text, finish, traces) if whole and ids else None
