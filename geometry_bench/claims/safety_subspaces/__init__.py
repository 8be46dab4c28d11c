"""Source D: *Safety Subspaces are Not Linearly Distinct: A Fine-Tuning Case Study* (ICLR 2026)."""

from geometry_bench.claims.safety_subspaces.records import CLAIMS

__all__ = ["CLAIMS"]
