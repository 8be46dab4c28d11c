"""A terminal: its width, prose that fits it, and colour for verdict words of finished lines, which keep their width."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap

_LEAST_COLUMNS = 40

_RED, _GREEN, _YELLOW, _BOLD = "31", "32", "33", "1"
_COLOURS = (
    (re.compile(r"^warning: .*"), _YELLOW),
    (re.compile(r"^at a glance: .*"), _BOLD),
    (re.compile(r"\b(FAILED|FAILS|MOVED|DIFFERS)\b|(?<=\d )F[!~]?(?= |$)|(?<=\d )[Hi]!"), _RED),
    (re.compile(r"\b(HOLDS|SAME|REPRODUCED)\b|(?<=\d )H~?(?= |$)"), _GREEN),
    (re.compile(r"\b(INCONCLUSIVE|UNDECIDED|STALE|INCOMPARABLE|CANNOT TELL)\b|(?<=\d )i~?(?= |$)"), _YELLOW),
)


def columns() -> int:
    """Width of the terminal; 80 where there is none, or one that is too narrow to be true."""
    width = shutil.get_terminal_size().columns
    return width if width >= _LEAST_COLUMNS else 80


def folded(text: str) -> list[str]:
    """Prose in lines that fit the terminal, broken between words; as it is where nobody watches one."""
    watched = os.environ.get("COLUMNS") or (sys.__stdout__ is not None and sys.__stdout__.isatty())
    if not watched:
        return [text]
    return textwrap.wrap(text, columns(), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


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
