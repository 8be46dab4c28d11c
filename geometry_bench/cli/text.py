"""How commands set text."""

from __future__ import annotations

import textwrap


def wrapped(text: str, width: int) -> str:
    """The text in lines of at most so many characters."""
    return "\n".join(textwrap.wrap(text, width))
