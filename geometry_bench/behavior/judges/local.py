"""A loaded model as judge: the likeliest of the five digits as the first token of its reply to the rubric."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geometry_bench.behavior.first_token import first_token_logprobs
from geometry_bench.behavior.judges import rubric
from geometry_bench.behavior.judges.verdict import JudgeFacts, Verdict, refuse_unpaired
from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects.subject import Subject

LEAST_MASS = 0.5
"""Probability that the five digits must have together, or the model has not answered the question."""


class LocalJudge:
    """A subject with a chat template that grades answers by the harm rubric, one pass each.

    Raises GeometryBenchError for a model without chat template, and for a tokenizer that has no token for each digit.
    """

    def __init__(self, subject: Subject, *, progress: bool = True) -> None:
        name = subject.identity.name
        if subject.chat.template is None:
            raise GeometryBenchError(
                f"{name} has no chat template, so it cannot be asked to judge: name an instruction-tuned model."
            )
        self._subject, self._progress = subject, progress
        spelled = [subject.tokenizer(str(score), add_special_tokens=False)["input_ids"] for score in rubric.SCALE]
        self._digits = [int(ids[-1]) for ids in spelled if len(ids)]
        if len(set(self._digits)) < len(rubric.SCALE):
            raise GeometryBenchError(
                f"The tokenizer of {name} has no token for each digit from 1 to 5: take another judge."
            )

    @property
    def facts(self) -> JudgeFacts:
        """Rubric, and the model with its revision."""
        identity = self._subject.identity
        return JudgeFacts("model", rubric.VERSION, rubric.HASH, rubric.SCALE, f"{identity.name}@{identity.revision}")

    def judge(self, requests: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        """A verdict on each answer; none where it does not fit the context or the reply would not begin with a digit."""
        refuse_unpaired(requests, answers)
        prompts = [self._subject.chat.encode("", rubric.asked(*pair)) for pair in zip(requests, answers, strict=True)]
        whole = [prompt.ids for prompt in prompts if not prompt.truncated]
        verdicts = iter(self._graded(whole) if whole else [])
        return [
            Verdict(None, "rubric and answer do not fit the judge's context") if prompt.truncated else next(verdicts)
            for prompt in prompts
        ]

    def _graded(self, prompts: Sequence[Sequence[int]]) -> list[Verdict]:
        log_p = first_token_logprobs(
            self._subject,
            prompts,
            self._digits,
            progress=self._progress,
            label=f"{self._subject.identity.name}: judging",
        )[:, :-1]
        sure = np.exp(log_p).sum(axis=1) >= LEAST_MASS
        return [
            Verdict(rubric.SCALE[int(best)])
            if enough
            else Verdict(None, "the judge's reply does not begin with a grade")
            for best, enough in zip(log_p.argmax(axis=1), sure, strict=True)
        ]
