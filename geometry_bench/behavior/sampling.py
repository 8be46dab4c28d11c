"""What is done to the logits of every step: none may be NaN; and draws that are the same in any batch and any order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, TopPLogitsWarper

from geometry_bench.behavior.passes import refuse_not_finite
from geometry_bench.storage import digest
from geometry_bench.subjects.subject import Subject


class OnlyNumbers(LogitsProcessor):
    """Leaves logits as they are. Raises GeometryBenchError where they are not finite: the largest of them means nothing."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The logits (rows, vocabulary)."""
        refuse_not_finite(self._subject, scores)
        return scores


class Draws(LogitsProcessor):
    """Adds Gumbel noise to logits / temperature, so that the largest one is a draw from their softmax (Gumbel-max).

    ``seeds``: one for each row; every row has a generator of its own. ``top_p`` keeps the smallest set of tokens of at least
    that mass.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._temperature = temperature
        self._nucleus = TopPLogitsWarper(top_p)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Noisy logits (rows, vocabulary)."""
        wide = self._nucleus(input_ids, scores.float() / self._temperature)
        size = wide.shape[-1]
        waits = torch.stack([torch.empty(size).exponential_(generator=one) for one in self._generators])
        noisy: Tensor = wide - waits.log().to(wide.device)
        return noisy


def seed_of(seed: int, ids: Sequence[int], draw: int) -> int:
    """The seed (63 bits) of the ``draw``-th answer to a prompt in a run of a seed."""
    return int(digest([seed, list(ids), draw])[:16], 16) >> 1
