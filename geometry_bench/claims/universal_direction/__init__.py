"""Source B: *Do Language Models Share Unsafe Directions in Activation Space?* (2026)."""

from geometry_bench.claims.universal_direction.records import CLAIMS

__all__ = ["CLAIMS"]
