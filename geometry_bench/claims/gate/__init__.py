"""The project's own measurements, made to tell whether a fine-tune has moved its parent's geometry."""

from geometry_bench.claims.gate.records import CLAIMS

__all__ = ["CLAIMS"]
