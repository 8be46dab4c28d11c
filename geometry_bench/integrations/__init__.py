"""Geometry measured inside other libraries' loops."""

from geometry_bench.integrations.trainer import GeometryCallback

__all__ = ["GeometryCallback"]
