"""Put a PEFT adapter on a loaded model."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast

from torch import nn

from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects.spec import SubjectSpec


def first_sentence(error: BaseException) -> str:
    """First line of a library's message (two where the first only announces), so that the user reads one sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:2] if lines[0].endswith(":") else lines[:1])[:300]


def refuse_prompt_learning(config: Any, adapter: str) -> None:
    """Raise GeometryBenchError for a PEFT configuration that puts learnt tokens before a prompt."""
    if config.is_prompt_learning:
        raise GeometryBenchError(
            f"The adapter {adapter} learns a prompt instead of changing layers; only adapters inside layers "
            "(LoRA and its kin) can be measured."
        )


def with_adapter(spec: SubjectSpec, model: nn.Module) -> nn.Module:
    """Put a PEFT adapter on, unmerged: merging loses accuracy in half precision."""
    try:
        from peft import PeftConfig, PeftModel
    except ImportError as error:
        raise GeometryBenchError(
            "An adapter needs peft; install geometry-bench[adapters] or leave --adapter out."
        ) from error
    folder = Path(str(spec.adapter)).expanduser()
    try:
        refuse_prompt_learning(PeftConfig.from_pretrained(str(folder)), str(folder))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            adapted = PeftModel.from_pretrained(cast(Any, model), str(folder), is_trainable=False)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise GeometryBenchError(
            f"The adapter {folder} does not fit the model {spec.model}: {first_sentence(error)}"
        ) from error
    lacking = [str(entry.message) for entry in caught if "missing adapter keys" in str(entry.message).lower()]
    if lacking:
        raise GeometryBenchError(
            f"The adapter {folder} lacks weights that its configuration names, which would be random: {lacking[0][:200]}"
        )
    return cast(nn.Module, adapted)
