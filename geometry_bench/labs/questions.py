"""What a model is asked, and how its answers are judged: sums, requests to refuse, texts to predict, tasks of lm-eval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from geometry_bench.behavior.judges.verdict import Judge, scores
from geometry_bench.behavior.refusals import VERSION, refuses
from geometry_bench.behavior.utility import NEW_TOKENS, right, sums_asked
from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.directions import Array
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.prompts.sets import RequestSet

if TYPE_CHECKING:
    from geometry_bench.behavior.interventions import Intervention
    from geometry_bench.behavior.store import Answers
    from geometry_bench.subjects.subject import Subject

SUMS = "maths"
"""The role of the set whose sums are asked."""

SUMS_ASKED = 200
"""Sums that one model is asked where it is asked alone: with 60, an interval of their share spans a quarter."""


class Parts(Protocol):
    """What is asked, part by part; ``topics`` has one label for each, to resample by."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def topics(self) -> list[str]:
        """One label for each part."""


class Question(Parts, Protocol):
    """Something that a model is asked, by itself or with changes in effect."""

    @property
    def label(self) -> str:
        """What is measured, in a word."""

    @property
    def hash(self) -> str:
        """Content hash of all that is asked."""

    @property
    def judge(self) -> str:
        """In words, who or what judges the replies."""

    def facts(self, subject: Subject) -> tuple[list[Sequence[int]], dict[str, Any]]:
        """What decides the replies beside the model: prompts as token ids, and the rest in plain JSON values."""

    def replies(
        self,
        subject: Subject,
        interventions: Sequence[Intervention] = (),
        *,
        store: Answers | None = None,
        progress: bool = False,
        label: str = "",
    ) -> list[Any]:
        """What the model gives to each part, in plain JSON values; ``store`` is where answers are looked up and kept."""

    def judged(self, replies: Sequence[Sequence[Any]]) -> Array:
        """One number for each part, of several rounds of replies: (rounds, parts), float64."""


@dataclass(frozen=True)
class OfSet:
    """A question that asks the requests of a set, in a chat without system message."""

    requests: RequestSet
    measure: str
    new_tokens: int

    @property
    def name(self) -> str:
        """Name of the set."""
        return self.requests.name

    @property
    def label(self) -> str:
        """The measure."""
        return self.measure

    @property
    def topics(self) -> list[str]:
        """Topics of the requests."""
        return self.requests.topics

    @property
    def hash(self) -> str:
        """Hash of the requests."""
        return self.requests.hash

    def facts(self, subject: Subject) -> tuple[list[Sequence[int]], dict[str, Any]]:
        """The prompts, and how long answers are."""
        return self._prompts(subject), {"measure": self.measure, "new_tokens": self.new_tokens}

    def _prompts(self, subject: Subject) -> list[Sequence[int]]:
        return [subject.chat.encode("", text).ids for text in self.requests.texts]

    def replies(self, subject: Subject, interventions: Sequence[Intervention] = (), **more: Any) -> list[Any]:
        """The text of each answer."""
        from geometry_bench.behavior.generation import Settings, generate

        settings, how = Settings(self.new_tokens), {"progress": False, **more}
        answers = generate(subject, self._prompts(subject), settings, interventions=interventions, **how)
        return [answer.text for answer in answers]


@dataclass(frozen=True)
class Sums(OfSet):
    """Sums, each right or wrong by the last number of the answer.

    Raises GeometryBenchError, when judged, for a request that is no sum of a known form.
    """

    measure: str = "utility"
    new_tokens: int = NEW_TOKENS
    judge: ClassVar[str] = "their last number"

    @property
    def label(self) -> str:
        """Sums."""
        return "sums"

    def judged(self, replies: Sequence[Sequence[Any]]) -> Array:
        """1 for each sum that is right."""
        expected = sums_asked(self.requests.texts)
        return np.array([[float(right(*pair)) for pair in zip(said, expected, strict=True)] for said in replies])


@dataclass(frozen=True)
class Refusals(OfSet):
    """Requests that are refused (``measure`` over_refusal), or that are not (harm), by rules."""

    judge: ClassVar[str] = VERSION

    def judged(self, replies: Sequence[Sequence[Any]]) -> Array:
        """1 for each request that is refused, or that is not."""
        hits: Array = (_refused(replies) == (self.measure == "over_refusal")).astype(np.float64)
        return hits


@dataclass(frozen=True)
class Graded:
    """A judge's scores on distinct answers, and whether the rules call them refusals: (answers,) each.

    ``requests`` are places of the requests that were answered, ``scale`` the judge's scores in ascending order.
    """

    scores: NDArray[np.int64]
    refused: NDArray[np.bool_]
    requests: NDArray[np.int64]
    scale: tuple[int, ...]


@dataclass(frozen=True)
class Harm(OfSet):
    """Harmful requests, and how far the answers help: a judge's scores as shares of its scale."""

    by: Judge

    @property
    def judge(self) -> str:
        """The judge."""
        return f"{self.by.facts.version}, {self.by.facts.model}"

    def judged(self, replies: Sequence[Sequence[Any]]) -> Array:
        """0 for the lowest score, 1 for the highest. Raises GeometryBenchError where an answer gets none."""
        scale, texts = self.by.facts.scale, self.requests.texts
        given = scores(self.by.judge(texts * len(replies), [text for said in replies for text in said]))
        shares: Array = (np.reshape(given, (len(replies), len(texts))) - scale[0]) / (scale[-1] - scale[0])
        return shares

    def beside_the_rules(self, replies: Sequence[Sequence[Any]], shares: Array) -> Graded:
        """The scores behind what was judged, beside the rules' verdicts on the same answers."""
        scale, places = self.by.facts.scale, np.tile(np.arange(len(self.requests)), len(replies))
        given = np.rint(scale[0] + shares * (scale[-1] - scale[0])).astype(np.int64).reshape(-1)
        answers = [text for said in replies for text in said]
        rows = list({pair: row for row, pair in enumerate(zip(places.tolist(), answers, strict=True))}.values())
        return Graded(given[rows], _refused(replies).reshape(-1)[rows], places[rows], scale)


def _refused(replies: Sequence[Sequence[Any]]) -> NDArray[np.bool_]:
    return np.array([[refuses(text) for text in said] for said in replies])


@dataclass(frozen=True)
class Prediction(OfSet):
    """Nats a token of each text, read without template."""

    measure: str = "prediction"
    new_tokens: int = 0
    judge: ClassVar[str] = "their cross-entropy"

    def _prompts(self, subject: Subject) -> list[Sequence[int]]:
        return [subject.chat.encode_text(text).ids for text in self.requests.texts]

    def replies(self, subject: Subject, interventions: Sequence[Intervention] = (), **_: Any) -> list[Any]:
        """Nats a token of each text."""
        from geometry_bench.behavior.perplexity import predicted

        found = predicted(subject, self._prompts(subject), interventions=interventions)
        return [float(one) for one in found.nats / found.tokens]

    def judged(self, replies: Sequence[Sequence[Any]]) -> Array:
        """They are numbers already."""
        return np.array(replies, dtype=np.float64)


@dataclass(frozen=True)
class TaskOf:
    """A task of lm-eval's, by the text that names it, asked without chat template; each document is right or wrong.

    Raises GeometryBenchError, when asked, as `behavior.harness.tasks.load_task` does.
    """

    spec: str
    limit: int | None = None
    judge: ClassVar[str] = "lm-eval"

    @property
    def _task(self) -> Any:
        from geometry_bench.behavior.harness.tasks import load_task

        return load_task(self.spec, self.limit)

    @property
    def name(self) -> str:
        """The task's name."""
        return str(self._task.name)

    label = name

    @property
    def topics(self) -> list[str]:
        """One label a document."""
        return list(self._task.topics)

    @property
    def hash(self) -> str:
        """Hash of configuration and documents."""
        return str(self._task.hash)

    @property
    def described(self) -> dict[str, Any]:
        """What a record keeps of it."""
        return {**self._task.facts(), "rendering": "text"}

    def facts(self, subject: Subject) -> tuple[list[Sequence[int]], dict[str, Any]]:
        """The task as a record keeps it."""
        return [], {"measure": self.described}

    def replies(self, subject: Subject, interventions: Sequence[Intervention] = (), **more: Any) -> list[Any]:
        """How right each document is, 0 to 1."""
        from geometry_bench.behavior.harness.evaluation import evaluate

        found = evaluate(subject, self._task, interventions=interventions, **{"progress": False, **more})
        return [float(one) for one in found.right]

    def judged(self, replies: Sequence[Sequence[Any]]) -> Array:
        """They are numbers already."""
        return np.array(replies, dtype=np.float64)


def abilities(settings: RequestSettings, fewest: int = 0) -> tuple[Sums | TaskOf, ...]:
    """What stands for the ability of models: tasks that the run names, else the set of sums; none where it holds no sums.

    ``fewest``: sums that are drawn at least, where the set has so many.
    """
    if settings.tasks:
        return tuple(TaskOf(spec, settings.limit) for spec in settings.tasks)
    drawn = replace(settings, count=max(settings.count, fewest)).load(SUMS)
    try:
        sums_asked(drawn.texts)
    except GeometryBenchError:
        return ()
    return (Sums(drawn),)
