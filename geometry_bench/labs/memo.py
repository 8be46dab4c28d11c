"""Quantities computed once and shared by all claims that ask for them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

P = ParamSpec("P")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Key:
    """A quantity: the function that computes it, and its arguments."""

    function: Callable[..., Any]
    arguments: tuple[Hashable, ...]


class Memo:
    """Holds what :func:`remembered` functions of it have computed."""

    def __init__(self) -> None:
        self._known: dict[Key, Any] = {}

    def forget(self) -> None:
        """Let all of it go."""
        self._known.clear()


M = TypeVar("M", bound=Memo)


def remembered(function: Callable[Concatenate[M, P], Value]) -> Callable[Concatenate[M, P], Value]:
    """A function of a lab whose value is computed on the first call with some arguments, and kept in the lab.

    Arguments are hashable; arguments by name are part of the key with their names.
    """

    @wraps(function)
    def ask(memo: M, /, *args: P.args, **named: P.kwargs) -> Value:
        key = Key(function, (*cast(tuple[Hashable, ...], args), *sorted(named.items())))
        if key not in memo._known:
            memo._known[key] = function(memo, *args, **named)
        return cast(Value, memo._known[key])

    return ask
