"""Source A: *Safety and Compassion Geometry Across Models* (2026)."""

from geometry_bench.claims.safety_compassion.records import CLAIMS

__all__ = ["CLAIMS"]
