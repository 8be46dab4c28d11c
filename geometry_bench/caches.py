"""Caches: kinds of stored things, each a folder of files under content keys, that are listed and cleared alike.

Imports no torch.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import numpy as np
import platformdirs

from geometry_bench.storage import TEMPORARY, Arrays, digest_arrays, replacing

# A temporary file this old belongs to a process that died: no write takes that long.
_ABANDONED = timedelta(days=1)

KINDS: Mapping[str, str] = {
    "activations": "captures",
    "decompositions": "decompositions",
    "answers": "files of answers",
    "projections": "files of projected models' answers",
    "verdicts": "files of judges' verdicts",
    "file-hashes": "hashes of files",
}
"""All kinds of stored things, each a folder of a cache, and what its entries are."""


def cache_folder(kind: str, root: Path | None = None) -> Path:
    """Where one of the :data:`KINDS` is kept: below ``root``, else $GEOMETRY_BENCH_CACHE, else the user's cache folder."""
    assert kind in KINDS, "only what is declared can be listed and cleared"
    named = os.environ.get("GEOMETRY_BENCH_CACHE")
    if root is None and named:
        root = Path(named).expanduser()
    return (root or platformdirs.user_cache_path("geometry-bench", appauthor=False)) / kind


@dataclass(frozen=True)
class Entry:
    """One entry of a cache: ``size`` in bytes on the disk, when it was last ``used``."""

    used: datetime
    size: int
    path: Path

    @cached_property
    def facts(self) -> Mapping[str, str]:
        """What was said of the entry when it was put there; empty where the file cannot be read."""
        from safetensors import SafetensorError, safe_open

        try:
            if self.path.suffix == ".jsonl":
                with self.path.open(encoding="utf-8") as lines:
                    facts = json.loads(lines.readline()).get("facts", {})
                return {name: str(value) for name, value in facts.items()}
            with safe_open(self.path, framework="np") as file:
                return dict(file.metadata() or {})
        except (OSError, ValueError, AttributeError, SafetensorError):
            return {}


def entries_of(folder: Path) -> list[Entry]:
    """All entries of one kind's folder, the one used longest ago first. Raises OSError."""
    return sorted(_files(folder), key=lambda entry: (entry.used, entry.path))


def clear_entries(folder: Path, *, older_than: timedelta | None = None, subject: str | None = None) -> int:
    """Delete all entries of a folder, or those not used for so long, or those whose facts name a subject; how many.

    Raises OSError.
    """
    now = datetime.now(UTC)
    chosen = [
        entry
        for entry in entries_of(folder)
        if (older_than is None or now - entry.used >= older_than)
        and (subject is None or entry.facts.get("subject") == subject)
    ]
    for entry in chosen + [left for left in _files(folder, temporary=True) if now - left.used > _ABANDONED]:
        entry.path.unlink(missing_ok=True)
    return len(chosen)


def _files(folder: Path, *, temporary: bool = False) -> Iterator[Entry]:
    for path in folder.glob("??/*"):
        with suppress(FileNotFoundError):  # removed by another process meanwhile
            if path.name.endswith(TEMPORARY) == temporary:
                status = path.stat()
                yield Entry(datetime.fromtimestamp(status.st_mtime, UTC), status.st_size, path)


class DiskCache:
    """Arrays under content keys, one safetensors file each, within a limit of bytes where one is given.

    Entries appear by an atomic rename, so that processes may share a folder; a file that cannot be read, or whose
    checksum differs, counts as absent and is replaced. Entries used longest ago make room for new ones. Trouble with the
    folder never stops a run: it is reported once as a warning, ``trouble`` with ``{root}`` and ``{error}`` filled in.
    """

    def __init__(self, root: Path, trouble: str, *, limit: int | None = None) -> None:
        self.root, self.limit, self._trouble = root, limit, trouble
        self._warned = False
        self._held: int | None = None

    def get(self, key: str) -> Arrays | None:
        """The arrays under a key, or None where there are none, or none that can be trusted."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path(key), framework="np") as file:
                facts = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (OSError, SafetensorError):
            return None
        if facts.get("key") != key or facts.get("sha256") != digest_arrays(arrays):
            return None
        with suppress(OSError):
            os.utime(self.path(key))
        return arrays

    def put(self, key: str, arrays: Arrays, facts: Mapping[str, str] | None = None) -> bool:
        """Keep arrays, with facts that a person can read; False where they exceed the limit or cannot be written."""
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        # The library writes memory as it is, whatever the order of the entries there.
        arrays = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
        size = sum(values.nbytes for values in arrays.values())
        if self.limit is not None and size > self.limit:
            return False
        created = datetime.now(UTC).isoformat(timespec="seconds")
        own = {"key": key, "sha256": digest_arrays(arrays), "created": created, "bytes": str(size)}
        try:
            self._make_room(size)
            # The checksum detects what a loss of power left half-written: no need to wait for the disk.
            with replacing(self.path(key), durable=False) as temporary:
                save_file(arrays, temporary, metadata={**(facts or {}), **own})
        except (OSError, SafetensorError) as error:
            self._warn(error)
            return False
        return True

    def path(self, key: str) -> Path:
        """Where an entry is kept."""
        return self.root / key[:2] / f"{key}.safetensors"

    def entries(self) -> list[Entry]:
        """All entries, the one used longest ago first."""
        try:
            return entries_of(self.root)
        except OSError as error:
            self._warn(error)
            return []

    def clear(self, *, older_than: timedelta | None = None, subject: str | None = None) -> int:
        """Delete all entries, or those not used for so long, or those whose facts name a subject; returns how many."""
        return clear_entries(self.root, older_than=older_than, subject=subject)

    def _make_room(self, size: int) -> None:
        if self.limit is None:
            return
        if self._held is None or self._held + size > self.limit:
            entries = self.entries()
            self._held = sum(entry.size for entry in entries)
            for entry in entries:
                if self._held + size <= self.limit:
                    break
                entry.path.unlink(missing_ok=True)
                self._held -= entry.size
        self._held += size

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            text = self._trouble.format(root=self.root, error=error)
            warnings.warn(text, RuntimeWarning, stacklevel=4)
