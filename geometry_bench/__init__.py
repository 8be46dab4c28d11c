"""Geometric claims about aligned language models, measured on any Hugging Face model and held against baselines.

>>> import geometry_bench as gb
>>> results = gb.measure("ORG/NAME", claims="safety.*")
>>> print(results.table())
>>> gb.plot_profile(results, claim="safety.baseline_sign")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geometry_bench.version import __version__

__all__ = [
    "Result",
    "Results",
    "__version__",
    "compare",
    "load",
    "measure",
    "plot",
    "plot_auroc",
    "plot_axes",
    "plot_changes",
    "plot_curves",
    "plot_displacement",
    "plot_dose",
    "plot_drift",
    "plot_energy",
    "plot_headline",
    "plot_magnitude",
    "plot_overlap",
    "plot_power",
    "plot_profile",
    "plot_removal",
    "plot_trajectory",
    "plot_values",
]

if TYPE_CHECKING:
    from geometry_bench.api import Result, Results, compare, load, measure
    from geometry_bench.plots import (
        plot,
        plot_auroc,
        plot_axes,
        plot_changes,
        plot_curves,
        plot_displacement,
        plot_dose,
        plot_drift,
        plot_energy,
        plot_headline,
        plot_magnitude,
        plot_overlap,
        plot_power,
        plot_profile,
        plot_removal,
        plot_trajectory,
        plot_values,
    )


def __getattr__(name: str) -> Any:
    """Names of the interface, imported when first used: the package itself is imported by every pytest run."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name.startswith("plot"):
        from geometry_bench import plots as home
    else:
        from geometry_bench import api as home  # type: ignore[no-redef]
    return getattr(home, name)
