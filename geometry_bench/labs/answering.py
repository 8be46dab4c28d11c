"""What claims ask of a model that speaks: answers with interventions in effect, traces, and what texts cost it in nats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geometry_bench.labs.memo import remembered
from geometry_bench.labs.model import Lab
from geometry_bench.labs.questions import SUMS_ASKED, Question, Sums, TaskOf, abilities

if TYPE_CHECKING:
    from geometry_bench.behavior.interventions import Intervention
    from geometry_bench.behavior.store import Answer
    from geometry_bench.behavior.traces import Trace

Prompts = Sequence[Sequence[int]]


def said(
    lab: Lab,
    prompts: Prompts,
    new_tokens: int,
    interventions: Sequence[Intervention] = (),
    *,
    traces: Sequence[Trace] = (),
    label: str = "answers",
) -> list[Answer]:
    """Greedy answers to prompts, given as token ids; kept on disk where the run keeps things."""
    from geometry_bench.behavior.generation import Settings, generate

    return generate(
        lab.subject,
        prompts,
        Settings(new_tokens=new_tokens),
        interventions=interventions,
        traces=traces,
        progress=lab.capture_settings.progress,
        label=f"{lab.identity.name}: {label}",
        store=lab.store,
    )


def refused(
    lab: Lab, prompts: Prompts, new_tokens: int, interventions: Sequence[Intervention] = (), *, label: str = "answers"
) -> NDArray[np.bool_]:
    """Which of the prompts (prompts,) are refused, by rules."""
    from geometry_bench.behavior.refusals import refuses

    return np.array([refuses(one.text) for one in said(lab, prompts, new_tokens, interventions, label=label)])


def said_for(lab: Lab, prompts: Prompts, words: Sequence[int], traces: Sequence[Trace]) -> NDArray[np.float32]:
    """Traces (prompts, traces, words) where the same words follow every prompt."""
    from geometry_bench.behavior.traces import forced

    return forced(lab.subject, prompts, words, traces)


@remembered
def asked_abilities(lab: Lab) -> tuple[Sums | TaskOf, ...]:
    """What stands for the model's ability: tasks that the run names, else a few hundred sums; none where there are none."""
    return abilities(lab.request_settings, SUMS_ASKED)


def hits(
    lab: Lab, question: Question, interventions: Sequence[Intervention] = (), *, label: str = "answers"
) -> NDArray[np.float64]:
    """One number for each part of a question (parts,); answers are kept on disk where the run keeps things."""
    replies = question.replies(
        lab.subject,
        interventions,
        store=lab.store,
        progress=lab.capture_settings.progress,
        label=f"{lab.identity.name}: {question.label}, {label}",
    )
    found: NDArray[np.float64] = question.judged([replies])[0]
    return found


def nats_per_token(lab: Lab, name: str, interventions: Sequence[Intervention] = ()) -> float:
    """Mean cross-entropy of the texts of a set, read without template, with interventions in effect."""
    from geometry_bench.behavior.perplexity import predicted

    return predicted(lab.subject, _texts(lab, name), interventions=interventions).nats_per_token


@remembered
def _texts(lab: Lab, name: str) -> list[tuple[int, ...]]:
    return [tuple(one.ids) for one in lab.encoded_requests(name, "text") if len(one.ids) > 1]
