"""Refuse weights with NaN or infinite values, naming the tensor and its file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects import hashing
from geometry_bench.subjects.spec import SubjectSpec


def refuse_bad_values(model: nn.Module, folder: Path, spec: SubjectSpec) -> None:
    """Raise GeometryBenchError naming the first tensor, and its file, that holds NaN or infinite values."""
    for name, tensor in model.named_parameters():
        if finite(tensor):
            continue
        folders = [folder] + ([Path(str(spec.adapter)).expanduser()] if spec.adapter is not None else [])
        stored = next((hit for place in folders if (hit := _bad_in_files(place, spec)) is not None), None)
        if stored is None:  # finite as stored, so the dtype asked for cannot hold it
            raise GeometryBenchError(
                f"The weight {name} holds values too large for {tensor.dtype}; load with --dtype float32."
            )
        tensor_name, file = stored
        raise GeometryBenchError(
            f"The weight {tensor_name} in {file} holds NaN or infinite values; the checkpoint is broken."
        )


def finite(tensor: Tensor) -> bool:
    """Whether all values are finite: two reductions, no temporary of the tensor's size. NaN survives aminmax."""
    if tensor.numel() == 0 or tensor.device.type == "meta" or not tensor.is_floating_point():
        return True
    if tensor.element_size() < 2:  # eight-bit floats have no reductions
        tensor = tensor.to(torch.float32)
    low, high = torch.aminmax(tensor.detach())
    return bool(torch.isfinite(low)) and bool(torch.isfinite(high))


def _bad_in_files(folder: Path, spec: SubjectSpec) -> tuple[str, Path] | None:
    """Name and file of the first stored tensor with NaN or infinite values."""
    from safetensors import safe_open

    adapter = folder / "adapter_model.safetensors"
    files = (adapter,) if adapter.is_file() else hashing.weight_files(folder, allow_pickle=spec.allow_pickle)
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(str(path), framework="pt") as reader:
                for key in sorted(reader.keys()):
                    if not finite(reader.get_tensor(key)):
                        return key, path
        elif path.suffix == ".bin":
            state = torch.load(path, map_location="cpu", weights_only=True)
            for key in sorted(state):
                if isinstance(state[key], Tensor) and not finite(state[key]):
                    return key, path
    return None
