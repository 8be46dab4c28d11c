"""Content hashes of local model folders: the revision of a subject that has no commit.

A hash covers what decides the numbers: configuration, tokenizer, chat template, custom code and the weight files that
would be loaded. Reading gigabytes of weights is slow, so the hash of each file is remembered in the user's cache folder
under the file's path, size and times. Imports no torch.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from geometry_bench.caches import cache_folder
from geometry_bench.errors import GeometryBenchError
from geometry_bench.storage import digest_bytes, digest_file, replacing

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
)
# Any one of these is enough to build a tokenizer from.
VOCABULARY_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
)
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_PICKLE = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# A file changed this recently may change again without its time moving on a coarse clock; its hash is not remembered.
_SETTLED_NS = 2_000_000_000


def file_hash(path: Path) -> str:
    """SHA-256 of a file as 64 hex digits, remembered by (real path, size, times of change).

    Raises GeometryBenchError when the file cannot be read.
    """
    try:
        path = path.resolve(strict=True)
        stat = path.stat()
        key = digest_bytes([f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}".encode()])
        memo = cache_folder("file-hashes") / key[:2] / key
        if (known := _remembered(memo)) is not None:
            return known
        found = digest_file(path)
    except OSError as error:
        raise GeometryBenchError(
            f"Cannot read {path} to hash it ({error.strerror or error}); check that it exists and is readable."
        ) from error
    if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > _SETTLED_NS:
        with suppress(OSError), replacing(memo, durable=False) as temporary:  # a full cache folder costs time only
            temporary.write_text(found, encoding="ascii")
    return found


def _remembered(memo: Path) -> str | None:
    try:
        text = memo.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    return text if re.fullmatch("[0-9a-f]{64}", text) else None


def weight_files(folder: Path, *, allow_pickle: bool = False) -> tuple[Path, ...]:
    """Weight files (and their index) that loading ``folder`` reads: safetensors, or pickle where that is allowed.

    Raises GeometryBenchError when there are none, when only pickle files exist and ``allow_pickle`` is false, or when
    a shard named by the index is missing.
    """
    for single, index in (_SAFETENSORS, _PICKLE):
        is_pickle = single == _PICKLE[0]
        if (folder / single).is_file():
            found: tuple[Path, ...] = (folder / single,)
        elif (folder / index).is_file():
            found = (folder / index, *_shards(folder / index))
        else:
            continue
        if is_pickle and not allow_pickle:
            raise GeometryBenchError(
                f"{folder} holds pickle weights only ({found[0].name}), which can run code when loaded; convert them "
                "to safetensors or pass --allow-pickle if you trust their author."
            )
        return found
    raise GeometryBenchError(
        f"{folder} holds no weights (neither {_SAFETENSORS[0]} nor {_SAFETENSORS[1]}); give the folder that "
        "save_pretrained wrote."
    )


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise GeometryBenchError(
            f"{index} is not a readable index of weight shards ({error}); download it again."
        ) from error
    for name in names:
        # A shard outside the folder would escape the hash, and no index written by a library names one.
        if not isinstance(name, str) or Path(name).name != name:
            raise GeometryBenchError(
                f"{index} names the shard {name!r}, which is not a plain file name; fix the index."
            )
        if not (index.parent / name).is_file():
            raise GeometryBenchError(
                f"{index.parent} lacks the weight shard {name} named by {index.name}; finish the download or copy."
            )
    return tuple(index.parent / name for name in names)


def content_hash(folder: Path, *, allow_pickle: bool = False) -> str:
    """``"sha256:" + 64 hex digits`` over the sorted (name, SHA-256) pairs of the files that decide the numbers."""
    extras = [*sorted(folder.glob("*.py")), *_further(folder)]
    files = [folder / "config.json", *_present(folder, TOKENIZER_FILES), *extras]
    files += weight_files(folder, allow_pickle=allow_pickle)
    return _combined(files)


def tokenizer_hash(*folders: Path) -> str:
    """``"sha256:" + 64 hex digits`` over the tokenizer and chat template files of folders (a GGUF file is its own)."""
    files = ([*_present(one, TOKENIZER_FILES), *_further(one)] if one.is_dir() else [one] for one in folders)
    return _combined(file for some in files for file in some)


def adapter_hash(folder: Path) -> str:
    """``"sha256:" + 64 hex digits`` over the configuration and weights of a PEFT adapter folder."""
    return _combined([folder / "adapter_config.json", *_present(folder, _ADAPTER_WEIGHTS)])


def _further(folder: Path) -> list[Path]:
    """Vocabularies and named chat templates, whose file names are not fixed."""
    return [*sorted(folder.glob("*.tiktoken")), *sorted(folder.glob("additional_chat_templates/*.jinja"))]


def _present(folder: Path, names: Iterable[str]) -> list[Path]:
    return [folder / name for name in names if (folder / name).is_file()]


def _combined(files: Iterable[Path]) -> str:
    ordered = sorted(set(files), key=lambda path: (path.name, file_hash(path)))
    return "sha256:" + digest_bytes(f"{path.name}\0{file_hash(path)}\n".encode() for path in ordered)
