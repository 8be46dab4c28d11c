"""Arrays kept on disk under a content key, within a limit of bytes.

One safetensors file for each entry, which appears by an atomic rename; a file that cannot be read, or whose checksum
differs, counts as absent. The entries used longest ago make room for new ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geometry_bench.subjects.hashing import cache_folder

Arrays = Mapping[str, NDArray[np.float64]]

LIMIT = 20_000_000_000
"""Bytes that a store keeps unless told otherwise."""
_SUFFIX = ".safetensors"


def default_root() -> Path:
    """``decompositions`` in ``$GEOMETRY_BENCH_CACHE``, or in the user's cache folder of geometry-bench."""
    named = os.environ.get("GEOMETRY_BENCH_CACHE")
    return (Path(named).expanduser() if named else cache_folder()) / "decompositions"


def root_in(cache: Path | None) -> Path:
    """Where decompositions lie beside a cache folder of the user's own; the default place for None."""
    return default_root() if cache is None else cache / "decompositions"


def content_key(parts: Mapping[str, Any]) -> str:
    """sha256 (64 hex digits) of JSON-ready parts, independent of their order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Store:
    """A folder of entries. Trouble with the folder costs time only, and is told once, as a warning."""

    def __init__(self, root: Path | None = None, *, limit: int = LIMIT) -> None:
        self.root = default_root() if root is None else Path(root)
        self.limit = limit
        self._held: int | None = None
        self._warned = False

    def get(self, key: str) -> Arrays | None:
        """The arrays stored under a key, or None where there are none that can be trusted."""
        from safetensors import SafetensorError, safe_open

        path = self._path(key)
        try:
            with safe_open(path, framework="np") as file:
                facts = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            if facts.get("key") != key or facts.get("sha256") != _checksum(arrays):
                return None
            os.utime(path)
        except (OSError, SafetensorError):
            return None
        return arrays

    def put(self, key: str, arrays: Arrays) -> bool:
        """Store arrays; False where they are larger than the limit or the folder cannot be written."""
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        # The library writes what lies in memory, whatever the order of the entries there.
        arrays = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
        size = sum(values.nbytes for values in arrays.values())
        if size > self.limit:
            return False
        target = self._path(key)
        temporary = target.with_name(f".{key[:16]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        try:
            self._make_room(size)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                save_file(arrays, temporary, metadata={"key": key, "sha256": _checksum(arrays)})
                os.replace(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            self._warn(error)
            return False
        return True

    def entries(self) -> list[tuple[datetime, int, Path]]:
        """When each entry was last used, its bytes and its file, the one used longest ago first."""
        found = []
        for path in self.root.glob(f"??/*{_SUFFIX}"):
            try:
                status = path.stat()
            except FileNotFoundError:  # removed by another process meanwhile
                continue
            found.append((datetime.fromtimestamp(status.st_mtime, UTC), status.st_size, path))
        return sorted(found)

    def clear(self, *, older_than: timedelta | None = None) -> int:
        """Delete all entries, or those not used for so long; returns how many."""
        now = datetime.now(UTC)
        chosen = [path for used, _, path in self.entries() if older_than is None or now - used >= older_than]
        for path in chosen:
            path.unlink(missing_ok=True)
        return len(chosen)

    def _make_room(self, size: int) -> None:
        if self._held is None or self._held + size > self.limit:
            files = self.entries()
            self._held = sum(length for _, length, _ in files)
            for _, length, path in files:
                if self._held + size <= self.limit:
                    break
                path.unlink(missing_ok=True)
                self._held -= length
        self._held += size

    def _path(self, key: str) -> Path:
        return self.root / key[:2] / f"{key}{_SUFFIX}"

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"Decompositions cannot be kept in {self.root} ({error}); the run goes on without.",
                RuntimeWarning,
                stacklevel=3,
            )


def _checksum(arrays: Arrays) -> str:
    total = hashlib.sha256()
    for name in sorted(arrays):
        values = arrays[name]
        total.update(f"{name}{values.shape}".encode())
        total.update(values.reshape(-1).view(np.uint8).data)
    return total.hexdigest()
