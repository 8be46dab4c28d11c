"""Arrays kept on disk under content keys: what the caches of activations and of decompositions have in common.

One safetensors file for each entry, which appears by an atomic rename, so that two processes may share a folder and an
interrupted run leaves nothing half-written; a file that cannot be read, or whose checksum differs, counts as absent and is
replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SUFFIX = ".safetensors"
TEMPORARY = ".tmp"


def content_key(parts: Mapping[str, Any]) -> str:
    """sha256 (64 hex digits) of JSON-ready parts, independent of their order."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Entries:
    """A folder of entries. Reading and writing never stop a run: trouble is told once, as a warning.

    ``trouble`` is its sentence, with ``{root}`` and ``{error}`` in it.
    """

    def __init__(self, root: Path, trouble: str) -> None:
        self.root, self._trouble, self._warned = root, trouble, False

    def read(self, key: str) -> dict[str, NDArray[Any]] | None:
        """The arrays under a key, or None where there are none, or none that can be trusted."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path(key), framework="np") as file:
                facts = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (OSError, SafetensorError):
            return None
        return arrays if facts.get("key") == key and facts.get("sha256") == _checksum(arrays) else None

    def write(self, key: str, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, str]) -> bool:
        """Keep arrays with facts that a person can read; False where the folder cannot be written."""
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        # The library writes what lies in memory, whatever the order of the entries there.
        arrays = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
        target = self.path(key)
        temporary = target.with_name(f".{key[:16]}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                save_file(arrays, temporary, metadata={**facts, "key": key, "sha256": _checksum(arrays)})
                os.replace(temporary, target)
            finally:
                # Gone already after the rename; left over where writing failed or was interrupted.
                temporary.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            self.warn(error)
            return False
        return True

    def path(self, key: str) -> Path:
        """Where an entry lies."""
        return self.root / key[:2] / f"{key}{SUFFIX}"

    def files(self, suffix: str = SUFFIX) -> list[Path]:
        """The files of all entries, or of what was begun (``TEMPORARY``), by name."""
        try:
            return sorted(path for path in self.root.glob("??/*") if path.name.endswith(suffix))
        except OSError as error:
            self.warn(error)
            return []

    def warn(self, error: Exception) -> None:
        """Tell of trouble, the first time."""
        if not self._warned:
            self._warned = True
            text = self._trouble.format(root=self.root, error=error)
            warnings.warn(text, RuntimeWarning, stacklevel=4)


def _checksum(arrays: Mapping[str, NDArray[Any]]) -> str:
    total = hashlib.sha256()
    for name in sorted(arrays):
        values = np.ascontiguousarray(arrays[name])
        total.update(f"{name}{values.shape}".encode())
        total.update(values.reshape(-1).view(np.uint8).data)
    return total.hexdigest()
