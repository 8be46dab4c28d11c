"""The residual stream in what a decoder block returns: of width ``hidden_size``, as the model's own hidden states have it.

Most blocks return it as it is. Some models carry several streams side by side, and one halves it on the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from geometry_bench.errors import GeometryBenchError


def block_output(output: Any) -> Tensor:
    """The tensor that a block hands to the next one, out of what it returns: a tensor, or a tuple that begins with it."""
    value = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(value, Tensor):
        raise GeometryBenchError(
            f"A decoder block returned {type(value).__name__} instead of a tensor; this architecture is not supported."
        )
    return value


def residual_stream(config: Any, block: int, output: Any) -> Tensor:
    """Residual stream after a block, shape (batch, positions, width); ``config`` is that of the text model.

    Of several streams the active one (AltUp, Gemma 3n) or their mean (hyper-connections). RWKV halves its stream after
    every few blocks, outside of them, to keep it in range.
    """
    value = one_stream(config, block_output(output))
    every = getattr(config, "rescale_every", 0) if getattr(config, "model_type", "") == "rwkv" else 0
    return value / 2 if every and (block + 1) % every == 0 else value


def one_stream(config: Any, value: Tensor) -> Tensor:
    """One stream (batch, positions, width) of a tensor that may hold several side by side."""
    if value.ndim == 4 and hasattr(config, "altup_active_idx"):
        return value[config.altup_active_idx]
    count = _hyper_connections(config)
    if count > 1 and value.ndim == 3 and value.shape[-1] == count * config.hidden_size:
        value = value.reshape(*value.shape[:2], count, config.hidden_size)
    return value.mean(dim=2) if count > 1 and value.ndim == 4 else value


def notes_of(config: Any) -> Iterator[str]:
    """What a reader of values must know of the streams of a text model."""
    if hasattr(config, "altup_active_idx"):
        yield f"{config.altup_num_inputs} residual streams (AltUp): the active one, {config.altup_active_idx}, is read"
    if (count := _hyper_connections(config)) > 1:
        yield f"{count} residual streams (hyper-connections): their mean is read"
    if skipped := cross_attention(config):
        named = ", ".join(map(str, sorted(skipped)))
        yield f"the blocks that attend to images alone ({named}) are left out: text does not run them"


def cross_attention(config: Any) -> frozenset[int]:
    """Places of the blocks that a plain text does not run, since they attend to images only."""
    return frozenset(getattr(config, "cross_attention_layers", None) or ())


def _hyper_connections(config: Any) -> int:
    return int(getattr(config, "hc_mult", None) or getattr(config, "hc_count", None) or 1)
