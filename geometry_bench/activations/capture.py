"""Pooled block outputs of many prompts, every layer and several poolings from one pass over each prompt.

Read are the outputs of the decoder blocks (the residual stream after each block), by forward hooks on the text base
model: not `hidden_states`, whose last entry has passed the final norm and whose first is the embedding. The pass is
abandoned after the last block, so neither final norm nor head is computed. Batches are padded on the right and get no
attention mask: under causal attention a token never sees what follows it, and padded positions are never read.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from geometry_bench.activations import batching
from geometry_bench.activations.batching import Batch, Ids
from geometry_bench.activations.cache import TENSOR, Cache
from geometry_bench.activations.halving import run_all
from geometry_bench.activations.keys import file_facts, key_facts
from geometry_bench.activations.pooling import LAST, Padding, Pooler, Pooling
from geometry_bench.errors import GeometryBenchError
from geometry_bench.storage import digest

if TYPE_CHECKING:
    import torch

    from geometry_bench.subjects.subject import Subject

Array = NDArray[np.float32]


class _LastBlockDoneError(Exception):
    """Ends a forward pass after the last block; never leaves this module."""


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
    cache_live: bool = False,
) -> dict[Pooling, Array]:
    """Pooled block outputs of every prompt: for each pooling a float32 array (prompts, layers, width), as given.

    prompts: token ids, complete with their BOS. token_budget: padded tokens of a batch (default by device);
    batch_size: prompts of a batch at most. padding="left" passes mask and positions to the model; it is slower and
    there to check that the side does not matter. progress: a bar on stderr where that is a terminal, always with
    "force". cache: where results are looked up and kept, by the weights. It is left alone while the subject is intervened
    on, and for a wrapped model, whose weights may have changed since its revision was computed; cache_live=True uses it
    there too: for models that nobody trains, or that are wrapped again after every change.

    Raises `GeometryBenchError` for an empty prompt, an id outside the vocabulary, a prompt too short for a pooling or
    too large for the memory, a model whose blocks do not each run once, and values that are not finite.
    """
    work = _work(subject, prompts, poolings, padding, token_budget, batch_size)
    shape = (len(work.distinct), len(subject.blocks), subject.width)
    if not work.distinct or subject.intervened or (subject.identity.origin == "memory" and not cache_live):
        cache = None

    keys: dict[Pooling, str] = {}
    found: dict[Pooling, Array] = {}
    if cache is not None:
        setting = {"padding": padding, "token_budget": work.token_budget, "batch_size": batch_size}
        facts = key_facts(subject, work.distinct, setting)
        for pooling in work.poolings:
            keys[pooling] = digest({**facts, "pooling": pooling.name})
            stored = (cache.get(keys[pooling]) or {}).get(TENSOR)
            if stored is not None and stored.shape == shape:
                found[pooling] = stored.astype(np.float32, copy=False)

    missing = tuple(pooling for pooling in work.poolings if pooling not in found)
    if missing:
        fresh = {pooling: np.full(shape, np.nan, dtype=np.float32) for pooling in missing}
        with subject.measuring():
            for rows, pooled in _passes(subject, replace(work, poolings=missing), progress, label):
                for pooling, values in zip(missing, pooled, strict=True):
                    fresh[pooling][list(rows)] = values
        for pooling, values in fresh.items():
            if cache is not None:
                cache.put(keys[pooling], {TENSOR: values}, file_facts(subject, shape, pooling))
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
        token_budget = batching.default_budget(_input_device(subject).type)
    return _Work(distinct, where, wanted, padding, token_budget, batch_size)


def _passes(
    subject: Subject, work: _Work, progress: bool | Literal["force"], label: str
) -> Iterator[tuple[tuple[int, ...], Array]]:
    """Every batch's rows among the distinct prompts with their pooled outputs (poolings, rows, layers, width)."""
    lengths = [len(ids) for ids in work.distinct]
    above, dynamic = _length_dependent_positions(subject.backbone)
    batches = _plan(subject, work, lengths, above)
    with _bar(len(work.distinct), progress, label) as advance:

        def run(batch: Batch) -> Array:
            rows = [work.distinct[row] for row in batch.rows]
            with subject.measuring():
                if dynamic and above is not None and batch.length > above:
                    _forget_longer_prompts(subject)
                return _forward(subject, rows, batch.length, work.padding, work.poolings, batch.prefix)

        for batch, pooled in run_all(batches, lengths, run, work.where):
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
        if _may_share(subject, work.distinct, shared, work.poolings):
            return shared
    return batching.plan(lengths, token_budget=budget, batch_size=size, uniform_above=above)


def _forward(
    subject: Subject,
    prompts: Sequence[Ids],
    length: int,
    padding: Padding,
    poolings: Sequence[Pooling],
    prefix: int = 0,
) -> Array:
    """One pass over one batch: (poolings, prompts, layers, width).

    With ``prefix``, so many tokens that all prompts begin with are passed once before, and the rest attends to their
    keys and values; poolings must read nothing of them.
    """
    import torch

    device = _input_device(subject)
    beginning, prompts, length = prompts[0][:prefix], [ids[prefix:] for ids in prompts], length - prefix
    lengths = [len(ids) for ids in prompts]
    ids = batching.pad(prompts, length, padding).to(device)
    # A configuration that asks for hidden states would have transformers put hooks on the model.
    inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False, "output_hidden_states": False}
    if beginning:
        inputs |= {"use_cache": True, "past_key_values": _keys_and_values(subject, beginning, len(prompts))}
    if padding == "left":
        steps = torch.arange(length)[None, :] - (length - torch.tensor(lengths))[:, None]
        inputs["attention_mask"] = (steps >= 0).long().to(device)
        # Models that take no positions (OPT in older versions) work them out from the mask themselves.
        if "position_ids" in inspect.signature(subject.backbone.forward).parameters:
            inputs["position_ids"] = steps.clamp(min=0).to(device)

    pooler = Pooler(lengths, length, padding, poolings)
    expected = (len(prompts), length, subject.width)
    final = len(subject.blocks) - 1
    pooled: list[torch.Tensor] = []

    def read(layer: int, output: Any) -> None:
        hidden = subject.residual_stream(layer, output)
        if tuple(hidden.shape) != expected or len(pooled) != layer:
            raise GeometryBenchError(
                f"Block {layer} of {subject.identity.name} returned {tuple(hidden.shape)} as output {len(pooled)} of "
                f"the pass, not {expected} as output {layer}: blocks that do not run once each, in order, are not "
                "supported."
            )
        pooled.append(pooler(hidden))
        if layer == final:
            raise _LastBlockDoneError

    with _hooks(subject.blocks, read):
        try:
            subject.backbone(**inputs)
        except _LastBlockDoneError:
            return torch.stack([values.cpu() for values in pooled], dim=2).numpy()
    raise GeometryBenchError(
        f"A forward pass of {subject.identity.name} ended without its last block: check that its architecture is "
        "a causal decoder whose blocks all run."
    )


def _keys_and_values(subject: Subject, beginning: Ids, rows: int) -> Any:
    """What a prompt's beginning leaves for the tokens after it, once for each row."""
    import torch

    ids = torch.tensor([beginning], device=_input_device(subject))
    past = subject.backbone(input_ids=ids, use_cache=True, output_hidden_states=False).past_key_values
    past.batch_repeat_interleave(rows)
    return past


def _may_share(
    subject: Subject, distinct: Sequence[Ids], batches: Sequence[Batch], poolings: Sequence[Pooling]
) -> bool:
    """Whether this model answers the same where a common beginning is computed once.

    Models keep keys and values in ways of their own (windows, recurrent states, sparse attention), so the first shared
    batch's first two prompts are also computed each in one piece.
    """
    first = next((batch for batch in batches if batch.prefix), None)
    if first is None:
        return True
    rows = [distinct[row] for row in first.rows[:2]]
    with subject.measuring():
        whole = np.concatenate([_forward(subject, [row], len(row), "right", poolings) for row in rows], axis=1)
        try:
            shared = _forward(subject, rows, max(map(len, rows)), "right", poolings, first.prefix)
        except (TypeError, ValueError, AttributeError, NotImplementedError, IndexError, RuntimeError):
            shared = np.full_like(whole, np.nan)  # this architecture takes no keys and values of that kind
    loose = 1e-4 if subject.dtype in ("float32", "float64") else 5e-2
    scale = np.abs(whole).max(axis=-1, keepdims=True)
    # Weights that give no finite values are reported with the prompt's number when the batches run.
    return bool(not np.all(np.isfinite(whole)) or np.all(np.abs(whole - shared) <= loose * scale))


def _input_device(subject: Subject) -> torch.device:
    """Where token ids go; an offloaded embedding lives nowhere, and its loader takes ids from the CPU."""
    import torch

    return torch.device("cpu") if subject.device.type == "meta" else subject.device


@contextmanager
def _hooks(blocks: Sequence[torch.nn.Module], read: Callable[[int, Any], None]) -> Iterator[None]:
    """Forward hooks on all blocks, gone afterwards whatever happens."""

    def hook(layer: int) -> Callable[..., None]:
        return lambda _module, _inputs, output: read(layer, output)

    handles: list[Any] = []
    try:
        for layer, block in enumerate(blocks):
            handles.append(block.register_forward_hook(hook(layer)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _bar(total: int, progress: bool | Literal["force"], label: str) -> Iterator[Callable[[int], object]]:
    from tqdm import tqdm

    shown = progress == "force" or (bool(progress) and sys.stderr.isatty())
    bar = tqdm(total=total, desc=label or None, unit="prompt", file=sys.stderr, disable=not shown, leave=False)
    try:
        yield bar.update
    finally:
        bar.close()


def _length_dependent_positions(backbone: torch.nn.Module) -> tuple[int | None, bool]:
    """The length above which rotary frequencies depend on the longest prompt of a batch, and whether on earlier ones.

    Two kinds of scaled rotary encoding choose their frequencies by the longest prompt in a batch (`longrope`, and
    `dynamic`, which also keeps those of the longest prompt seen before). (None, False) for all other models.
    """
    from geometry_bench.subjects.blocks import text_config

    config = text_config(backbone)
    settings = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    for setting in [settings, *settings.values()]:
        kind = setting.get("rope_type", setting.get("type")) if isinstance(setting, Mapping) else None
        if kind in ("dynamic", "longrope"):
            original = setting.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            return int(original or config.max_position_embeddings), kind == "dynamic"
    return None, False


def _forget_longer_prompts(subject: Subject) -> None:
    """A pass over one token sets `dynamic` rotary frequencies back to those of short prompts."""
    import torch

    ids = torch.zeros((1, 1), dtype=torch.long, device=_input_device(subject))
    subject.backbone(input_ids=ids, use_cache=False, output_hidden_states=False)


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
