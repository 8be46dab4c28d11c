"""Time and memory are measured only when this folder is named."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _only_when_asked_for(request: pytest.FixtureRequest) -> None:
    here = Path(__file__).resolve().parent
    config = request.config
    named = [(config.invocation_params.dir / arg.split("::")[0]).resolve() for arg in config.args]
    if not any(path.is_relative_to(here) for path in named):
        pytest.skip("time and memory are measured only when benchmarks/performance is named")
