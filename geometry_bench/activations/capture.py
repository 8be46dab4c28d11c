"""Pooled block outputs of many prompts, every layer and several poolings from one pass over each prompt.

Read are the outputs of the decoder blocks (the residual stream after each block), by forward hooks on the text base
model: not `hidden_states`, whose last entry has passed the final norm and whose first is the embedding.
"""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from geometry_bench.activations import batching
from geometry_bench.activations.batching import Batch, Ids
from geometry_bench.activations.cache import TENSOR, Cache
from geometry_bench.activations.forward import (
    evaluating,
    forget_longer_prompts,
    forward,
    input_device,
    length_dependent_positions,
    may_share,
)
from geometry_bench.activations.pooling import LAST, Padding, Pooling
from geometry_bench.errors import GeometryBenchError
from geometry_bench.storage import digest

if TYPE_CHECKING:
    from geometry_bench.subjects.load import Subject

Array = NDArray[np.float32]

CODE_VERSION = 2
"""Raised whenever the same subject and prompts would give other numbers than before: old cache entries then miss."""

SITE = "block_output"


def capture(
    subject: Subject,
    prompts: Sequence[Sequence[int]],
    poolings: Sequence[Pooling] = (LAST,),
    *,
    token_budget: int | None = None,
    batch_size: int | None = None,
    padding: Padding = "right",
    progress: bool | Literal["force"] = True,
    label: str = "",
    cache: Cache | None = None,
) -> dict[Pooling, Array]:
    """Pooled block outputs of every prompt: for each pooling a float32 array (prompts, layers, width), as given.

    prompts: token ids, complete with their BOS. token_budget: padded tokens of a batch (default by device);
    batch_size: prompts of a batch at most. padding="left" passes mask and positions to the model; it is slower and
    there to check that the side does not matter. progress: a bar on stderr where that is a terminal, always with
    "force". cache: where results are looked up and kept; it must not be given while a model is being intervened on,
    for the key knows the weights only.

    Raises `GeometryBenchError` for an empty prompt, an id outside the vocabulary, a prompt too short for a pooling or
    too large for the memory, a model whose blocks do not each run once, and values that are not finite.
    """
    work = _work(subject, prompts, poolings, padding, token_budget, batch_size)
    shape = (len(work.distinct), len(subject.blocks), subject.width)

    keys: dict[Pooling, str] = {}
    found: dict[Pooling, Array] = {}
    if cache is not None and work.distinct:
        setting = {"padding": padding, "token_budget": work.token_budget, "batch_size": batch_size}
        facts = _key_facts(subject, work.distinct, setting)
        for pooling in work.poolings:
            keys[pooling] = digest({**facts, "pooling": pooling.name})
            stored = (cache.get(keys[pooling]) or {}).get(TENSOR)
            if stored is not None and stored.shape == shape:
                found[pooling] = stored.astype(np.float32, copy=False)

    missing = tuple(pooling for pooling in work.poolings if pooling not in found)
    if missing:
        fresh = {pooling: np.full(shape, np.nan, dtype=np.float32) for pooling in missing}
        for rows, pooled in _passes(subject, replace(work, poolings=missing), progress, label):
            for pooling, values in zip(missing, pooled, strict=True):
                fresh[pooling][list(rows)] = values
        for pooling, values in fresh.items():
            if cache is not None and work.distinct:
                cache.put(keys[pooling], {TENSOR: values}, _file_facts(subject, shape, pooling))
        found.update(fresh)
    return {pooling: found[pooling][work.where] for pooling in work.poolings}


def capture_batches(
    subject: Subject,
    prompts: Sequence[Sequence[int]],
    poolings: Sequence[Pooling] = (LAST,),
    *,
    token_budget: int | None = None,
    batch_size: int | None = None,
    padding: Padding = "right",
    progress: bool | Literal["force"] = True,
    label: str = "",
) -> Iterator[tuple[NDArray[np.int64], dict[Pooling, Array]]]:
    """The same batch by batch, so that memory does not grow with the number of prompts; nothing is cached.

    Yields the indices of the prompts that a batch holds (prompts,) and for each pooling their block outputs (prompts,
    layers, width), float32. Every prompt comes exactly once, in whatever order costs least. Raises as `capture` does.
    """
    work = _work(subject, prompts, poolings, padding, token_budget, batch_size)
    given: dict[int, list[int]] = {}
    for index, row in enumerate(work.where):
        given.setdefault(row, []).append(index)
    for rows, pooled in _passes(subject, work, progress, label):
        repeats = [len(given[row]) for row in rows]
        indices = np.array([index for row in rows for index in given[row]], dtype=np.int64)
        yield (
            indices,
            {
                pooling: np.repeat(values, repeats, axis=0)
                for pooling, values in zip(work.poolings, pooled, strict=True)
            },
        )


@dataclass(frozen=True)
class _Work:
    """What is asked of a subject: its distinct prompts and, for each given prompt, which of them it is."""

    distinct: list[Ids]
    where: list[int]
    poolings: tuple[Pooling, ...]
    padding: Padding
    token_budget: int | None
    batch_size: int | None


def _work(
    subject: Subject,
    prompts: Sequence[Sequence[int]],
    poolings: Sequence[Pooling],
    padding: Padding,
    token_budget: int | None,
    batch_size: int | None,
) -> _Work:
    wanted = tuple(dict.fromkeys(poolings))
    _check_prompts(subject, prompts, wanted)
    if padding not in ("right", "left"):
        raise GeometryBenchError(f"Unknown padding {padding!r}: choose right or left.")
    for name, limit in (("token_budget", token_budget), ("batch_size", batch_size)):
        if limit is not None and limit < 1:
            raise GeometryBenchError(f"{name} is {limit}: give 1 or more.")
    distinct, where = batching.unique(prompts)
    if token_budget is None and batch_size is None:
        token_budget = batching.default_budget(input_device(subject).type)
    return _Work(distinct, where, wanted, padding, token_budget, batch_size)


def _passes(
    subject: Subject, work: _Work, progress: bool | Literal["force"], label: str
) -> Iterator[tuple[tuple[int, ...], Array]]:
    """Every batch's rows among the distinct prompts with their pooled outputs (poolings, rows, layers, width)."""
    lengths = [len(ids) for ids in work.distinct]
    above, dynamic = length_dependent_positions(subject.backbone)
    batches = _plan(subject, work, lengths, above)
    with evaluating(subject.backbone), _bar(len(work.distinct), progress, label) as advance:

        def run(batch: Batch) -> Array:
            if dynamic and above is not None and batch.length > above:
                forget_longer_prompts(subject)
            rows = [work.distinct[row] for row in batch.rows]
            return forward(subject, rows, batch.length, work.padding, work.poolings, batch.prefix)

        for batch, pooled in _run_all(batches, lengths, run, work.where):
            for pooling, values in zip(work.poolings, pooled, strict=True):
                _check_finite(values, batch.rows, work.where, pooling)
            yield batch.rows, pooled
            advance(len(batch.rows))


def _plan(subject: Subject, work: _Work, lengths: Sequence[int], above: int | None) -> list[Batch]:
    """Batches with common beginnings computed once where poolings and model allow it, else of whole prompts."""
    budget, size = work.token_budget, work.batch_size
    at_the_end = [pooling.reads_at_most for pooling in work.poolings]
    if work.padding == "right" and above is None and size != 1 and None not in at_the_end:
        keep = max(count for count in at_the_end if count is not None)
        shared = batching.plan_shared(work.distinct, token_budget=budget, batch_size=size, keep=keep)
        if may_share(subject, work.distinct, shared, work.poolings):
            return shared
    return batching.plan(lengths, token_budget=budget, batch_size=size, uniform_above=above)


def _run_all(
    batches: Sequence[Batch], lengths: Sequence[int], run: Callable[[Batch], Array], where: Sequence[int]
) -> Iterator[tuple[Batch, Array]]:
    """Run batches in order; where one does not fit the memory, it and all others as large are halved until they do."""
    waiting = list(reversed(batches))
    limit: int | None = None
    while waiting:
        batch = waiting.pop()
        if limit is not None and batch.tokens > limit and len(batch.rows) > 1:
            long, short = batching.halve(batch, lengths)
            waiting += [short, long]
            continue
        pooled = _fitting(run, batch)
        if pooled is not None:
            yield batch, pooled
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


def _fitting(run: Callable[[Batch], Array], batch: Batch) -> Array | None:
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


@contextmanager
def _bar(total: int, progress: bool | Literal["force"], label: str) -> Iterator[Callable[[int], object]]:
    from tqdm import tqdm

    hidden = {"force": False, True: None, False: True}[progress]  # None: hidden where stderr is no terminal
    bar = tqdm(total=total, desc=label or None, unit="prompt", file=sys.stderr, disable=hidden, leave=False)
    try:
        yield bar.update
    finally:
        bar.close()


def _check_prompts(subject: Subject, prompts: Sequence[Sequence[int]], poolings: Sequence[Pooling]) -> None:
    if not poolings:
        raise GeometryBenchError("No pooling was asked for: give at least one.")
    embedding = cast("Any", subject.backbone).get_input_embeddings()
    size = getattr(embedding, "num_embeddings", None)
    left_out = max(pooling.left_out for pooling in poolings)
    for index, prompt in enumerate(prompts):
        if len(prompt) <= left_out:
            raise GeometryBenchError(
                f"Prompt {index} has {len(prompt)} tokens, and poolings that leave out the first {left_out} need "
                f"{left_out + 1}: leave this prompt or this pooling out."
                if left_out
                else f"Prompt {index} has no tokens: give each prompt at least one."
            )
        if size is not None and not 0 <= min(prompt) <= max(prompt) < size:
            raise GeometryBenchError(
                f"Prompt {index} holds a token id outside 0..{size - 1}, the vocabulary of {subject.identity.name}: "
                "encode it with that model's own tokenizer."
            )


def _check_finite(values: Array, rows: Sequence[int], where: Sequence[int], pooling: Pooling) -> None:
    bad = np.argwhere(~np.isfinite(values).all(axis=2))
    if len(bad):
        place, layer = (int(n) for n in bad[0])
        raise GeometryBenchError(
            f"The activations of prompt {where.index(rows[place])} are not finite at layer {layer} (pooling "
            f"{pooling.name}): check the weights, or take float32 or bfloat16 in place of a dtype that overflows."
        )


def _key_facts(subject: Subject, distinct: Sequence[Ids], setting: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a stored number is a function of, the pooling apart."""
    import torch
    import transformers

    facts = {
        "code": CODE_VERSION,
        "site": SITE,
        "weights": subject.identity.revision,
        "adapter": subject.identity.adapter_hash,
        "tokenizer": subject.tokenizer_hash,
        "ids": [list(ids) for ids in distinct],
        "dtype": subject.dtype,
        "quantisation": subject.quantisation,
        "attention": subject.attention,
        "device": subject.device.type,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    # In 16-bit formats the company a prompt runs in changes its values; in float32 it does so below 2e-5.
    return facts if subject.dtype in ("float32", "float64") else {**facts, **setting}


def _file_facts(subject: Subject, shape: tuple[int, int, int], pooling: Pooling) -> dict[str, str]:
    return {
        "subject": subject.identity.name,
        "revision": subject.identity.revision,
        "prompts": str(shape[0]),
        "layers": str(shape[1]),
        "width": str(shape[2]),
        "pooling": pooling.name,
        "site": SITE,
        "dtype": subject.dtype,
        "attention": subject.attention,
    }
