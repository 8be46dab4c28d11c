"""How prompts are put into batches: identical ones once, sorted by length, cut where padding and calls cost least.

Lengths alone decide, so that the same prompts always meet in the same batches: in 16-bit formats the batch a prompt
runs in changes its values slightly.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geometry_bench.activations.pooling import Padding

if TYPE_CHECKING:
    import torch

Ids = tuple[int, ...]

TOKENS_CPU = 1024
TOKENS_ACCELERATOR = 16384

# What starting one more batch costs, in padded tokens, as a part of the budget.
_CALL_COST = 1 / 32
_LEVEL = 16


@dataclass(frozen=True)
class Batch:
    """Rows of one forward pass: indices into the unique prompts, and the length that all are padded to.

    The first ``prefix`` tokens are the same in all rows and are computed once, in a pass of their own.
    """

    rows: tuple[int, ...]
    length: int
    prefix: int = 0

    @property
    def tokens(self) -> int:
        """Positions computed, padding included."""
        return self.prefix + len(self.rows) * (self.length - self.prefix)


def default_budget(device_type: str) -> int:
    """Padded tokens of a batch where nothing is asked for: few on a CPU, whose caches are small, more elsewhere."""
    return TOKENS_CPU if device_type == "cpu" else TOKENS_ACCELERATOR


def unique(prompts: Sequence[Sequence[int]]) -> tuple[list[Ids], list[int]]:
    """The distinct prompts in a canonical order (length, then ids), and for each given prompt its index among them."""
    given = [tuple(int(token) for token in prompt) for prompt in prompts]
    distinct = sorted(set(given), key=lambda ids: (len(ids), ids))
    where = {ids: index for index, ids in enumerate(distinct)}
    return distinct, [where[ids] for ids in given]


def plan_shared(
    prompts: Sequence[Ids], *, token_budget: int | None, batch_size: int | None = None, keep: int = 1
) -> list[Batch]:
    """As `plan`, with prompts of one beginning batched together where that saves more than the further call costs.

    Few system prompts times many messages are the usual case. keep: tokens at the end of every prompt that no prefix may
    take, for these are read.
    """
    call = 2 * (token_budget or TOKENS_CPU) * _CALL_COST
    lengths = [len(ids) for ids in prompts]
    batches: list[Batch] = []
    alone: list[int] = []
    for prefix, rows in _groups(prompts, call, keep):
        if prefix == 0:
            alone += rows
            continue
        rows = sorted(rows)  # canonical order: by length
        rest = [lengths[row] - prefix for row in rows]
        for batch in plan(rest, token_budget=token_budget, batch_size=batch_size):
            batches.append(Batch(tuple(rows[i] for i in batch.rows), batch.length + prefix, prefix))
    alone.sort()
    for batch in plan([lengths[row] for row in alone], token_budget=token_budget, batch_size=batch_size):
        batches.append(Batch(tuple(alone[i] for i in batch.rows), batch.length))
    return sorted(batches, key=lambda batch: -batch.tokens)


def _groups(prompts: Sequence[Ids], call: float, keep: int) -> list[tuple[int, list[int]]]:
    """(length of the common prefix, rows) of prompts to compute together; prefix 0: these gain nothing from company.

    Walks the tree of common beginnings from its root and, at each branch, takes the cheaper of sharing the branch's own
    beginning and leaving that to the branches above it.
    """
    order = sorted(range(len(prompts)), key=lambda row: prompts[row])
    common = [0] + [_common(prompts[a], prompts[b], keep) for a, b in itertools.pairwise(order)]

    def best(start: int, stop: int) -> tuple[float, list[tuple[int, list[int]]]]:
        rows = order[start:stop]
        tokens = sum(len(prompts[row]) for row in rows)
        if len(rows) == 1:
            return tokens, [(0, rows)]
        prefix = min(common[start + 1 : stop])
        # Branches that part within a few tokens count as one level, which bounds the depth.
        cuts = [i for i in range(start + 1, stop) if common[i] < prefix + _LEVEL]
        parts = [best(a, b) for a, b in zip([start, *cuts], [*cuts, stop], strict=True)]
        together, apart = tokens - prefix * (len(rows) - 1) + call, sum(cost for cost, _ in parts)
        if prefix > 0 and together < apart:
            return together, [(prefix, rows)]
        return apart, [group for _, groups in parts for group in groups]

    return best(0, len(order))[1] if order else []


def _common(a: Ids, b: Ids, keep: int) -> int:
    """Tokens that two prompts share at their beginning, the last ``keep`` of either left out."""
    most = min(len(a), len(b)) - keep
    return next((i for i in range(most) if a[i] != b[i]), max(0, most))


def plan(
    lengths: Sequence[int],
    *,
    token_budget: int | None,
    batch_size: int | None = None,
    uniform_above: int | None = None,
) -> list[Batch]:
    """Cut prompts of ascending `lengths` into batches, the longest first, so that memory runs out early or not at all.

    token_budget: padded tokens of a batch at most (a longer prompt makes a batch of its own); None: no such limit,
    and batches of exactly `batch_size`. uniform_above: prompts longer than this only meet others of their own length,
    for models whose position encoding depends on the longest prompt of the batch.
    """
    batches: list[Batch] = []
    start = 0
    while start < len(lengths):
        stop = _segment_end(lengths, start, uniform_above)
        batches += [
            Batch(tuple(range(start + a, start + b)), lengths[start + b - 1])
            for a, b in _cuts(lengths[start:stop], token_budget, batch_size)
        ]
        start = stop
    return batches[::-1]


def _segment_end(lengths: Sequence[int], start: int, uniform_above: int | None) -> int:
    if uniform_above is None:
        return len(lengths)
    if lengths[start] <= uniform_above:
        return int(np.searchsorted(lengths, uniform_above, side="right"))
    return int(np.searchsorted(lengths, lengths[start], side="right"))


def _cuts(lengths: Sequence[int], budget: int | None, size: int | None) -> list[tuple[int, int]]:
    """Half-open ranges over ascending lengths at the least sum of padded tokens and calls (dynamic programming)."""
    n = len(lengths)
    if budget is None:
        step = size or n
        return [(a, min(a + step, n)) for a in range(0, n, step)]
    call = budget * _CALL_COST
    cost = np.zeros(n + 1)
    begin = np.zeros(n + 1, dtype=np.int64)
    for end in range(1, n + 1):
        length = lengths[end - 1]
        most = max(1, budget // length)
        starts = np.arange(max(0, end - min(most, size or most)), end)
        costs = cost[starts] + (end - starts) * length + call
        best = int(np.argmin(costs))
        begin[end], cost[end] = starts[best], costs[best]
    ranges = []
    end = n
    while end:
        ranges.append((int(begin[end]), end))
        end = int(begin[end])
    return ranges[::-1]


def halve(batch: Batch, lengths: Sequence[int]) -> tuple[Batch, Batch]:
    """The longer and the shorter half of a batch of two rows or more, each padded to its own longest prompt."""
    middle = len(batch.rows) // 2
    short, long = batch.rows[:middle], batch.rows[middle:]
    return Batch(long, lengths[long[-1]], batch.prefix), Batch(short, lengths[short[-1]], batch.prefix)


def pad(prompts: Sequence[Ids], length: int, padding: Padding, fill: int = 0) -> torch.Tensor:
    """Token ids (rows, length), int64; `fill` is any id of the vocabulary, for no result ever reads those positions."""
    import torch

    ids = torch.full((len(prompts), length), fill, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens = torch.tensor(prompt, dtype=torch.long)
        if padding == "right":
            ids[row, : len(prompt)] = tokens
        else:
            ids[row, length - len(prompt) :] = tokens
    return ids
