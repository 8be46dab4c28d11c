"""Decompositions of updates kept on disk under content keys, within a limit of bytes."""

from __future__ import annotations

from pathlib import Path

from geometry_bench.caches import DiskCache, cache_folder

LIMIT = 20_000_000_000
"""Bytes that a store keeps by default."""


class Store(DiskCache):
    """``decompositions`` in a cache folder: those used longest ago make room for new ones."""

    def __init__(self, cache: Path | None = None, *, limit: int = LIMIT) -> None:
        trouble = "Decompositions cannot be kept in {root} ({error}); the run goes on without."
        super().__init__(cache_folder("decompositions", cache), trouble, limit=limit)
