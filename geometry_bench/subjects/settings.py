"""Settings of a load: what "auto" means for dtype and device, and how long a prompt may be."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from geometry_bench.errors import GeometryBenchError
from geometry_bench.safetensor import read_header
from geometry_bench.subjects import hashing
from geometry_bench.subjects.spec import SubjectSpec

DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
    "float64": torch.float64,
}
# Up to this many parameters "auto" means float32 on every device: 6 GB of weights, and exact enough for baselines.
FLOAT32_LIMIT = 1_500_000_000
_HEADER_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Tokenizers without a limit of their own state an astronomically large one.
_NO_LIMIT = 10**9


def device_of(wanted: str) -> tuple[torch.device, str | None]:
    """The device to load to, and the device map ("auto") when the model is to be spread."""
    if wanted == "map":
        if not has_accelerate():
            raise GeometryBenchError(
                "Spreading a model over devices needs accelerate; install geometry-bench[multi-gpu] or name one device."
            )
        return torch.device(_best_device()), "auto"
    if wanted == "auto":
        return torch.device(_best_device()), None
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise GeometryBenchError(f"Unknown device {wanted!r}; use auto, cpu, cuda, cuda:N, mps or map.") from error
    available = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": 1 if torch.backends.mps.is_available() else 0,
    }
    if (device.index or 0) >= available.get(device.type, 0):
        raise GeometryBenchError(f"Device {wanted!r} is not available on this machine; use auto or cpu.")
    return device, None


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def dtype_of(spec: SubjectSpec, folder: Path) -> torch.dtype | str:
    """The dtype to load in; the word "auto" leaves it to transformers (quantised or pickled checkpoints)."""
    if spec.dtype != "auto":
        if spec.dtype not in DTYPES:
            raise GeometryBenchError(f"Unknown dtype {spec.dtype!r}; use auto, float32, bfloat16, float16 or float64.")
        return DTYPES[spec.dtype]
    count, stored = _stored(folder, spec)
    if stored is not None and stored not in _HEADER_DTYPES:  # quantised weights decide for themselves
        return "auto"
    if 0 < count < FLOAT32_LIMIT:
        return torch.float32
    return DTYPES[_HEADER_DTYPES[stored]] if stored is not None else "auto"


def position_limit(text: Any, tokenizer: Any) -> int | None:
    """Number of positions the model has, else the tokenizer's own limit, else None."""
    positions = getattr(text, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        return positions
    limit = getattr(tokenizer, "model_max_length", None)
    return int(limit) if limit is not None and limit < _NO_LIMIT else None


def has_accelerate() -> bool:
    """Whether accelerate is installed, without importing it."""
    return importlib.util.find_spec("accelerate") is not None


def _stored(folder: Path, spec: SubjectSpec) -> tuple[int, str | None]:
    """Number of stored parameters and the dtype of most of them; (0, None) for pickle weights, which are not opened."""
    by_dtype: Counter[str] = Counter()
    for path in hashing.weight_files(folder, allow_pickle=spec.allow_pickle):
        if path.suffix != ".safetensors":
            continue
        for tensor in read_header(path).values():
            by_dtype[tensor.dtype] += tensor.size
    return by_dtype.total(), by_dtype.most_common(1)[0][0] if by_dtype else None
