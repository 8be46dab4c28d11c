"""Where the last token of each row is in the pass that is running."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from geometry_bench.errors import GeometryBenchError

_ONLY_BEGINNINGS: ContextVar[bool] = ContextVar("only_beginnings", default=False)


@contextmanager
def only_beginnings() -> Iterator[None]:
    """Within it, passes hold beginnings of prompts, without any prompt's last token."""
    before = _ONLY_BEGINNINGS.set(True)
    try:
        yield
    finally:
        _ONLY_BEGINNINGS.reset(before)


class LastToken:
    """The last token of each row of a backbone's pass, told by its attention mask; at the end of a single row."""

    def __init__(self, backbone: nn.Module) -> None:
        self._backbone = backbone
        self._parameters = inspect.signature(backbone.forward)
        self._mask: Tensor | None = None

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Within it, the mask of every pass is noted before the pass begins."""
        handle = self._backbone.register_forward_pre_hook(self._note, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
            self._mask = None

    def _note(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = self._parameters.bind_partial(*args, **kwargs).arguments
        mask = given.get("attention_mask", given.get("kwargs", {}).get("attention_mask"))
        self._mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None

    def places(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and columns of the last tokens in activations (batch, positions, width): (batch,), or none.

        Raises GeometryBenchError where several rows of several tokens came without a mask: rows may be padded.
        """
        count, positions = hidden.shape[:2]
        rows = torch.arange(count, device=hidden.device)
        if _ONLY_BEGINNINGS.get():
            return rows[:0], rows[:0]
        if count == 1 or positions == 1:
            return rows, torch.full_like(rows, positions - 1)
        if self._mask is None:
            raise GeometryBenchError(
                "Several prompts run in one pass without an attention mask, so the last token of each cannot be told: "
                "pad on the left (padding='left'), or pass prompts one at a time."
            )
        present = self._mask[:, -positions:].to(hidden.device)
        return rows, positions - 1 - present.flip(1).long().argmax(dim=1)
