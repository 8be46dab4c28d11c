"""Under xdist, cases of one subject go to one worker, so that its model is loaded once: marks ``xdist_group``."""

from __future__ import annotations

from typing import Any

import pytest

GROUPED = "geometry_grouped"


def group_by_mark(config: pytest.Config) -> None:
    """In a worker: do as ``--dist loadgroup`` does where the controller says so."""
    if getattr(config, "workerinput", {}).get(GROUPED):
        config.option.loadgroup = True


def _grouped(config: pytest.Config) -> bool:
    """Whether ``-n`` alone was given, for what looks like benchmarks; other runs are left as they are."""
    return config.getvalue("dist") == "load" and any("benchmarks" in str(argument) for argument in config.args)


def pytest_configure_node(node: Any) -> None:
    """Tell a worker."""
    node.workerinput[GROUPED] = _grouped(node.config)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The scheduler of ``--dist loadgroup``."""
    if not _grouped(config):
        return None
    from xdist.scheduler import LoadGroupScheduling  # type: ignore[import-not-found, import-untyped, unused-ignore]

    return LoadGroupScheduling(config, log)
