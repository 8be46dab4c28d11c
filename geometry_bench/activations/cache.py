"""Pooled activations kept on disk, addressed by everything they are a function of.

One entry holds one pooling of one set of prompts, (distinct prompts, layers, width) in float32. Its facts: subject,
revision, prompts, layers, width, pooling, site, dtype, attention, created (ISO 8601, UTC), bytes (of the array), as text.
"""

from __future__ import annotations

from pathlib import Path

from geometry_bench.caches import DiskCache, cache_folder

TENSOR = "activations"
"""The name of an entry's array."""


class Cache(DiskCache):
    """``activations`` in a cache folder."""

    def __init__(self, cache: Path | None = None) -> None:
        trouble = "The activation cache in {root} cannot be used ({error}); the run goes on without it."
        super().__init__(cache_folder("activations", cache), trouble)
