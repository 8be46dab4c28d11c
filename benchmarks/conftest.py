"""Time and memory are measured only where their folder is named: they take minutes and write gigabytes."""

from __future__ import annotations

from pathlib import Path

import pytest

APART = Path(__file__).resolve().parent / "performance"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the folder out unless one of the arguments lies in it."""
    if collection_path.resolve() != APART:
        return None
    named = ((config.invocation_params.dir / argument.split("::")[0]).resolve() for argument in config.args)
    return None if any(path.is_relative_to(APART) for path in named) else True
