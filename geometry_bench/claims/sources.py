"""The publications whose claims are measured, and the project's own measurements."""

from __future__ import annotations

from typing import Final

from geometry_bench.claims.model import Source

SAFETY_COMPASSION: Final = Source(
    id="safety_compassion",
    letter="A",
    citation="Safety and Compassion Geometry Across Models (2026)",
    resolution=0.01,  # bfloat16 cosines
)
UNIVERSAL_DIRECTION: Final = Source(
    id="universal_direction",
    letter="B",
    citation="Do Language Models Share Unsafe Directions in Activation Space? (2026)",
    resolution=0.01,
)
MAGNITUDE_VARIANCE: Final = Source(
    id="magnitude_variance",
    letter="C",
    citation="Day 1: I thought I had found direction. I instead found magnitude (2026)",
    resolution=0.01,
)
SAFETY_SUBSPACES: Final = Source(
    id="safety_subspaces",
    letter="D",
    citation="Safety Subspaces are Not Linearly Distinct: A Fine-Tuning Case Study (ICLR 2026)",
    resolution=0.01,
)
GATE: Final = Source(
    id="gate",
    letter="G",
    citation="geometry-bench's own, made to compare a fine-tune with its parent",
    resolution=0.0,
)

BY_ID: Final = {
    source.id: source for source in (SAFETY_COMPASSION, UNIVERSAL_DIRECTION, MAGNITUDE_VARIANCE, SAFETY_SUBSPACES)
}
