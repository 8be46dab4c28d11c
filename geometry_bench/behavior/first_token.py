"""The first token of an answer: its distribution in one pass, and the tokens with which a model opens its refusals."""

from __future__ import annotations

import sys
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
from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects.subject import Subject

Array = NDArray[np.float32]


def first_token_logprobs(
    subject: Subject,
    prompts: Sequence[Sequence[int]],
    tokens: Sequence[int] | None = None,
    *,
    token_budget: int | None = None,
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
        return _logprobs(subject, last_logits(subject, [distinct[row] for row in batch.rows]), tokens)

    batches, lengths = planned(subject, distinct, token_budget=token_budget)
    found: dict[int, Array] = {}
    with tqdm(
        total=len(distinct),
        desc=label or None,
        unit="prompt",
        leave=False,
        file=sys.stderr,
        disable=None if progress else True,
    ) as bar:
        for batch, values in run_all(batches, lengths, run, where):
            found.update(zip(batch.rows, values, strict=True))
            bar.update(len(batch.rows))
    return np.stack([found[row] for row in where])


def _logprobs(subject: Subject, logits: Tensor, tokens: Sequence[int] | None) -> Array:
    if not bool(torch.isfinite(logits).any(dim=-1).all()) or bool(torch.isnan(logits).any()):
        raise GeometryBenchError(
            f"The logits of {subject.identity.name} are not finite: check the weights, or take float32 or bfloat16 in "
            "place of a dtype that overflows."
        )
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
