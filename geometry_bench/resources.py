"""Where the project's own data are: beside the package in a checkout, inside it in an installed wheel."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def data_root() -> Path:
    """The folder that holds ``fixtures/``, ``baselines/`` and ``benchmarks/``."""
    checkout = PACKAGE.parent
    return checkout if (checkout / "fixtures").is_dir() else PACKAGE / "_data"
