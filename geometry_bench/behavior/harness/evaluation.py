"""A subject's result on a task: which documents it gets right, as it is, under interventions, or with changed weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geometry_bench.behavior.harness.tasks import ACCURACIES, SEED, Task, calm
from geometry_bench.behavior.interventions import Intervention
from geometry_bench.behavior.store import Answers
from geometry_bench.geometry.directions import Array
from geometry_bench.subjects.subject import Subject


@dataclass(frozen=True)
class Evaluated:
    """Which documents are right, (documents,) from 0 to 1, by ``metric``: the task's accuracy under its first filter.

    ``means`` are those of all that the task measures, by metric and filter. ``shortened`` counts prompts that did not fit
    and lost their beginning.
    """

    right: Array
    metric: str
    means: Mapping[str, float]
    shortened: int

    @property
    def accuracy(self) -> float:
        """The mean over all documents."""
        return float(self.right.mean())


def evaluate(
    subject: Subject,
    task: Task,
    *,
    interventions: Sequence[Intervention] = (),
    chat: bool = False,
    batch_size: int | None = None,
    store: Answers | None = None,
    progress: bool = True,
    label: str = "",
) -> Evaluated:
    """A task's result by lm-eval itself, on the subject as it is when called, with interventions in effect.

    ``chat`` writes prompts with the subject's chat template, examples as turns. ``batch_size``: texts of a pass, at most
    (default: by memory). ``store``: where answers are looked up and kept.

    Raises GeometryBenchError as `generation.generate` and `perplexity.scored` do.
    """
    from lm_eval.evaluator import evaluate as run

    from geometry_bench.behavior.harness.model import SubjectLM

    model = SubjectLM(subject, interventions, batch_size=batch_size, store=store, progress=progress, label=label)
    with calm():
        for one in task.members.values():
            one.set_fewshot_seed(SEED)
        found = run(
            model,
            {"tasks": dict(task.members), "groups": {}, "group_map": {}},
            limit=task.limit,
            bootstrap_iters=0,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
    right: list[float] = []
    metrics: dict[str, None] = {}
    for name in task.members:
        values, metric = _right(found["samples"][name])
        right += values
        metrics[metric] = None
    means = {
        f"{name}/{metric}": float(value)
        for name in task.members
        for metric, value in found["results"][name].items()
        if "," in metric and isinstance(value, int | float) and "stderr" not in metric
    }
    return Evaluated(np.array(right), " and ".join(metrics), means, model.shortened)


def _right(samples: Sequence[Mapping[str, Any]]) -> tuple[list[float], str]:
    """Which documents of a task are right, in their order, and by what."""
    chosen = samples[0]["filter"]
    first = sorted((one for one in samples if one["filter"] == chosen), key=lambda one: one["doc_id"])
    metric = next(known for known in ACCURACIES if known in first[0]["metrics"])
    return [float(one[metric]) for one in first], f"{metric}, {chosen}"
