"""Write a projected checkpoint as a complete model folder: streamed, whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from geometry_bench.errors import GeometryBenchError
from geometry_bench.safetensor import READABLE, Stored, from_float32, read_raw
from geometry_bench.storage import new_folder
from geometry_bench.subjects.hashing import TOKENIZER_FILES
from geometry_bench.updates.checkpoint import Checkpoint
from geometry_bench.updates.projection import Projection, TensorOutcome, projected
from geometry_bench.updates.store import Store
from geometry_bench.updates.update import Update
from geometry_bench.version import __version__

REPORT = "projection.json"
Dtype = Literal["auto", "float32"]
Watch = Callable[[Iterable[str], int], Iterable[str]]
"""Hands on the names of tensors as they are taken up, out of so many: for a progress bar."""

_COPIED = ("generation_config.json", "preprocessor_config.json", "processor_config.json", *TOKENIZER_FILES)
_PATTERNS = ("*.py", "*.tiktoken", "*.jinja")
_INDEX = "model.safetensors.index.json"
_HALF_LARGEST = float(np.finfo(np.float16).max)


def write_projection(
    task: Update,
    source: Update,
    plan: Projection,
    out: Path,
    *,
    dtype: Dtype = "auto",
    store: Store | None = None,
    watch: Watch | None = None,
) -> Mapping[str, TensorOutcome]:
    """Write ``out``, a folder that transformers loads, and return what became of each tensor.

    Weights are split into files as the start's are and keep its dtype (float32: all in that). The folder is built beside
    ``out`` and renamed at the end, so that an error or an interruption leaves nothing.

    Raises:
        GeometryBenchError: ``out`` exists or cannot be written (no space, no permission); the fine-tune equals its start; no
            tensor has a direction to project on; a value too large for the dtype; any fault of the checkpoints.
    """
    _refuse_unknown_layers(task, plan)
    shards = _shards(task.start)
    needed = _total(shards, dtype)
    names = [name for tensors in shards.values() for name in tensors]
    taken = iter(names if watch is None else watch(names, len(names)))
    outcomes: dict[str, TensorOutcome] = {}
    with new_folder(out, needed) as folder:
        for file, tensors in shards.items():
            with (folder / file).open("wb") as handle:
                kinds = {name: _kind(tensor, dtype) for name, tensor in tensors.items()}
                handle.write(_header(tensors, kinds))
                for name, tensor in tensors.items():
                    next(taken)
                    if name in task.pairs and tensor.dtype in READABLE:
                        outcomes[name] = _write(handle, task, source, name, plan, kinds[name], store)
                    else:
                        outcomes[name] = TensorOutcome("left as it was", note="no float weights")
                        handle.write(read_raw(tensor).data)
        for _ in taken:  # lets a progress bar end
            pass
        _refuse_nothing(task, source, outcomes)
        _write_index(folder, shards, dtype)
        _copy_rest(task.start, folder, dtype)
        report = _report(task, source, plan, dtype, outcomes)
        (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(_card(task, source, plan, outcomes), encoding="utf-8")
    return outcomes


def _write(
    handle: Any, task: Update, source: Update, name: str, plan: Projection, kind: str, store: Store | None
) -> TensorOutcome:
    # A stored copy of the embedding follows the embedding.
    twin = task.start.twin(name) if task.pairs[name].state == "tied" else None
    outcome, rows = projected(task, source, twin or name, plan, store=store)
    for part in rows:
        if kind == "F16" and float(np.abs(part).max(initial=0.0)) > _HALF_LARGEST:
            raise GeometryBenchError(f"{name} projected is too large for float16; write it with --dtype float32.")
        handle.write(from_float32(part, kind).data)
    return outcome


def _refuse_unknown_layers(task: Update, plan: Projection) -> None:
    known = task.layers
    unknown = sorted(set(plan.layers or ()) - known)
    if unknown:
        there = f"layers 0 to {max(known)}" if known else "no numbered layers"
        raise GeometryBenchError(f"{task.start.name} has no layer {unknown[0]}; it has {there}.")


def _refuse_nothing(task: Update, source: Update, outcomes: Mapping[str, TensorOutcome]) -> None:
    if all(outcome.energy_kept is None for outcome in outcomes.values()):
        raise GeometryBenchError(f"{task.end.name} equals {task.start.name}: there is no update to project.")
    if not any(outcome.outcome == "projected" for outcome in outcomes.values()):
        raise GeometryBenchError(
            f"{source.end.name} equals {source.start.name} in every tensor to project: that update spans no subspace."
        )


# The folder


Shards = Mapping[str, Mapping[str, Stored]]


def _shards(start: Checkpoint) -> Shards:
    """File name -> its tensors in their order there; tensors that an adapter stores whole go with the first file."""
    own = sorted({tensor.file.name for tensor in start.tensors.values() if tensor.file.parent == start.folder})
    shards: dict[str, dict[str, Stored]] = {file: {} for file in own}
    for name, tensor in sorted(start.tensors.items(), key=lambda item: (item[1].file.name, item[1].begin)):
        shards[tensor.file.name if tensor.file.parent == start.folder else own[0]][name] = tensor
    return shards


def _total(shards: Shards, dtype: Dtype) -> int:
    """Bytes of all tensors as they will be written."""
    return sum(_bytes(tensor, _kind(tensor, dtype)) for tensors in shards.values() for tensor in tensors.values())


def _kind(tensor: Stored, dtype: Dtype) -> str:
    return "F32" if dtype == "float32" and tensor.dtype in READABLE else tensor.dtype


def _bytes(tensor: Stored, kind: str) -> int:
    return tensor.size * 4 if kind == "F32" else tensor.bytes


def _header(tensors: Mapping[str, Stored], kinds: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, tensor in tensors.items():
        end = at + _bytes(tensor, kinds[name])
        entries[name] = {"dtype": kinds[name], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_index(folder: Path, shards: Shards, dtype: Dtype) -> None:
    if list(shards) == ["model.safetensors"]:
        return
    where = {name: file for file, tensors in shards.items() for name in tensors}
    content = {"metadata": {"total_size": _total(shards, dtype)}, "weight_map": where}
    (folder / _INDEX).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _copy_rest(start: Checkpoint, folder: Path, dtype: Dtype) -> None:
    """Configuration, tokenizer, generation settings, code of its own."""
    config = json.loads(json.dumps(dict(start.config)))
    if dtype == "float32":
        for part in (config, *(value for value in config.values() if isinstance(value, dict))):
            for key in ("dtype", "torch_dtype"):
                if key in part:
                    part[key] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    named = (start.folder / name for name in _COPIED)
    for file in sorted({*named, *(file for pattern in _PATTERNS for file in start.folder.glob(pattern))}):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)


def _report(
    task: Update, source: Update, plan: Projection, dtype: Dtype, outcomes: Mapping[str, TensorOutcome]
) -> dict[str, Any]:
    return {
        "geometry_bench": __version__,
        "start": task.start.name,
        "fine_tune": task.end.name,
        "subspace": [source.end.name, source.start.name],
        **asdict(plan),
        "dtype": dtype,
        "tensors": {
            name: {"shape": list(task.start.shape(name)), **asdict(outcome)} for name, outcome in outcomes.items()
        },
    }


def _card(task: Update, source: Update, plan: Projection, outcomes: Mapping[str, TensorOutcome]) -> str:
    inside = "inside" if plan.scheme == "parallel" else "outside"
    chosen = {
        "top-k": f"the first left singular vectors of {source.name}",
        "random-k": f"left singular vectors of {source.name}, drawn at random (seed {plan.seed})",
        "random": f"a random subspace (seed {plan.seed})",
    }[plan.basis]
    where = "every layer" if plan.layers is None else "layers " + ", ".join(map(str, plan.layers))
    count = sum(outcome.outcome == "projected" for outcome in outcomes.values())
    return (
        f"# {task.end.name}, projected\n\n"
        f"{task.start.name} plus the part of the update {task.name} that lies {inside} a subspace of each weight's output "
        f"side: {chosen}, a share of {plan.share:g} of the directions of its smaller side ({plan.rule}), in {where}. "
        f"{count} of {len(outcomes)} tensors are projected; `{REPORT}` says what became of each.\n\n"
        f"Made by geometry-bench {__version__}. A model to be measured, not to be used: it may be harmful.\n"
    )
