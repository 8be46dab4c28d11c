"""JSON: the board's tables as they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from geometry_bench.report.board import Table


def render(tables: Sequence[Table]) -> str:
    """The board as JSON."""
    return json.dumps([asdict(table) for table in tables], indent=1, ensure_ascii=False) + "\n"
