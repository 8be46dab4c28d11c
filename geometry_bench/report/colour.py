"""Colour for a terminal: verdict words of finished lines, so that widths are those of the plain text."""

from __future__ import annotations

import os
import re

_RED, _GREEN, _YELLOW, _BOLD = "31", "32", "33", "1"
_COLOURS = (
    (re.compile(r"^warning: .*"), _YELLOW),
    (re.compile(r"^at a glance: .*"), _BOLD),
    (re.compile(r"\b(FAILED|FAILS|MOVED|DIFFERS)\b|(?<=\d )F[!~]?(?= |$)|(?<=\d )[Hi]!"), _RED),
    (re.compile(r"\b(HOLDS|SAME|REPRODUCED)\b|(?<=\d )H~?(?= |$)"), _GREEN),
    (re.compile(r"\b(INCONCLUSIVE|UNDECIDED|STALE|INCOMPARABLE|CANNOT TELL)\b|(?<=\d )i~?(?= |$)"), _YELLOW),
)


def painted(text: str) -> str:
    """Lines with their verdicts in colour: red fails or has moved, green holds or is the same, yellow cannot be told."""
    return "\n".join(map(_painted, text.split("\n")))


def _painted(line: str) -> str:
    for pattern, colour in _COLOURS:
        line = pattern.sub(lambda found, colour=colour: f"\x1b[{colour}m{found[0]}\x1b[0m", line)  # type: ignore[misc]
    return line


def is_wanted() -> bool:
    """Whether colour may be used where there is a terminal: not where NO_COLOR says so, nor on one that knows none."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
