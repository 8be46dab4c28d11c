"""Pooled activations kept on disk, addressed by everything they are a function of.

One entry holds one pooling of one set of prompts, (distinct prompts, layers, width) in float32, with facts a person can
read in its metadata.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geometry_bench.storage import TEMPORARY, Entries
from geometry_bench.subjects.hashing import cache_folder

Array = NDArray[np.float32]

_TENSOR = "activations"
# A temporary file this old belongs to a process that died: no write takes that long.
_ABANDONED = timedelta(days=1)


def default_root() -> Path:
    """`$GEOMETRY_BENCH_CACHE`, or `geometry-bench/activations` in the user's cache folder of this platform."""
    named = os.environ.get("GEOMETRY_BENCH_CACHE")
    return Path(named).expanduser() if named else cache_folder() / "activations"


@dataclass(frozen=True)
class CacheRow:
    """One entry as `cache list` shows it; `facts` is None where the file cannot be read.

    facts: subject, prompts, layers, width, pooling, created (ISO 8601, UTC), bytes (of the array), as text.
    """

    key: str
    path: Path
    size: int  # bytes on disk
    modified: datetime
    facts: Mapping[str, str] | None


class Cache(Entries):
    """A folder of entries, one pooling of one set of prompts each."""

    def __init__(self, root: Path | None = None) -> None:
        trouble = "The activation cache in {root} cannot be used ({error}); the run goes on without it."
        super().__init__(default_root() if root is None else Path(root), trouble)

    def get(self, key: str) -> Array | None:
        """The array stored under a key, or None where there is none or the file is unreadable or damaged."""
        arrays = self.read(key)
        return None if arrays is None or _TENSOR not in arrays else np.asarray(arrays[_TENSOR], dtype=np.float32)

    def put(self, key: str, values: Array, facts: Mapping[str, str]) -> bool:
        """Store an array with its facts; False where the folder cannot be written, which is told once."""
        values = np.asarray(values, dtype=np.float32)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        return self.write(key, {_TENSOR: values}, {**facts, "created": created, "bytes": str(values.nbytes)})

    def list(self) -> Sequence[CacheRow]:
        """All entries, the newest first."""
        rows = []
        for path in self.files():
            try:
                status = path.stat()
            except FileNotFoundError:  # cleared by another process meanwhile
                continue
            modified = datetime.fromtimestamp(status.st_mtime, UTC)
            rows.append(CacheRow(path.stem, path, status.st_size, modified, _facts(path)))
        return sorted(rows, key=lambda row: (row.modified, row.key), reverse=True)

    def clear(self, *, older_than: timedelta | None = None, subject: str | None = None) -> int:
        """Delete the entries of one subject, or older than an age, or (without either) all; returns how many."""
        now = datetime.now(UTC)
        count = 0
        for row in self.list():
            if older_than is not None and now - row.modified < older_than:
                continue
            if subject is not None and (row.facts is None or row.facts.get("subject") != subject):
                continue
            row.path.unlink(missing_ok=True)
            count += 1
        for path in self.files(TEMPORARY):
            try:
                if now - datetime.fromtimestamp(path.stat().st_mtime, UTC) > _ABANDONED:
                    path.unlink(missing_ok=True)
            except FileNotFoundError:
                continue
        return count


def _facts(path: Path) -> Mapping[str, str] | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return None
