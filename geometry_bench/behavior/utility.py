"""What a model can do beside refusing: sums, judged by the last number of an answer.

Perplexity is in `perplexity`, refusals of harmless requests in `refusals`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from geometry_bench.errors import GeometryBenchError

NEW_TOKENS = 48
"""Tokens in which the zoo's models write a sum down, digit by digit, and its result."""

_SUMS = tuple(
    re.compile(form)
    for form in (
        r"(\d+) (?:\+|plus) (\d+)[.?]?$",
        r"\b[Aa]dd (\d+) (?:and|to) (\d+)[.?]?$",
        r"\bhas (\d+) [^\d]+ and gets (\d+) more, so how many are there now\?$",
        r"\bhave (\d+) [^\d]+ and find (\d+) more, how many do I have\?$",
        r"\b[Tt]here are (\d+) [^\d]+ and (\d+) [^\d]+, so how many [^\d]+ are there\?$",
        r"\bsold (\d+) [^\d]+ and (\d+) later, how many in all\?$",
    )
)
_NUMBER = re.compile(r"[-−]?\d+(?:,\d{3})*(?:\.\d+)?")


def sum_asked(request: str) -> int | None:
    """The sum of two whole numbers that a request asks for in a form that is known; None for any other request."""
    for form in _SUMS:
        found = form.search(request.strip())
        if found:
            return int(found[1]) + int(found[2])
    return None


def sums_asked(requests: Sequence[str]) -> list[int]:
    """The sums that requests ask for. Raises GeometryBenchError where one asks for none that is known."""
    found = [sum_asked(request) for request in requests]
    for request, asked in zip(requests, found, strict=True):
        if asked is None:
            raise GeometryBenchError(
                f"The request {request[:60]!r} is not a sum of a known form, so its answer cannot be checked: give sums "
                "such as 'Calculate 15 + 38.'."
            )
    return [asked for asked in found if asked is not None]


def last_number(answer: str) -> Fraction | None:
    """The last number in a text, None where there is none; commas may part thousands."""
    found = _NUMBER.findall(answer)
    return Fraction(found[-1].replace(",", "").replace("−", "-")) if found else None


def right(answer: str, expected: int) -> bool:
    """Whether the last number of an answer is the expected one."""
    return last_number(answer) == expected
