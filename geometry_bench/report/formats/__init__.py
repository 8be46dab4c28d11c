"""Formats of the board: one module each, found by its name, with ``render(tables) -> str``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Protocol, cast

from geometry_bench.errors import GeometryBenchError
from geometry_bench.report.board import Table


class Format(Protocol):
    """What a module of this package offers."""

    def render(self, tables: Sequence[Table]) -> str:
        """The board as one document that ends with a newline."""


def formats() -> tuple[str, ...]:
    """Names of the formats."""
    return tuple(module.name for module in pkgutil.iter_modules(__path__))


def render(tables: Sequence[Table], name: str) -> str:
    """The board in a format.

    Raises:
        GeometryBenchError: there is no format of that name.
    """
    if name not in formats():
        raise GeometryBenchError(f"There is no format {name!r}: choose one of {', '.join(formats())}.")
    return cast(Format, importlib.import_module(f"{__name__}.{name}")).render(tables)
