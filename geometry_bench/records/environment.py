"""Where and with what a value was measured."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from geometry_bench.records.measurement import Environment
from geometry_bench.resources import PACKAGE

_PACKAGES = ("geometry-bench", "torch", "transformers", "tokenizers", "numpy", "scipy", "safetensors", "peft")


def environment(seconds: float, seed: int | None = None) -> Environment:
    """This process, now: what is installed, the commit with its dirty flag when run from a checkout, peak memory."""
    return Environment(**_fixed(), seed=seed, seconds=round(seconds, 4), peak_memory_bytes=peak_memory_bytes())


@cache
def _fixed() -> dict[str, Any]:
    return {
        "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
        **_commit(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> dict[str, Any]:
    checkout = PACKAGE.parent
    if not (checkout / ".git").exists():
        return {"git_commit": None, "git_dirty": None}
    try:
        commit, status = (
            subprocess.run(
                ["git", *command], cwd=checkout, capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return {"git_commit": None, "git_dirty": None}
    return {"git_commit": commit, "git_dirty": bool(status)}


def peak_memory_bytes() -> int:
    """Largest resident set of this process so far, in bytes; with CUDA the largest allocation there is added."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peak += int(torch.cuda.max_memory_allocated())
    return peak
