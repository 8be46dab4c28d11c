"""A GGUF file as a model: what its header says, and the options with which transformers reads it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geometry_bench.errors import GeometryBenchError

SUFFIX = ".gguf"


@dataclass(frozen=True)
class Header:
    """Architecture as the file names it, sizes, number of weights, and how most of them are quantised.

    ``quantisation`` is "gguf-Q4_K_M" and the like, "gguf" where the file does not say, None where all weights are floats.
    """

    architecture: str
    layers: int
    width: int
    parameters: int
    quantisation: str | None


@functools.lru_cache(maxsize=8)
def read(path: Path) -> Header:
    """The header of a file; GeometryBenchError when gguf is not installed, or the file is no readable language model."""
    try:
        import gguf
    except ImportError as error:
        raise GeometryBenchError(f"{path} needs gguf to be read; install geometry-bench[gguf].") from error
    try:
        reader = gguf.GGUFReader(path)
        known = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.")}
        architecture = str(known["general.architecture"])
        layers, width = (int(known[f"{architecture}.{key}"]) for key in ("block_count", "embedding_length"))
    except Exception as error:  # a file that is cut short or damaged fails anywhere in the reader
        raise GeometryBenchError(
            f"{path} is not a readable GGUF language model ({type(error).__name__}: {error}); download it again."
        ) from error
    if known.get("split.count", 1) > 1:
        raise GeometryBenchError(f"{path} is one part of several; merge them into one file (llama-gguf-split --merge).")
    floats = {gguf.GGMLQuantizationType[name] for name in ("F16", "F32", "F64", "BF16")}
    quantised = any(tensor.tensor_type not in floats for tensor in reader.tensors)
    parameters = sum(int(tensor.n_elements) for tensor in reader.tensors)
    return Header(architecture, layers, width, parameters, _kind(gguf, known) if quantised else None)


def _kind(gguf: Any, known: dict[str, Any]) -> str:
    try:
        name = gguf.LlamaFileType(int(known["general.file_type"])).name
    except (KeyError, ValueError):
        return "gguf"
    return f"gguf-{str(name).removeprefix('MOSTLY_').removeprefix('ALL_')}"


def options(path: Path) -> dict[str, Any]:
    """What ``from_pretrained`` is given beside the file's folder."""
    from transformers.utils import quantization_config

    wanted: dict[str, Any] = {"gguf_file": path.name}
    if hasattr(quantization_config, "GgufConfig"):  # earlier versions know no other way than to dequantise
        wanted["quantization_config"] = quantization_config.GgufConfig(dequantize=True)
    return wanted
