"""Geometric claims about aligned language models, measured on any Hugging Face model and held against baselines.

>>> import geometry_bench as gb
>>> results = gb.measure("ORG/NAME", claims="safety.*")
>>> print(results.table())
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geometry_bench.version import __version__

__all__ = ["Result", "Results", "__version__", "compare", "load", "measure"]

if TYPE_CHECKING:
    from geometry_bench.api import Result, Results, compare, load, measure


def __getattr__(name: str) -> Any:
    """Names of the interface, imported when first used: the package itself is imported by every pytest run."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from geometry_bench import api

    return getattr(api, name)
