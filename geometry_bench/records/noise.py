"""Numerical noise: how far a metric moves when nothing but batch, padding or threads change."""

from __future__ import annotations

import json
from functools import cache

from geometry_bench.errors import GeometryBenchError
from geometry_bench.resources import data_root

EXACT = "exact"
"""The metric of values that no arithmetic touches."""

SAFETY_FACTOR = 4.0
"""A value counts as moved beyond numerical noise at four times the largest difference that was measured."""


@cache
def _measured() -> dict[str, dict[str, float]]:
    path = data_root() / "baselines" / "numerical_noise.json"
    try:
        floors: dict[str, dict[str, float]] = json.loads(path.read_text(encoding="utf-8"))["largest_difference"]
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise GeometryBenchError(f"{path} cannot be read ({error}): restore it from version control.") from None
    return floors


def noise_floor(metric: str, dtype: str | None) -> float:
    """Difference below which two values of ``metric`` under ``dtype`` are the same value.

    None stands for several subjects of different dtypes: the largest noise of any dtype then counts.

    Raises:
        GeometryBenchError: the metric and dtype have never been measured.
    """
    if metric == EXACT:
        return 0.0
    try:
        by_dtype = _measured()[metric]
        return SAFETY_FACTOR * (max(by_dtype.values()) if dtype is None else by_dtype[dtype])
    except KeyError:
        raise GeometryBenchError(
            f"No numerical noise has been measured for {metric} in {dtype}: "
            "measure it with benchmarks/performance/measure_noise.py."
        ) from None
