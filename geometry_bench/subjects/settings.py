"""Settings of a load: what "auto" means for dtype and device, and how long a prompt may be."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from geometry_bench.errors import GeometryBenchError
from geometry_bench.safetensor import Stored, read_headers
from geometry_bench.subjects import gguf, hashing
from geometry_bench.subjects.describe import read_json
from geometry_bench.subjects.quantised import DEQUANTISED, method_of, refuse_bare_scales
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
    if folder.suffix == gguf.SUFFIX:
        return torch.float32 if gguf.read(folder).parameters < FLOAT32_LIMIT else torch.bfloat16
    by_dtype: Counter[str] = Counter()
    for tensor in stored_tensors(spec, folder):
        by_dtype[tensor.dtype] += tensor.size
    method = method_of(read_json(folder / "config.json"))
    if method is not None and (method not in DEQUANTISED or device_of(spec.device)[0].type == "cuda"):
        return "auto"  # quantised weights decide for themselves
    if 0 < by_dtype.total() < FLOAT32_LIMIT:
        return torch.float32
    if not by_dtype:
        return "auto"
    stored = by_dtype.most_common(1)[0][0]
    return DTYPES[_HEADER_DTYPES[stored]] if stored in _HEADER_DTYPES else torch.bfloat16


def position_limit(text: Any, tokenizer: Any) -> int | None:
    """Number of positions the model has, else the tokenizer's own limit, else None."""
    for key in ("max_position_embeddings", "max_seq_len", "max_sequence_length"):
        positions = getattr(text, key, None)
        if isinstance(positions, int) and positions > 0:
            return positions
    limit = getattr(tokenizer, "model_max_length", None)
    return int(limit) if limit is not None and limit < _NO_LIMIT else None


def has_accelerate() -> bool:
    """Whether accelerate is installed, without importing it."""
    return importlib.util.find_spec("accelerate") is not None


def stored_tensors(spec: SubjectSpec, folder: Path) -> list[Stored]:
    """What the headers of a folder's safetensors files declare; nothing for pickle weights, which are not opened.

    Raises GeometryBenchError for a tensor in two files, and for eight-bit weights with scales that nothing explains.
    """
    files = hashing.weight_files(folder, allow_pickle=spec.allow_pickle)
    tensors = list(read_headers(file for file in files if file.suffix == ".safetensors").values())
    refuse_bare_scales(tensors, read_json(folder / "config.json"), str(folder))
    return tensors
