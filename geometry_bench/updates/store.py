"""Decompositions of updates kept on disk under content keys, within a limit of bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geometry_bench.storage import Entries
from geometry_bench.subjects.hashing import cache_folder

Arrays = Mapping[str, NDArray[np.float64]]

LIMIT = 20_000_000_000
"""Bytes that a store keeps unless told otherwise."""


def default_root() -> Path:
    """``decompositions`` in ``$GEOMETRY_BENCH_CACHE``, or in the user's cache folder of geometry-bench."""
    named = os.environ.get("GEOMETRY_BENCH_CACHE")
    return (Path(named).expanduser() if named else cache_folder()) / "decompositions"


def root_in(cache: Path | None) -> Path:
    """Where decompositions lie beside a cache folder of the user's own; the default place for None."""
    return default_root() if cache is None else cache / "decompositions"


class Store(Entries):
    """A folder of entries within a limit of bytes: those used longest ago make room for new ones."""

    def __init__(self, root: Path | None = None, *, limit: int = LIMIT) -> None:
        trouble = "Decompositions cannot be kept in {root} ({error}); the run goes on without."
        super().__init__(default_root() if root is None else Path(root), trouble)
        self.limit = limit
        self._held: int | None = None

    def get(self, key: str) -> Arrays | None:
        """The arrays stored under a key, or None where there are none that can be trusted."""
        arrays = self.read(key)
        try:
            if arrays is not None:
                os.utime(self.path(key))
        except OSError:
            return None
        return arrays

    def put(self, key: str, arrays: Arrays) -> bool:
        """Store arrays; False where they are larger than the limit or the folder cannot be written."""
        size = sum(values.nbytes for values in arrays.values())
        if size > self.limit:
            return False
        try:
            self._make_room(size)
        except OSError as error:
            self.warn(error)
            return False
        return self.write(key, arrays, {})

    def entries(self) -> list[tuple[datetime, int, Path]]:
        """When each entry was last used, its bytes and its file, the one used longest ago first."""
        found = []
        for path in self.files():
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
