"""Quantities computed once and shared by all claims that ask for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

Value = TypeVar("Value")


class Memo:
    """Remembers derived quantities by key."""

    def __init__(self) -> None:
        self._once: dict[Any, Any] = {}

    def once(self, key: Any, compute: Callable[[], Value]) -> Value:
        """A derived quantity that several claims share, computed on the first question; ``key`` names it."""
        if key not in self._once:
            self._once[key] = compute()
        return cast(Value, self._once[key])

    def forget(self) -> None:
        """Let all of it go."""
        self._once.clear()
