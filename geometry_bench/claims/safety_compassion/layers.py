"""Source A's choice of blocks, as functions of the number of blocks L (its section on layers).

Python's ``round`` rounds halves to even, as the source's scripts do.
"""

from __future__ import annotations


def first_analysis_layer(layers: int) -> int:
    """round(22 L / 32)."""
    return round(22 * layers / 32)


def analysis_layers(layers: int) -> range:
    """From the first analysis layer to the last block."""
    return range(first_analysis_layer(layers), layers)


def capping_layers(layers: int) -> range:
    """max(5, round(7 L / 32)) blocks from the first analysis layer on, the last block left out."""
    start = first_analysis_layer(layers)
    return range(start, min(start + max(5, round(7 * layers / 32)), layers - 1))
