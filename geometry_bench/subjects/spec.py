"""Which subject is meant, and exactly which version of it: resolved before anything is loaded. Imports no torch."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from geometry_bench import hub
from geometry_bench.errors import GeometryBenchError
from geometry_bench.prompts.own import OwnPrompts
from geometry_bench.resources import data_root
from geometry_bench.subjects import gguf, hashing
from geometry_bench.subjects.describe import describe, read_json

_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?")


@dataclass(frozen=True)
class SubjectSpec:
    """What the user asked for; nothing here has been checked yet.

    ``model`` is a Hub id (``org/name``, or ``org/name@revision``), a local folder, a GGUF file, or ``zoo/…`` for an
    embedded one.
    ``dtype`` is "auto", "float32", "bfloat16", "float16" or "float64"; ``device`` is "auto", a torch device such as
    "cuda:1", or "map" to spread the model over all devices. ``adapter`` is a PEFT adapter folder. ``alignment`` is the
    declared alignment method in free text (e.g. "DPO", "SFT"). ``name`` replaces the name shown in test ids and records.
    ``template_arguments`` go to the chat template, each ``KEY=VALUE``.
    A family's member carries the family's name, its role, the name of the member that its training started from, and the
    ``prompts`` that its manifest names (None: the built-in ones).
    """

    model: str
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    attention: str | None = None
    adapter: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    template_arguments: tuple[str, ...] = ()
    alignment: str | None = None
    name: str | None = None
    family: str | None = None
    role: str | None = None
    parent: str | None = None
    prompts: OwnPrompts | None = None


@dataclass(frozen=True)
class Identity:
    """One checkpoint, pinned: two subjects with equal name, revision and adapter hash have the same weights.

    ``revision`` is the Hub commit (40 hex digits), "sha256:" and the content hash of a local folder, or "memory:" and the
    hash of the weights and tokenizer that a model in memory had when it was wrapped, or "untrained:" and a hash of all that
    random weights were made from. ``path`` is the local folder, or None for a model in memory, an untrained one, and a Hub
    model whose snapshot has not been downloaded. ``layers`` and ``width`` (units
    of the residual stream) come from the text configuration. ``adapter`` is the adapter folder's name, in memory the names
    of the adapters in effect. ``name`` is the one under which baselines are kept and published values looked up: a Hub
    model's own id whatever the spec calls it.
    """

    name: str
    origin: Literal["hub", "local", "memory", "untrained"]
    path: Path | None
    revision: str
    architecture: str
    layers: int
    width: int
    adapter: str | None = None
    adapter_hash: str | None = None


def resolve(spec: SubjectSpec) -> Identity:
    """Pin the checkpoint that ``spec`` names, without loading it.

    A string that looks like a path or exists as one is a local folder and gets a content hash; ``zoo/…`` is an embedded
    model; anything else is a Hub id whose commit is asked for now, or read from the local Hub cache when offline.

    Raises GeometryBenchError: missing path, no model folder, unknown revision or repository, gated repository, offline
    without a cached copy, no text decoder, pickle-only weights, missing tokenizer, broken adapter folder.
    """
    embedded = embedded_folder(spec.model)
    if embedded is not None:
        identity = _local(spec, embedded, spec.name or spec.model.rstrip("/"))
    elif _looks_like_path(spec.model):
        folder = Path(spec.model).expanduser()
        identity = _local(spec, folder, spec.name or folder.resolve().name)
    else:
        identity = _hub(spec)
    if spec.adapter is None:
        return identity
    adapter = _adapter_folder(spec)
    return replace(identity, adapter=adapter.resolve().name, adapter_hash=hashing.adapter_hash(adapter))


def embedded_folder(model: str) -> Path | None:
    """Folder of an embedded model ``zoo/…``; None when ``model`` names none. The prefix is reserved for the zoo.

    Raises:
        GeometryBenchError: there is no such model in the zoo.
    """
    if not model.startswith("zoo/"):
        return None
    zoo = data_root() / "fixtures" / "zoo"
    parts = [part for part in model.split("/")[1:] if part]
    folder = zoo.joinpath(*parts)
    if parts and ".." not in parts and folder.is_dir():
        return folder
    if Path(model).exists():
        return None
    known = sorted(str(path.parent.relative_to(zoo.parent).as_posix()) for path in zoo.rglob("config.json"))
    raise GeometryBenchError(
        f"There is no embedded model {model!r}; there are: {', '.join(known) if known else 'none in this installation'}."
    )


def _looks_like_path(model: str) -> bool:
    if model.startswith((".", "~", os.sep)) or Path(model).is_absolute():
        return True
    separators = model.count("/") + (model.count(os.sep) if os.sep != "/" else 0)
    # A slash inside "@refs/pr/1" belongs to the revision, not to a path.
    separators -= model.partition("@")[2].count("/")
    return separators > 1 or (model != "" and Path(model).exists())


# Local folders


def _local(spec: SubjectSpec, folder: Path, name: str) -> Identity:
    if spec.revision is not None:
        raise GeometryBenchError(
            f"A revision ({spec.revision}) applies to Hub models, but {spec.model} is a local folder; drop --revision."
        )
    if not folder.exists():
        raise GeometryBenchError(f"There is no folder {folder}; check the path given as model.")
    if folder.suffix == gguf.SUFFIX and folder.is_file():
        header = gguf.read(folder)
        revision = f"sha256:{hashing.file_hash(folder)}"
        return Identity(name, "local", folder, revision, header.architecture, header.layers, header.width)
    if not folder.is_dir():
        raise GeometryBenchError(f"{folder} is a file; give the model folder that holds its config.json and weights.")
    config_path = folder / "config.json"
    if not config_path.is_file():
        hint = " (it looks like a PEFT adapter: pass it as --adapter next to its base model)"
        if packed := sorted(folder.glob(f"*{gguf.SUFFIX}")):
            raise GeometryBenchError(f"{folder} has no config.json, but a GGUF file; name that: {packed[0]}.")
        is_adapter = (folder / "adapter_config.json").is_file()
        raise GeometryBenchError(f"{folder} is not a model folder: it has no config.json{hint if is_adapter else ''}.")
    config = read_json(config_path)
    architecture, layers, width = describe(config, str(folder), config_path)
    if not has_tokenizer(folder):
        raise GeometryBenchError(
            f"{folder} has no tokenizer (no tokenizer.json or vocabulary file); save the tokenizer next to the weights."
        )
    revision = hashing.content_hash(folder, allow_pickle=spec.allow_pickle)
    return Identity(name, "local", folder, revision, architecture, layers, width)


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder holds a file from which a tokenizer can be built."""
    return any((folder / name).is_file() for name in hashing.VOCABULARY_FILES) or any(folder.glob("*.tiktoken"))


def _adapter_folder(spec: SubjectSpec) -> Path:
    folder = Path(str(spec.adapter)).expanduser()
    if not folder.is_dir():
        raise GeometryBenchError(f"There is no adapter folder {folder}; give the local folder of a PEFT adapter.")
    if not (folder / "adapter_config.json").is_file():
        raise GeometryBenchError(f"{folder} is not a PEFT adapter: it has no adapter_config.json.")
    read_json(folder / "adapter_config.json")
    if importlib.util.find_spec("peft") is None:
        raise GeometryBenchError("An adapter needs peft; install geometry-bench[adapters] or leave --adapter out.")
    if not (folder / "adapter_model.safetensors").is_file():
        if not (folder / "adapter_model.bin").is_file():
            raise GeometryBenchError(f"{folder} holds no adapter weights (adapter_model.safetensors); save them there.")
        if not spec.allow_pickle:
            raise GeometryBenchError(
                f"{folder} holds pickle weights only (adapter_model.bin), which can run code when loaded; convert them "
                "to safetensors or pass --allow-pickle if you trust their author."
            )
    return folder


# The Hub


def _hub(spec: SubjectSpec) -> Identity:
    name, revision = _split_revision(spec)
    commit, siblings = hub.commit_of(name, revision)
    if not spec.allow_pickle and siblings is not None and not any(f.endswith(".safetensors") for f in siblings):
        pickles = [f for f in siblings if f.endswith((".bin", ".pt", ".pth"))]
        if pickles:
            raise GeometryBenchError(
                f"{name} offers pickle weights only ({pickles[0]}), which can run code when loaded; choose a revision "
                "with safetensors or pass --allow-pickle if you trust its author."
            )
        raise GeometryBenchError(f"{name} offers no weights at revision {commit[:12]}; choose another revision.")
    if siblings is not None and not any(f in hashing.VOCABULARY_FILES or f.endswith(".tiktoken") for f in siblings):
        raise GeometryBenchError(
            f"{name} has no tokenizer at revision {commit[:12]}; choose another revision or model."
        )
    config_path = hub.config_file(name, commit)
    config = read_json(config_path)
    architecture, layers, width = describe(config, name, config_path)
    return Identity(name, "hub", None, commit, architecture, layers, width)


def _split_revision(spec: SubjectSpec) -> tuple[str, str | None]:
    name, at, short = spec.model.partition("@")
    if at and not short:
        raise GeometryBenchError(f"{spec.model!r} ends in '@' without a revision; write NAME@REVISION.")
    if at and spec.revision is not None and spec.revision != short:
        raise GeometryBenchError(
            f"Two revisions are given for {name}: {short} in its name and {spec.revision} as option; keep one."
        )
    if not _HUB_ID.fullmatch(name) or "--" in name or ".." in name:
        raise GeometryBenchError(
            f"{spec.model!r} is neither an existing folder nor a Hub id of the form org/name; check the spelling."
        )
    return name, short if at else spec.revision
