"""Texts at which an answer ends, beside the model's own end tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria


class StopTexts(StoppingCriteria):
    """Ends each row of a batch once one of the texts stands in what it has said; ``begin`` is where answers begin."""

    def __init__(self, tokenizer: Any, texts: Sequence[str], begin: int) -> None:
        self._tokenizer, self._texts, self._begin = tokenizer, texts, begin
        # A token holds a byte at least, and the newest one may go on behind the text.
        self._tail = max(len(text.encode()) for text in texts)

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Which rows (batch,) are done."""
        newest = input_ids[:, max(self._begin, input_ids.shape[1] - self._tail) :]
        said = self._tokenizer.batch_decode(newest)
        return torch.tensor([any(text in one for text in self._texts) for one in said], device=input_ids.device)


def tokens_until(tokenizer: Any, ids: Sequence[int], texts: Sequence[str]) -> int | None:
    """How many tokens of an answer it takes until one of the texts is in it; None where none is."""
    if not texts or not any(text in tokenizer.decode(ids) for text in texts):
        return None
    return next(n for n in range(1, len(ids) + 1) if any(text in tokenizer.decode(ids[:n]) for text in texts))


def until(said: str, texts: Sequence[str]) -> str:
    """What was said before any of the texts."""
    return min((said.partition(text)[0] for text in texts), key=len, default=said)
