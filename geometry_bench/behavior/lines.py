"""Results kept on disk, line by line, each under a key: a run that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geometry_bench.storage import append_line, digest


@dataclass(frozen=True)
class Lines:
    """A file of JSON lines, ``{"key": …, …}`` each; the first has the ``facts`` that all share, for people to read."""

    path: Path
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, root: Path, facts: Mapping[str, Any]) -> Lines:
        """The file for some facts, below a folder."""
        key = digest(facts)
        return cls(root / key[:2] / f"{key}.jsonl", facts)

    def read(self) -> dict[str, dict[str, Any]]:
        """All rows by key, the last of each. Half a line, as a killed process leaves it, counts as none."""
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return {}
        return dict(filter(None, map(_parsed, lines)))

    def append(self, rows: Iterable[tuple[str, Mapping[str, Any]]], *, remedy: str) -> None:
        """Add rows; on return they are on the disk.

        Raises:
            GeometryBenchError: they cannot be written; ``remedy`` ends the sentence.
        """
        begun = [] if self.path.exists() else [json.dumps({"facts": self.facts}, default=list)]
        lines = [json.dumps({"key": key, **row}) for key, row in rows]
        append_line(self.path, "\n".join(begun + lines), remedy=remedy)


def _parsed(line: str) -> tuple[str, dict[str, Any]] | None:
    try:
        row = json.loads(line)
        key = row.pop("key")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return (key, row) if isinstance(key, str) else None
