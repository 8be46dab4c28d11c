"""Checkpoints of a training under way: which of them were written to the end. Imports no torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from geometry_bench.storage import digest_file, write_atomically

_COMPLETE = "complete.json"
_HASHED_BYTES = 64_000_000


def mark_complete(checkpoint: Path) -> None:
    """Write down every file of a checkpoint with its size (and content hash unless it is large), as its last file."""
    files = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path.name != _COMPLETE:
            files[path.relative_to(checkpoint).as_posix()] = _seal(path)
    write_atomically(checkpoint / _COMPLETE, json.dumps(files))


def _seal(path: Path) -> list[Any]:
    size = path.stat().st_size
    return [size, None if size > _HASHED_BYTES else digest_file(path)]


def is_complete(checkpoint: Path) -> bool:
    """Whether every file of the checkpoint is there as it was written."""
    try:
        files = json.loads((checkpoint / _COMPLETE).read_text())
        return all(_seal(checkpoint / name) == seal for name, seal in files.items())
    except (OSError, ValueError, AttributeError):
        return False


def last_complete(folder: Path) -> Path | None:
    """The checkpoint of most steps that is complete; others are removed, so that no later one is mistaken for progress."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    best = None
    for path in sorted(found, key=lambda one: int(one.name.rpartition("-")[2]), reverse=True):
        if best is None and is_complete(path):
            best = path
        elif best is None:
            shutil.rmtree(path, ignore_errors=True)
    return best


def only_own(work: Path, key: dict[str, Any]) -> None:
    """Keep the checkpoints of exactly this stage on exactly this data and start; clear any others."""
    note = work / "stage.json"
    try:
        same = json.loads(note.read_text()) == key
    except (OSError, ValueError):
        same = False
    if not same:
        shutil.rmtree(work, ignore_errors=True)
        write_atomically(note, json.dumps(key))
