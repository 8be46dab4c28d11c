"""Copies of a model that a reader knows: its own weights rounded as formats do, or without a random direction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from geometry_bench.behavior.ablated import ablated
from geometry_bench.subjects.subject import Subject

COPIES = ("bfloat16", "8 bits", "4 bits", "random direction")
"""Rounded to bfloat16, to 8 bits in each row of a matrix, to 4 bits in each 32 values; a random direction ablated."""

GROUP = 32


@contextmanager
def copied(subject: Subject, copy: str, *, seed: int = 0) -> Iterator[None]:
    """Within it, the subject is one of its ``COPIES``; afterwards all weights are as before, whatever happened.

    Raises GeometryBenchError where the weights cannot be edited, as `ablated` does.
    """
    if copy == "random direction":
        direction = np.random.default_rng(seed).normal(size=subject.width)
        with ablated(subject, direction):
            yield
        return
    round_: dict[str, Any] = {"bfloat16": _bfloat16, "8 bits": _rows, "4 bits": _groups}
    with subject.intervene(), ExitStack() as stack:
        for parameter in subject.model.parameters():
            if parameter.is_floating_point() and parameter.ndim > 1:
                stack.callback(setattr, parameter, "data", parameter.data)
                parameter.data = round_[copy](parameter.data)
        yield


def _bfloat16(weights: torch.Tensor) -> torch.Tensor:
    return weights.to(torch.bfloat16).to(weights.dtype)


def _rows(weights: torch.Tensor, bits: int = 8) -> torch.Tensor:
    """Symmetric rounding to so many bits, one unit a row."""
    wide = weights.float()
    unit = wide.abs().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / (2 ** (bits - 1) - 1)
    rounded: torch.Tensor = torch.round(wide / unit) * unit
    return rounded.to(weights.dtype)


def _groups(weights: torch.Tensor) -> torch.Tensor:
    """Symmetric rounding to 4 bits, one unit for each 32 neighbours; a rest of a row has one of its own."""
    parts = [_rows(part, 4) for part in torch.split(weights, GROUP, dim=-1)]
    return torch.cat(parts, dim=-1)
