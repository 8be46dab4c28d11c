"""The built-in sets of requests: the project's own wording, by name. Imports no torch.

They are in ``fixtures/prompts/requests.toml`` and ``instructions.toml``, written by ``write_requests.py`` beside them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from geometry_bench.errors import GeometryBenchError
from geometry_bench.prompts.collection import Collection, Request, read_collection
from geometry_bench.prompts.names import BUILT_IN_NAMES, NEUTRAL
from geometry_bench.resources import data_root

_REQUESTS, _INSTRUCTIONS = "requests.toml", "instructions.toml"
BUILT_IN: Mapping[str, str] = {
    name: _INSTRUCTIONS if name in (NEUTRAL, "maths") else _REQUESTS for name in BUILT_IN_NAMES
}
"""The file of each built-in set."""


@functools.cache
def _collection(file: str) -> Collection:
    path = data_root() / "fixtures" / "prompts" / file
    if not path.is_file():
        raise GeometryBenchError(f"This installation lacks its prompt sets (no {file}); install the package anew.")
    return read_collection(path, f"The prompt sets {file}")


def revision_of(name: str) -> str:
    """``"sha256:" + 64 hex digits`` of the file that holds a built-in set."""
    return _collection(BUILT_IN[name]).revision


@functools.cache
def requests_of(name: str) -> tuple[Request, ...]:
    """The requests of a built-in set, in their order."""
    return _collection(BUILT_IN[name]).requests(name)
