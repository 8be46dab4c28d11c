"""Batches that do not fit the memory run in halves."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from geometry_bench.activations import batching
from geometry_bench.activations.batching import Batch
from geometry_bench.errors import GeometryBenchError

T = TypeVar("T")


def run_all(
    batches: Sequence[Batch], lengths: Sequence[int], run: Callable[[Batch], T], where: Sequence[int]
) -> Iterator[tuple[Batch, T]]:
    """Run batches in order; where one does not fit the memory, it and all others as large are halved until they do."""
    waiting = list(reversed(batches))
    limit: int | None = None
    while waiting:
        batch = waiting.pop()
        if limit is not None and batch.tokens > limit and len(batch.rows) > 1:
            long, short = batching.halve(batch, lengths)
            waiting += [short, long]
            continue
        result = _fitting(run, batch)
        if result is not None:
            yield batch, result
            continue
        _free_memory()
        if len(batch.rows) == 1:
            raise GeometryBenchError(
                f"Prompt {where.index(batch.rows[0])} ({batch.length} tokens) does not fit the memory on its own: "
                "shorten it, or take a smaller dtype, a smaller model or another device."
            )
        if limit is None:
            warnings.warn(
                f"Out of memory with {len(batch.rows)} prompts of up to {batch.length} tokens in one batch, which "
                "now runs in halves, as do all others as large.",
                RuntimeWarning,
                stacklevel=4,
            )
        limit = batch.tokens // 2
        waiting.append(batch)


def _fitting(run: Callable[[Batch], T], batch: Batch) -> T | None:
    """A batch's result; None where memory ran out. On return the failed pass's tensors are no longer referred to."""
    try:
        return run(batch)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        return None


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
