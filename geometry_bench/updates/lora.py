"""LoRA adapters as weight updates, from their own tensors: Δ = scaling · B · A in float32, never merged.

Merging into half-precision weights rounds the update to the weights' grid; the product of the two factors does not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geometry_bench.errors import GeometryBenchError
from geometry_bench.safetensor import Array32, Stored, read_header, read_rows
from geometry_bench.subjects.describe import read_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.weight)?")
# Kinds of LoRA whose effect is not W + scaling·B·A on the stored W, by the key of their configuration.
_OTHER_KINDS = (
    "use_dora",
    "use_qalora",
    "lora_bias",
    "layer_replication",
    "alora_invocation_tokens",
    "trainable_token_indices",
    "target_parameters",
    "arrow_config",
)


@dataclass(frozen=True)
class LowRank:
    """Factors of one weight's update: A (r, inputs), B (outputs, r), their scaling, whether it is transposed."""

    a: Stored
    b: Stored
    scaling: float
    transposed: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the update, as the weight is stored."""
        outputs, inputs = self.b.shape[0], self.a.shape[1]
        return (inputs, outputs) if self.transposed else (outputs, inputs)

    def rows(self, first: int, last: int) -> Array32:
        """Rows of the update in float32."""
        a, b = read_rows(self.a), read_rows(self.b)
        update = a[:, first:last].T @ b.T if self.transposed else b[first:last] @ a
        update *= self.scaling
        return update


@dataclass(frozen=True)
class Adapter:
    """A LoRA folder: updates by name of the weight, and tensors that it stores whole (``modules_to_save``, biases)."""

    folder: Path
    updates: Mapping[str, LowRank]
    whole: Mapping[str, Stored]


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter and no model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def read_adapter(folder: Path) -> Adapter:
    """The adapter's tensors, sorted by the weight that they change; no data are read.

    Raises:
        GeometryBenchError: no adapter, another kind than plain LoRA, pickle weights, a factor without its partner, an
            unknown tensor.
    """
    if not (folder / CONFIG).is_file():
        raise GeometryBenchError(f"{folder} is no folder of a PEFT adapter: it has no {CONFIG}.")
    config = read_json(folder / CONFIG)
    _refuse_other_kinds(config, folder)
    file = folder / WEIGHTS
    if not file.is_file():
        kind = "pickle weights only" if (folder / "adapter_model.bin").is_file() else "no weights"
        raise GeometryBenchError(f"The adapter {folder} holds {kind}; save it as {WEIGHTS}.")
    factors: dict[tuple[str, bool], dict[str, Stored]] = {}
    whole: dict[str, Stored] = {}
    for stored in read_header(file).values():
        name = stored.name.removeprefix(_PREFIX).replace(".base_layer.", ".")
        match = _FACTOR.fullmatch(name)
        if match:
            if len(stored.shape) != 2:
                raise GeometryBenchError(
                    f"The adapter {folder} changes the convolution {name}; only matrices are handled."
                )
            factors.setdefault((match["module"], bool(match["embedding"])), {})[match["side"]] = stored
        elif ".lora_" in name or "lora_magnitude" in name:
            raise GeometryBenchError(f"The adapter {folder} holds {stored.name}, which is no factor of plain LoRA.")
        else:
            whole[name.replace(".modules_to_save.", ".")] = stored
    updates = {}
    for (module, embedding), sides in factors.items():
        if set(sides) != {"A", "B"} or sides["A"].shape[0] != sides["B"].shape[1]:
            raise GeometryBenchError(f"The factors of {module} in the adapter {folder} do not fit each other.")
        rank = sides["A"].shape[0]
        alpha = _of_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha", 8))
        scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        updates[f"{module}.weight"] = LowRank(
            sides["A"], sides["B"], scaling, embedding or bool(config.get("fan_in_fan_out"))
        )
    return Adapter(folder, updates, whole)


def _of_pattern(pattern: Any, module: str, default: float) -> float:
    """The value of the first pattern that ends the module's name, as PEFT chooses it."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return float(value)
    return float(default)


def _refuse_other_kinds(config: Mapping[str, Any], folder: Path) -> None:
    kind = str(config.get("peft_type", "unknown"))
    if kind.upper() != "LORA":
        raise GeometryBenchError(f"The adapter {folder} is of type {kind}; only LoRA is a low-rank update of weights.")
    for key in _OTHER_KINDS:
        if config.get(key):
            raise GeometryBenchError(
                f"The adapter {folder} uses {key}, which is more than a product of two factors; merge it into its model."
            )
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(("pissa", "olora", "loftq", "corda")):
        raise GeometryBenchError(
            f"The adapter {folder} was started by {start}, which changes the base weights too; convert it to plain LoRA."
        )
