"""Sentences of a source, and how each is checked. A verdict is never among the data: it follows from them each time.

A word in a check (``of``, ``subjects``, a rung of an order, a bound) is looked up in the statement's ``stated`` first, then
among the publication's groups and lists; what is found nowhere is itself the key of a subject or the name of a value or
curve. A name with ``*`` stands for every name that it matches in a subject.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from geometry_bench.published.subject import Frozen

Words = Annotated[tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)]
Bound = float | str | None


class Reading(Frozen):
    """The numbers that a check takes: those named ``of``, of all subjects unless ``subjects`` are given.

    A curve is read at its last x (``last``), at all of them, by its steps from one x to the next, or by its change from
    the first x to the last. With ``less`` a subject has one number, its mean over ``of`` less its mean over ``less``; with
    ``less_subject`` the number of that subject is taken off.
    """

    of: Words
    less: Words = ()
    subjects: Words = ()
    less_subject: str | None = None
    over: Literal["last", "all", "steps", "change"] = "last"


class Bounds(Reading):
    """Numbers held against bounds, each a number or a word of ``stated``."""

    above: Bound = None
    at_least: Bound = None
    below: Bound = None


class RangeCheck(Reading):
    """The least and the greatest number round to the stated ``low`` and ``high``."""

    kind: Literal["range"]


class CountCheck(Bounds):
    """All or most numbers lie within the bounds, or have ``one_sign``; with ``exactly``, those of these subjects alone do.

    Where the sentence states a ``count``, there are as many numbers.
    """

    kind: Literal["count"]
    one_sign: bool = False
    needed: Literal["all", "most"] = "all"
    exactly: Words = ()


class MeanCheck(Bounds):
    """The mean lies within the bounds and, with ``near``, within the resolution of what is stated.

    ``ascending`` names groups whose means ascend in this order.
    """

    kind: Literal["mean"]
    near: str | None = None
    ascending: tuple[str, ...] = ()


class OrderCheck(Reading):
    """Every number of a rung lies below every number of the next.

    A rung holds the numbers of a subject or name that its word gives (of both, where it has two words); ``others`` are all
    numbers on no other rung. With ``in_each`` the order is asked for within each subject, all of them or most.
    """

    kind: Literal["order"]
    ascending: tuple[Words, ...] = Field(min_length=2)
    in_each: Literal["all", "most"] | None = None


class PrintedCheck(Frozen):
    """What is printed is what the data round to: a table (``sorted`` by its first column, highest first), or the stated
    ``values`` by name of ``subjects``, less those of ``less_subject``.
    """

    kind: Literal["printed"]
    table: str | None = None
    sorted: bool = False
    values: str = "values"
    subjects: Words = ()
    less_subject: str | None = None


class SameCheck(Frozen):
    """The two stated ``tables`` have equal entries wherever both have one, in the columns that match.

    With ``complete`` the second has every row of the first.
    """

    kind: Literal["same"]
    columns: Words = ("*",)
    complete: bool = True


class AlignmentCheck(Frozen):
    """All or none of the subjects are in an alignment group."""

    kind: Literal["alignment"]
    subjects: Words
    group: Literal["sft", "preference", "distilled", "undisclosed"]
    needed: Literal["all", "none"] = "all"


class FunctionCheck(Frozen):
    """A check that takes more than the kinds above: a function of the source's audit."""

    kind: Literal["function"]


class AllCheck(Frozen):
    """All of several checks."""

    kind: Literal["all"]
    checks: tuple[SimpleCheck, ...] = Field(min_length=2)


SimpleCheck = Annotated[
    RangeCheck | CountCheck | MeanCheck | OrderCheck | PrintedCheck | SameCheck | AlignmentCheck,
    Field(discriminator="kind"),
]
Check = Annotated[
    RangeCheck
    | CountCheck
    | MeanCheck
    | OrderCheck
    | PrintedCheck
    | SameCheck
    | AlignmentCheck
    | AllCheck
    | FunctionCheck,
    Field(discriminator="kind"),
]


class PublishedStatement(Frozen):
    """A sentence of the source in this project's words, its place there, what numbers and names are in it, its check."""

    sentence: str
    where: str
    stated: Mapping[str, Any]
    check: Check
