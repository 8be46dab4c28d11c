"""How well a model predicts a text: text that it cannot read gives noise that looks like a finding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from geometry_bench.subjects.subject import Subject

SAMPLE = 16
"""Prompts of a set that are read."""
TOKENS = 128
"""Tokens of a prompt that are read."""
LOGITS = 2**26
"""Logits that are held at once."""


@dataclass(frozen=True)
class Readability:
    """Mean cross-entropy of the next token, in nats, and that of guessing uniformly among all tokens."""

    nats: float
    uniform: float

    @property
    def is_guessing(self) -> bool:
        """Whether the model predicts the text no better than by guessing, rounding apart."""
        return self.nats >= self.uniform - 1e-3


def readability(subject: Subject, prompts: Sequence[Sequence[int]]) -> Readability | None:
    """Next-token cross-entropy over at most ``SAMPLE`` prompts, evenly spaced; token ids without the first are predicted.

    None where nothing can be said: prompts of one token, a model without a head, or logits that are not finite.
    """
    step = max(1, len(prompts) // SAMPLE)
    sample = [torch.tensor(list(ids[:TOKENS])) for ids in prompts[::step][:SAMPLE] if len(ids) > 1]
    vocabulary = cast(Any, subject.backbone).get_input_embeddings().weight.shape[0]
    size = max(1, LOGITS // (vocabulary * max(map(len, sample), default=1)))
    total, count, width = 0.0, 0, 0
    with subject.measuring():
        for start in range(0, len(sample), size):
            # Padded on the right, where a causal model does not look.
            tokens = pad_sequence(sample[start : start + size], batch_first=True, padding_value=0).to(subject.device)
            logits = getattr(cast(Any, subject.model)(input_ids=tokens, use_cache=False), "logits", None)
            if logits is None:
                return None
            for ids, scores in zip(sample[start : start + size], logits, strict=True):
                wanted = ids[1:].to(logits.device)
                total += float(cross_entropy(scores[: len(wanted)].float(), wanted, reduction="sum"))
                count, width = count + len(wanted), logits.shape[-1]
    if not count or not math.isfinite(total):
        return None
    return Readability(total / count, math.log(width))
