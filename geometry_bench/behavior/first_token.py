"""The first token of an answer: its distribution in one pass, and the tokens with which a model opens its refusals."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from geometry_bench.activations import batching
from geometry_bench.activations.batching import Batch
from geometry_bench.activations.halving import run_all
from geometry_bench.behavior.passes import last_logits, planned, refuse_prompts
from geometry_bench.behavior.store import Answer
from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects.subject import Subject

Array = NDArray[np.float32]


def first_token_logprobs(
    subject: Subject,
    prompts: Sequence[Sequence[int]],
    tokens: Sequence[int] | None = None,
    *,
    token_budget: int | None = None,
    batch_size: int | None = None,
    progress: bool = True,
    label: str = "",
) -> Array:
    """Log-probabilities, in nats, of the token after each prompt: float32 (prompts, vocabulary).

    With ``tokens`` (k different ids) it is (prompts, k + 1): theirs, and last that of all other tokens together; memory then
    does not grow with the vocabulary, and `log_odds` still finds both masses. Prompts are token ids, complete with
    template and BOS. Interventions in effect act here too.

    Raises GeometryBenchError as `generate` does, for ids in ``tokens`` that repeat or are not in the vocabulary, and for a
    model without a head or whose logits are not finite.
    """
    refuse_prompts(subject, prompts)
    distinct, where = batching.unique(prompts)

    def run(batch: Batch) -> Array:
        return _logprobs(last_logits(subject, [distinct[row] for row in batch.rows], plan.prefix), tokens)

    plan = planned(subject, distinct, token_budget=token_budget, batch_size=batch_size)
    found: dict[int, Array] = {}
    with tqdm(
        total=len(distinct),
        desc=label or None,
        unit="prompt",
        leave=False,
        file=sys.stderr,
        disable=None if progress else True,
    ) as bar:
        for batch, values in run_all(plan.batches, plan.lengths, run, where):
            found.update(zip(batch.rows, values, strict=True))
            bar.update(len(batch.rows))
    return np.stack([found[row] for row in where])


def refusal_openings(
    answers: Sequence[Answer], refused: Sequence[bool], *, least: float = 0.05, ratio: float = 2.0
) -> tuple[int, ...]:
    """The ids of the first tokens that separate a model's refusals from its other answers, the most frequent first.

    A token is one where it opens at least two refused answers and the share ``least`` of them, and where that share is at
    least ``ratio`` times its share of the others (of which one more is counted, so that a token that was just not seen
    among few answers is none). Both classes weigh the same, however many answers each has.

    Raises GeometryBenchError where lengths differ, where one class has no answer, and where no token qualifies.
    """
    if len(answers) != len(refused):
        raise GeometryBenchError(f"{len(answers)} answers and {len(refused)} judgements were given: give one for each.")
    opens = {
        kind: Counter(answer.ids[0] for answer, judged in zip(answers, refused, strict=True) if bool(judged) is kind)
        for kind in (True, False)
    }
    for kind, word in ((True, "refuses"), (False, "does anything else")):
        if not opens[kind]:
            raise GeometryBenchError(
                f"None of {len(answers)} answers {word}, so nothing separates the two: add requests that the model "
                f"{'refuses' if kind else 'answers'}."
            )
    no, yes = opens[True].total(), opens[False].total()
    found = [
        token
        for token, count in opens[True].most_common()
        if count >= max(2, least * no) and count / no >= ratio * (opens[False][token] + 1) / (yes + 1)
    ]
    if not found:
        raise GeometryBenchError(
            f"No first token separates {no} refusals from {yes} other answers: give more answers, or judge them otherwise."
        )
    return tuple(found)


def _logprobs(logits: Tensor, tokens: Sequence[int] | None) -> Array:
    logs = logits.log_softmax(dim=-1)
    if tokens is not None:
        size = logs.shape[-1]
        if len(set(tokens)) != len(tokens) or not all(0 <= token < size for token in tokens):
            raise GeometryBenchError(f"The tokens {list(tokens)} are not different ids of 0..{size - 1}: give such.")
        chosen = torch.tensor(list(tokens), dtype=torch.long, device=logs.device)
        rest = logs.index_fill(-1, chosen, -torch.inf).logsumexp(dim=-1, keepdim=True)
        logs = torch.cat([logs[:, chosen], rest], dim=-1)
    values: Array = logs.float().cpu().numpy()
    return values
