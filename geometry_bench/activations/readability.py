"""How well a model predicts a text: text that it cannot read gives noise that looks like a finding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from geometry_bench.subjects.subject import Subject

SAMPLE = 16
"""Prompts of a set that are read."""
TOKENS = 128
"""Tokens of a prompt that are read."""


@dataclass(frozen=True)
class Readability:
    """Mean cross-entropy of the next token, in nats, and that of guessing uniformly among all tokens."""

    nats: float
    uniform: float

    @property
    def is_guessing(self) -> bool:
        """Whether the model predicts the text no better than by guessing."""
        return self.nats >= self.uniform


def readability(subject: Subject, prompts: Sequence[Sequence[int]]) -> Readability | None:
    """Next-token cross-entropy over at most ``SAMPLE`` prompts, evenly spaced; token ids without the first are predicted.

    None where nothing can be said: prompts of one token, a model without a head, or logits that are not finite.
    """
    step = max(1, len(prompts) // SAMPLE)
    total, count, size = 0.0, 0, 0
    with subject.measuring():
        for ids in prompts[::step][:SAMPLE]:
            tokens = torch.tensor([list(ids[:TOKENS])], device=subject.device)
            if tokens.shape[1] < 2:
                continue
            logits = getattr(cast(Any, subject.model)(input_ids=tokens, use_cache=False), "logits", None)
            if logits is None:
                return None
            scores, wanted = logits[0, :-1].float(), tokens[0, 1:].to(logits.device)
            total += float(torch.nn.functional.cross_entropy(scores, wanted, reduction="sum"))
            count, size = count + len(wanted), scores.shape[-1]
    if not count or not math.isfinite(total):
        return None
    return Readability(total / count, math.log(size))
