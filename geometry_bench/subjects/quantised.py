"""Checkpoints with weights of eight bits or fewer: how they are recorded, and one number format to compute in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from geometry_bench.errors import GeometryBenchError
from geometry_bench.safetensor import Stored

DEQUANTISED = ("fp8", "mxfp4")
"""Methods whose weights transformers takes back to floats where no kernel can use them as they are."""


def method_of(config: Any) -> str | None:
    """Name of the method by which a configuration (an object or the JSON) says that its weights are quantised."""
    for place in (config, _get(config, "text_config")):
        if (settings := _get(place, "quantization_config")) is not None:
            method = _get(settings, "quant_method")
            return str(getattr(method, "value", method) or type(settings).__name__)
    return None


def refuse_bare_scales(tensors: Iterable[Stored], config: Mapping[str, Any], name: str) -> None:
    """Raise GeometryBenchError where eight-bit weights have scales that no configuration says how to apply."""
    tensors = list(tensors)
    if method_of(config) is not None or not any(is_eight_bit(tensor.dtype) for tensor in tensors):
        return
    scales = [one.name for one in tensors if one.name.rpartition(".")[2].startswith(("weight_scale", "scale"))]
    if scales or any(one.dtype == "F8_E8M0" for one in tensors):
        first = scales[0] if scales else next(one.name for one in tensors if one.dtype == "F8_E8M0")
        raise GeometryBenchError(
            f"{name} stores eight-bit weights with scales ({first}), but its config.json has no quantization_config that "
            "says how they belong together; restore it, or give the float weights."
        )


def is_eight_bit(dtype: str) -> bool:
    """Whether a stored type is a float of eight bits."""
    return dtype.startswith("F8_")


def dequantised_note(quantisation: str) -> str:
    """What a reader of values must know of weights that are not computed with as they are stored."""
    return f"the weights are stored as {quantisation} and are taken back to floats to be computed with"


def in_one_dtype(model: nn.Module, dtype: torch.dtype | str) -> list[str]:
    """Cast weights of other number formats than ``dtype`` (and float32) to it; returns the formats that there were.

    A model that is computed with its quantised weights is left as it is.
    """
    if method_of(getattr(model, "config", None)) is not None:
        return []
    if isinstance(dtype, str):
        counts: Counter[torch.dtype] = Counter()
        for value in model.parameters():
            counts[value.dtype] += value.numel() if value.is_floating_point() and value.element_size() > 1 else 0
        dtype = counts.most_common(1)[0][0]
    odd = [one for one in model.parameters() if one.is_floating_point() and one.dtype not in (dtype, torch.float32)]
    found = sorted({str(one.dtype).removeprefix("torch.") for one in odd})
    for one in odd:
        one.data = one.data.to(dtype)
    return found


def _get(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
