"""Checkpoints with weights of eight bits or fewer: how they are recorded, and one number format to compute in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from geometry_bench.errors import GeometryBenchError
from geometry_bench.safetensor import Stored

_SCALE = re.compile(r"(?:^|[._])(?:weight_scale|scale_inv|scales?|qweight|qzeros|absmax)(?:_inv|_2)?$")
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
    if method_of(config) is not None or not any(_is_eight_bit(tensor.dtype) for tensor in tensors):
        return
    scales = [one.name for one in tensors if _SCALE.search(one.name)]
    if scales or any(one.dtype == "F8_E8M0" for one in tensors):
        first = scales[0] if scales else next(one.name for one in tensors if one.dtype == "F8_E8M0")
        raise GeometryBenchError(
            f"{name} stores eight-bit weights with scales ({first}), but its config.json has no quantization_config that "
            "says how they belong together; restore it, or give the float weights."
        )


def refuse_unapplied(unused: Iterable[str], quantisation: str, name: str) -> None:
    """Raise GeometryBenchError where a loaded model has no use for scales: transformers does not know the method."""
    scales = [one for one in unused if _SCALE.search(one)]
    if scales:
        raise GeometryBenchError(
            f"{name} is quantised by {quantisation}, and transformers applies none of its scales ({scales[0]} the first), "
            "so its weights would be other ones; give the float weights."
        )


def quantisation_of(tensors: Iterable[Stored], config: Mapping[str, Any]) -> str | None:
    """How a checkpoint's weights are quantised, None where they are floats of 16 bits or more."""
    return method_of(config) or ("fp8" if any(_is_eight_bit(tensor.dtype) for tensor in tensors) else None)


def dequantise(model: nn.Module, quantisation: str, dtype: torch.dtype | str) -> list[str]:
    """Cast weights that are left in other formats than ``dtype`` (and float32), and the note that says so.

    A model that is computed with its quantised weights is left as it is, and there is no note.
    """
    if method_of(getattr(model, "config", None)) is not None:
        return []
    wanted = torch.bfloat16 if isinstance(dtype, str) else dtype
    for one in model.parameters():
        if one.is_floating_point() and one.dtype not in (wanted, torch.float32):
            one.data = one.data.to(wanted)
    return [f"the weights are stored as {quantisation} and are taken back to floats to be computed with"]


def _is_eight_bit(dtype: str) -> bool:
    return dtype.startswith("F8_")


def _get(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
