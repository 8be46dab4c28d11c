"""Source C: *Day 1: I thought I had found direction. I instead found magnitude* (2026)."""

from geometry_bench.claims.magnitude_variance.records import CLAIMS

__all__ = ["CLAIMS"]
