"""One checkpoint, read tensor by tensor: a folder, an embedded model, a Hub id, or a LoRA adapter over one of these."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from geometry_bench import hub
from geometry_bench.errors import GeometryBenchError
from geometry_bench.safetensor import READABLE, Array32, Stored, read_headers, read_rows, slices
from geometry_bench.subjects import hashing
from geometry_bench.subjects.describe import read_json, refuse_non_decoder, sizes
from geometry_bench.subjects.families import Family, Member
from geometry_bench.subjects.spec import SubjectSpec, embedded_folder, resolve
from geometry_bench.updates.lora import Adapter, is_adapter, read_adapter
from geometry_bench.updates.places import Place, places

FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.py")

_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|embed_in|wte|word_embeddings|tok_embeddings)\.weight")
# Weights of the layer type that GPT-2 and its kin use in place of a linear one.
_TRANSPOSED = re.compile(r"(?:^|\.)(?:c_attn|c_proj|c_fc|q_attn)\.weight")
_TRANSPOSED_TYPES = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out)\.weight")


def is_vocabulary(name: str) -> bool:
    """Whether the tensor has one row for each token: the embedding or the head."""
    return bool(_EMBEDDING.search(name) or _HEAD.search(name))


@dataclass(frozen=True)
class Checkpoint:
    """Names, shapes and places of a checkpoint's tensors, and its configuration; the data stay in their files.

    ``name`` is for messages and reports. ``adapter`` changes the tensors of ``folder`` as they are read. ``tied`` maps the
    name of a head that is not stored to the embedding that serves as it.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Stored]
    adapter: Adapter | None = None
    tied: Mapping[str, str] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """Class name that config.json declares, or its model type."""
        declared = self.config.get("architectures")
        return str(declared[0]) if isinstance(declared, list) and declared else str(self.config.get("model_type"))

    def stored(self, name: str) -> Stored:
        """Where a tensor is stored, that of the embedding for a head tied to it.

        Raises:
            GeometryBenchError: there is none of that name.
        """
        name = self.tied.get(name, name)
        if name not in self.tensors:
            raise GeometryBenchError(f"{self.name} has no tensor {name}.")
        return self.tensors[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self.stored(name).shape

    def rows(self, name: str, first: int = 0, last: int | None = None) -> Array32:
        """Rows ``first`` to ``last`` of a tensor in float32 (of all dimensions but the first whole), adapter included.

        Raises:
            GeometryBenchError: no such tensor, a file that cannot be read, NaN or infinity.
        """
        stored, name = self.stored(name), self.tied.get(name, name)
        last = stored.rows if last is None else last
        values = read_rows(stored, first, last)
        if self.adapter is not None and name in self.adapter.updates:
            values = values + self.adapter.updates[name].rows(first, last)
        return values

    def slices(self, name: str) -> Iterator[tuple[int, int]]:
        """Ranges of rows to read a tensor in."""
        return slices(self.shape(name))

    @cached_property
    def places(self) -> Mapping[str, Place]:
        """Where each tensor stands in the model, tied heads included."""
        return places([*self.tensors, *self.tied], sizes(self.config)[0])

    def is_transposed(self, name: str) -> bool:
        """Whether a weight is stored as (inputs, outputs), as GPT-2 does, so that its rows are not the output side."""
        return self.config.get("model_type") in _TRANSPOSED_TYPES and bool(_TRANSPOSED.search(name))

    def twin(self, name: str) -> str | None:
        """The embedding of equal shape that a stored head may be a copy of; None for anything but a head."""
        embeddings = [one for one in self.tensors if _EMBEDDING.search(one)] if _HEAD.search(name) else []
        return embeddings[0] if len(embeddings) == 1 and self.shape(embeddings[0]) == self.shape(name) else None

    def key(self, name: str) -> str:
        """Content hash of what a tensor is read from: its file (and the adapter's) and its name there."""
        stored, name = self.stored(name), self.tied.get(name, name)
        own = f"{hashing.file_hash(stored.file)}:{stored.name}"
        if self.adapter is None or name not in self.adapter.updates:
            return own
        return f"{own}+{hashing.adapter_hash(self.adapter.folder)}"


def open_checkpoint(spec: SubjectSpec) -> Checkpoint:
    """The checkpoint that ``spec`` names, its headers read; with an adapter, the model that it changes by it.

    No model is loaded, so that a local folder needs a configuration and weights but no tokenizer.

    Raises:
        GeometryBenchError: what ``resolve`` raises, but for that; a missing shard, pickle weights, a file cut short, a
            quantised model, an adapter that is no plain LoRA or does not fit.
    """
    name = spec.name or spec.model
    if is_adapter(Path(spec.model).expanduser()):
        raise GeometryBenchError(f"{spec.model} holds an adapter only; name the model that it changes as its parent.")
    folder = _local_folder(spec)
    if folder is None:
        identity = resolve(replace(spec, adapter=None))
        folder = hub.snapshot(identity.name, identity.revision, FILES)
    config = read_json(folder / "config.json")
    if config.get("quantization_config"):
        raise GeometryBenchError(f"{name} is quantised; updates are taken between float weights, give those.")
    tensors = read_headers(file for file in hashing.weight_files(folder) if file.suffix == ".safetensors")
    _refuse_incomplete(folder, tensors)
    checkpoint = Checkpoint(name, folder, config, dict(sorted(tensors.items())), None, _tied(config, tensors))
    return checkpoint if spec.adapter is None else _with_adapter(checkpoint, Path(spec.adapter).expanduser(), name)


def revision_of(spec: SubjectSpec) -> str:
    """Which version of its weights ``spec`` names: the content hash of a folder, the commit on the Hub; and the adapter's.

    The same as that of the subject as ``resolve`` pins it, for folders without a tokenizer too.

    Raises:
        GeometryBenchError: what ``resolve`` raises, but for a missing tokenizer.
    """
    folder = _local_folder(spec)
    own = hashing.content_hash(folder) if folder is not None else resolve(replace(spec, adapter=None)).revision
    if spec.adapter is None:
        return own
    return f"{own} + adapter {hashing.adapter_hash(Path(spec.adapter).expanduser())}"


def _local_folder(spec: SubjectSpec) -> Path | None:
    """The folder of a local or embedded decoder; None for a Hub id, and for what ``resolve`` refuses in its own words."""
    folder = embedded_folder(spec.model) or Path(spec.model).expanduser()
    if spec.revision is not None or not (folder / "config.json").is_file():
        return None
    refuse_non_decoder(read_json(folder / "config.json"), str(folder))
    return folder


def open_member(family: Family, member: Member) -> Checkpoint:
    """A family's member as a checkpoint; where it is an adapter, over its parent."""
    return open_checkpoint(family.spec(member))


def _refuse_incomplete(folder: Path, tensors: Mapping[str, Stored]) -> None:
    """A shard may lack a tensor that the index promises."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file() or not index.is_file():
        return
    for name, file in read_json(index)["weight_map"].items():
        if name not in tensors:
            raise GeometryBenchError(
                f"{folder / file} lacks the tensor {name} that its index promises; download it again."
            )


def _tied(config: Mapping[str, Any], tensors: Mapping[str, Stored]) -> dict[str, str]:
    """A head that is not stored, since it is the embedding."""
    text: Mapping[str, Any] = next(
        (config[key] for key in ("text_config", "llm_config") if isinstance(config.get(key), dict)), {}
    )
    # transformers ties by default for most architectures and writes the key only where it differs.
    declared = config.get("tie_word_embeddings", text.get("tie_word_embeddings", True))
    embeddings = [name for name in tensors if _EMBEDDING.search(name)]
    heads = [name for name in tensors if _HEAD.search(name)]
    if not declared or len(embeddings) != 1 or heads:
        return {}
    return {"embed_out.weight" if embeddings[0].endswith("embed_in.weight") else "lm_head.weight": embeddings[0]}


def _with_adapter(base: Checkpoint, folder: Path, name: str) -> Checkpoint:
    adapter = read_adapter(folder)
    tensors = dict(base.tensors)
    for changed, update in adapter.updates.items():
        if changed not in tensors or tensors[changed].shape != update.shape:
            own = f"shape {tensors[changed].shape}" if changed in tensors else "no such tensor"
            raise GeometryBenchError(
                f"The adapter {folder} does not fit {base.name}: it changes {changed} by shape "
                f"{update.shape}, which has {own}."
            )
        if tensors[changed].dtype not in READABLE:
            raise GeometryBenchError(
                f"{changed} of {base.name} is stored as {tensors[changed].dtype}; give float weights."
            )
    for whole, stored in adapter.whole.items():
        tensors[whole] = stored
    tied = {head: kept for head, kept in base.tied.items() if head not in adapter.whole}
    return Checkpoint(name, base.folder, base.config, tensors, adapter, tied)
