"""The project's own measurements, made to tell whether a fine-tune has moved its parent's geometry, and their controls."""

from geometry_bench.claims.gate import controls, records

CLAIMS = (*records.CLAIMS, *controls.CLAIMS)

__all__ = ["CLAIMS"]
