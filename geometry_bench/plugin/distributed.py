"""Under xdist, cases of one subject go to one worker, so that its model is loaded once."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import pytest

from geometry_bench.plugin.controller import bench_of, looks_like_benchmarks


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A scheduler by subject where ``-n`` alone was given, for what looks like benchmarks; other runs keep theirs."""
    if config.getvalue("dist") != "load" or not looks_like_benchmarks(config):
        return None
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-not-found, import-untyped, unused-ignore]

    class BySubject(LoadScopeScheduling):  # type: ignore[misc, unused-ignore]
        """Of xdist's own schedulers the one by marks writes into node ids, which pytest 9.2 keeps from being changed."""

        @cached_property
        def _subjects(self) -> dict[str, str]:
            return {task.id: task.target.id for task in bench_of(config).plan.tasks}

        def _split_scope(self, nodeid: str) -> str:
            return self._subjects.get(nodeid.partition("[")[2].removesuffix("]"), nodeid)

    return BySubject(config, log)
