"""Which positions of a prompt a pooled activation is made of, and the reduction itself.

Positions always come from the prompts' lengths and from the side that was padded, never from an index such as `[-1]`,
and padded positions are selected away before anything is summed: whatever is there, a NaN included, cannot reach
the result. Sums are taken in float32 (float64 for float64 models), whatever the block's own dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from geometry_bench.errors import GeometryBenchError

if TYPE_CHECKING:
    import torch

Kind = Literal["last", "mean_last", "mean_first", "mean"]
Padding = Literal["right", "left"]

_OF_SEVERAL = ("mean_last", "mean_first")

SINK_RATIO = 100.0
"""A position is a sink where its norm exceeds this many times the median norm of its own prompt at that layer."""


@dataclass(frozen=True)
class Pooling:
    """One way to reduce the positions of a prompt to one vector.

    kind: "last" (the last position), "mean_last" or "mean_first" (the mean of the last or first `k`, of all where there
        are fewer) or "mean" (of all positions).
    skip_bos: leave out the first position.
    skip_sinks: leave out positions whose norm at this layer exceeds `SINK_RATIO` times the median over all positions
        of the same prompt, so that the batch it runs in cannot matter.
    start: leave out so many positions at the beginning, such as those that all prompts share.

    With positions left out, "last" is the last of those that remain and "mean_first" begins with the first of them.
    Raises `GeometryBenchError` for an unknown kind, a `k` that the kind does not take or a negative `start`.
    """

    kind: Kind
    k: int = 1
    skip_bos: bool = False
    skip_sinks: bool = False
    start: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("last", "mean_last", "mean_first", "mean"):
            raise GeometryBenchError(f"Unknown pooling {self.kind!r}: choose last, mean_last, mean_first or mean.")
        if self.k < 1 or (self.k != 1 and self.kind not in _OF_SEVERAL):
            raise GeometryBenchError(
                f"Pooling {self.kind!r} cannot take k={self.k}: k is 1 or more, and only mean_last and mean_first take "
                "more than 1."
            )
        if self.start < 0:
            raise GeometryBenchError(f"A pooling cannot start at position {self.start}: positions count from 0.")

    @property
    def name(self) -> str:
        """A stable name, part of cache keys and records: `mean_last_5+no_bos+no_sinks`."""
        base = f"{self.kind}_{self.k}" if self.kind in _OF_SEVERAL else self.kind
        start = f"+from_{self.start}" if self.start else ""
        return base + start + ("+no_bos" if self.skip_bos else "") + ("+no_sinks" if self.skip_sinks else "")

    @property
    def left_out(self) -> int:
        """Positions at a prompt's beginning that are never read."""
        return max(self.start, 1 if self.skip_bos else 0)

    @property
    def reads_at_most(self) -> int | None:
        """Positions at a prompt's end beyond which nothing is read; None where any position can matter."""
        return None if self.kind in ("mean", "mean_first") or self.skip_sinks or self.left_out else self.k


LAST = Pooling("last")


@dataclass(frozen=True)
class _Selection:
    """What a pooling keeps of a batch: either the k last or first positions by index, or a mask over all positions."""

    index: torch.Tensor | None  # (batch, k) positions, where few are wanted
    kept: torch.Tensor  # bool, (batch, k) beside `index`, else (batch, positions)
    count: torch.Tensor  # (batch, 1)


class Pooler:
    """Reduces the block outputs of one padded batch; made once for the batch and called once for each block.

    lengths: tokens of each row; total: positions of the padded batch; padding: the side that was padded.
    """

    def __init__(self, lengths: Sequence[int], total: int, padding: Padding, poolings: Sequence[Pooling]) -> None:
        import torch

        self._poolings = tuple(poolings)
        ends = torch.tensor(lengths)[:, None] if padding == "right" else torch.full((len(lengths), 1), total)
        starts = ends - torch.tensor(lengths)[:, None]
        positions = torch.arange(total)[None, :]
        self._valid = (positions >= starts) & (positions < ends)
        self._number = positions - starts
        self._on_device: dict[torch.device, _Fixed] = {}

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """(poolings, batch, width) in float32 from (batch, positions, width) in any floating dtype, on its own device.

        The result shares no memory with the block output, which can therefore be freed.
        """
        import torch

        # Blocks of one model may live on several devices; what does not depend on the layer is kept for each of them.
        fixed = self._on_device.get(hidden.device)
        if fixed is None:
            fixed = self._on_device[hidden.device] = self._fix(hidden.device)
        sinks: torch.Tensor | None = None
        rows = []
        for pooling, selection in zip(self._poolings, fixed.selections, strict=True):
            if selection is None:
                if sinks is None:
                    sinks = sink_positions(hidden, fixed.valid)
                selection = _select(pooling, fixed.valid & ~sinks, fixed.number)
            rows.append(_reduce(hidden, selection))
        return torch.stack(rows)

    def _fix(self, device: torch.device) -> _Fixed:
        valid, number = self._valid.to(device), self._number.to(device)
        selections = tuple(None if p.skip_sinks else _select(p, valid, number) for p in self._poolings)
        return _Fixed(valid, number, selections)


@dataclass(frozen=True)
class _Fixed:
    """The part of a batch's selection that is the same at every layer, on one device."""

    valid: torch.Tensor
    number: torch.Tensor  # (batch, positions), counted from 0 at each prompt's own beginning
    selections: tuple[_Selection | None, ...]  # None where the norms of the layer decide


def sink_positions(hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Mask (batch, positions) of the sinks of (batch, positions, width), from the median norm of each row's own tokens.

    At least half of a prompt's positions have at most the median norm, so some position always remains.
    """
    import torch

    norms = torch.linalg.vector_norm(hidden, dim=-1, dtype=_sum_dtype(hidden))
    ordered = norms.masked_fill(~valid, float("inf")).sort(dim=1).values
    lengths = valid.sum(dim=1, keepdim=True)
    middle = (ordered.gather(1, (lengths - 1) // 2) + ordered.gather(1, lengths // 2)) / 2
    sinks: torch.Tensor = norms > SINK_RATIO * middle
    return valid & sinks


def _select(pooling: Pooling, candidates: torch.Tensor, number: torch.Tensor) -> _Selection:
    import torch

    kept = candidates & (number >= pooling.left_out) if pooling.left_out else candidates
    if pooling.kind == "mean":
        return _Selection(None, kept, kept.sum(dim=1, keepdim=True))
    total = kept.shape[1]
    positions = torch.arange(total, device=kept.device).expand_as(kept)
    if pooling.kind == "mean_first":
        index = positions.masked_fill(~kept, total).topk(min(pooling.k, total), dim=1, largest=False).values
        return _Selection(index.clamp(max=total - 1), index < total, (index < total).sum(dim=1, keepdim=True))
    index = positions.masked_fill(~kept, -1).topk(min(pooling.k, total), dim=1).values
    return _Selection(index.clamp(min=0), index >= 0, (index >= 0).sum(dim=1, keepdim=True))


def _reduce(hidden: torch.Tensor, selection: _Selection) -> torch.Tensor:
    import torch

    values = hidden
    if selection.index is not None:
        values = hidden.gather(1, selection.index[..., None].expand(-1, -1, hidden.shape[-1]))
    values = values.masked_fill(~selection.kept[..., None], 0)
    return (values.sum(dim=1, dtype=_sum_dtype(hidden)) / selection.count).to(torch.float32)


def _sum_dtype(hidden: torch.Tensor) -> torch.dtype:
    import torch

    return torch.float64 if hidden.dtype == torch.float64 else torch.float32
