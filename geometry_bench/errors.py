"""The one error a user is meant to read."""

from __future__ import annotations


class GeometryBenchError(Exception):
    """Bad input or a missing capability, in one sentence: what is wrong, where, and what to do.

    The plugin and the command line print the message alone, without a traceback, and exit non-zero. Anything else
    that escapes is a defect of the project and keeps its traceback.
    """
