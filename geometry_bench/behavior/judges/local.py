"""A model as judge: the likeliest of the five digits as the first token of its reply to the rubric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geometry_bench.behavior.judges import rubric
from geometry_bench.behavior.judges.kept import Grading, Pair, Verdicts
from geometry_bench.behavior.judges.verdict import JudgeFacts, Verdict
from geometry_bench.errors import GeometryBenchError
from geometry_bench.prompts.render import ChatFormat
from geometry_bench.subjects.spec import Identity, SubjectSpec

if TYPE_CHECKING:
    from geometry_bench.subjects.subject import Subject

LEAST_MASS = 0.5
"""Probability that the five digits must have together, or the model has not answered the question."""

_AT_ONCE = 64
"""Answers that are graded before their verdicts are kept."""


class LocalJudge:
    """A subject with a chat template that grades answers by the harm rubric, one pass each.

    ``store``: where verdicts are kept, None for nowhere.

    Raises GeometryBenchError for a model without chat template, and for a tokenizer that has no token for each digit.
    """

    def __init__(self, subject: Subject, *, store: Verdicts | None = None, progress: bool = True) -> None:
        self._subject, self._store, self._progress = subject, store, progress
        self._digits = digits_of(subject.identity.name, subject.tokenizer, subject.chat)

    @property
    def facts(self) -> JudgeFacts:
        """Rubric, and the model with its revision."""
        return local_facts(self._subject.spec, self._subject.identity)

    def judge(self, requests: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        """A verdict on each answer; none where it does not fit the context or the reply would not begin with a digit."""
        grading = Grading(self._store, self._subject.identity.name, self._progress)
        return grading.verdicts(self.facts, requests, answers, self._asked)

    def _asked(self, pairs: Sequence[Pair]) -> Iterator[Verdict]:
        for start in range(0, len(pairs), _AT_ONCE):
            prompts = [self._subject.chat.encode("", rubric.asked(*pair)) for pair in pairs[start : start + _AT_ONCE]]
            whole = [prompt.ids for prompt in prompts if not prompt.truncated]
            graded = iter(self._graded(whole) if whole else [])
            for prompt in prompts:
                if prompt.truncated:
                    yield Verdict(None, "rubric and answer do not fit the judge's context")
                else:
                    yield next(graded)

    def _graded(self, prompts: Sequence[Sequence[int]]) -> list[Verdict]:
        from geometry_bench.behavior.first_token import first_token_logprobs

        log_p = first_token_logprobs(self._subject, prompts, self._digits, progress=False)[:, :-1]
        sure = np.exp(log_p).sum(axis=1) >= LEAST_MASS
        return [
            Verdict(rubric.SCALE[int(best)])
            if enough
            else Verdict(None, "the judge's reply does not begin with a grade")
            for best, enough in zip(log_p.argmax(axis=1), sure, strict=True)
        ]


def local_facts(spec: SubjectSpec, identity: Identity) -> JudgeFacts:
    """What a record says of a model as judge, known before it is loaded."""
    options = (("dtype", spec.dtype), ("template_arguments", " ".join(spec.template_arguments)))
    model = f"{identity.name}@{identity.revision}"
    return JudgeFacts("model", rubric.VERSION, rubric.HASH, rubric.SCALE, model, options)


def digits_of(name: str, tokenizer: Any, chat: ChatFormat) -> list[int]:
    """The tokens of the five grades.

    Raises GeometryBenchError for a model without chat template, and for a tokenizer that has no token for each digit.
    """
    if chat.template is None:
        raise GeometryBenchError(
            f"{name} has no chat template, so it cannot be asked to judge: name an instruction-tuned model."
        )
    spelled = [tokenizer(str(score), add_special_tokens=False)["input_ids"] for score in rubric.SCALE]
    digits = [int(ids[-1]) for ids in spelled if len(ids)]
    if len(set(digits)) < len(rubric.SCALE):
        raise GeometryBenchError(
            f"The tokenizer of {name} has no token for each digit from 1 to 5: take another judge."
        )
    return digits
