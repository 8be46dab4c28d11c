"""What a model is asked, and how its answers are judged: sums, requests to refuse, texts to predict, tasks of lm-eval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from geometry_bench.behavior.refusals import HASH, refuses
from geometry_bench.behavior.utility import NEW_TOKENS, right, sums_asked
from geometry_bench.errors import GeometryBenchError
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

    def facts(self, subject: Subject) -> tuple[list[Sequence[int]], dict[str, Any]]:
        """What decides the hits beside the model: prompts as token ids, and the rest in plain JSON values."""

    def hits(
        self,
        subject: Subject,
        interventions: Sequence[Intervention] = (),
        *,
        store: Answers | None = None,
        progress: bool = False,
        label: str = "",
    ) -> list[float]:
        """One number for each part; ``store`` is where answers are looked up and kept."""


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
        """The prompts, and the rules that judge."""
        return self._prompts(subject), {"measure": self.measure, "judge": HASH}

    def _prompts(self, subject: Subject) -> list[Sequence[int]]:
        return [subject.chat.encode("", text).ids for text in self.requests.texts]

    def _said(self, subject: Subject, interventions: Sequence[Intervention], **more: Any) -> list[str]:
        from geometry_bench.behavior.generation import Settings, generate

        settings = Settings(self.new_tokens)
        answers = generate(subject, self._prompts(subject), settings, interventions=interventions, **more)
        return [answer.text for answer in answers]


@dataclass(frozen=True)
class Sums(OfSet):
    """Sums, each right or wrong by the last number of the answer.

    Raises GeometryBenchError, when asked, for a request that is no sum of a known form.
    """

    measure: str = "utility"
    new_tokens: int = NEW_TOKENS

    @property
    def label(self) -> str:
        """Sums."""
        return "sums"

    def hits(self, subject: Subject, interventions: Sequence[Intervention] = (), **more: Any) -> list[float]:
        """1 for each sum that is right."""
        said, expected = self._said(subject, interventions, **{"progress": False, **more}), self._expected
        return [float(right(*pair)) for pair in zip(said, expected, strict=True)]

    @property
    def _expected(self) -> list[int]:
        return sums_asked(self.requests.texts)


@dataclass(frozen=True)
class Refusals(OfSet):
    """Requests that are refused (``measure`` over_refusal), or that are not (harm), by rules."""

    def hits(self, subject: Subject, interventions: Sequence[Intervention] = (), **more: Any) -> list[float]:
        """1 for each request that is refused, or that is not."""
        said = self._said(subject, interventions, **{"progress": False, **more})
        return [float(refuses(text) is (self.measure == "over_refusal")) for text in said]


@dataclass(frozen=True)
class Prediction(OfSet):
    """Nats a token of each text, read without template."""

    measure: str = "prediction"
    new_tokens: int = 0

    def _prompts(self, subject: Subject) -> list[Sequence[int]]:
        return [subject.chat.encode_text(text).ids for text in self.requests.texts]

    def hits(self, subject: Subject, interventions: Sequence[Intervention] = (), **_: Any) -> list[float]:
        """Nats a token of each text."""
        from geometry_bench.behavior.perplexity import predicted

        found = predicted(subject, self._prompts(subject), interventions=interventions)
        return [float(one) for one in found.nats / found.tokens]


@dataclass(frozen=True)
class TaskOf:
    """A task of lm-eval's, by the text that names it, asked without chat template; each document is right or wrong.

    Raises GeometryBenchError, when asked, as `behavior.harness.tasks.load_task` does.
    """

    spec: str
    limit: int | None = None

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

    def hits(self, subject: Subject, interventions: Sequence[Intervention] = (), **more: Any) -> list[float]:
        """How right each document is, 0 to 1."""
        from geometry_bench.behavior.harness.evaluation import evaluate

        found = evaluate(subject, self._task, interventions=interventions, **{"progress": False, **more})
        return [float(one) for one in found.right]


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
