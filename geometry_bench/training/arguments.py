"""Arguments of the trainers of transformers and trl: what a recipe may say, what the build decides, what it changes.

Imports torch, transformers and trl: import this module only when training.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.sft_config import SFTConfig

from geometry_bench.checked import did_you_mean
from geometry_bench.errors import GeometryBenchError
from geometry_bench.training.recipe import Recipe, Stage

CONFIGS: Mapping[str, Any] = {"pretrain": TrainingArguments, "sft": SFTConfig, "dpo": DPOConfig}
OWN = ("max_length", "save_dtype", "train_dtype")
"""Keys of a recipe's `training` that are this project's: longest row in tokens, dtype of the stored weights, and dtype
of the weights while training (float32 unless a model is too large for that)."""

# What the build itself decides; a recipe that names one of them is refused.
_FIXED: dict[str, Any] = {
    "logging_strategy": "no",  # the bar shows the loss; nothing is written at every step
    "report_to": "none",
    "disable_tqdm": True,
    "eval_strategy": "no",
    "save_strategy": "steps",
    "save_total_limit": 2,
    "push_to_hub": False,
    "remove_unused_columns": False,
    "logging_nan_inf_filter": False,  # a loss that is no number stops the build
    "load_best_model_at_end": False,
    "save_only_model": False,
    "ignore_data_skip": False,
}
_DECIDED = (*_FIXED, "output_dir", "resume_from_checkpoint", "dataset_kwargs", "packing", "padding_free", "use_cpu")
# Where trl and transformers differ from each other, or a default would surprise; a recipe may say otherwise.
_DEFAULTS: dict[str, Any] = {
    "bf16": False,
    "gradient_checkpointing": False,
    "num_train_epochs": 1,
    "max_grad_norm": 1.0,
    "seed": 42,
    "dataloader_num_workers": 0,
}
CHECKPOINTS = 5  # of a stage, unless the recipe says save_steps


def known_keys(method: str) -> set[str]:
    """Keys that `training` of a stage of this method may have."""
    names = {field.name for field in dataclasses.fields(CONFIGS[method]) if field.init}
    return (names | set(OWN)) - set(_DECIDED)


def check_training(recipe: Recipe) -> list[str]:
    """Refuse unknown keys and values that the trainers refuse, for every stage; returns notices for the user.

    Raises GeometryBenchError naming the stage and the key.
    """
    everywhere = set().union(*(known_keys(method) for method in CONFIGS))
    halves: list[str] = []
    for stage in recipe.stages:
        if stage.method == "given":
            continue
        where = f"`training` of the stage {stage.role} of {recipe.path}"
        for key in stage.training:
            if key in _DECIDED:
                raise GeometryBenchError(f"`{key}` in {where} is decided by the build itself; leave it out.")
            known = known_keys(stage.method) if key in stage.own_training else everywhere
            if key not in known:
                raise GeometryBenchError(
                    f"Unknown key `{key}`{did_you_mean(key, known)} in {where}; keys are those of "
                    f"{CONFIGS[stage.method].__name__}, and {', '.join(OWN)}."
                )
        arguments(stage, Path("unused"), rows=1)
        if stage.training.get("bf16") and not _has_bf16():
            halves.append(stage.role)
    if halves:
        return [f"bf16 needs a GPU that has it; here {', '.join(halves)} are trained in float32."]
    return []


def _has_bf16() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def steps_of(stage: Stage, rows: int, scale: float = 1.0) -> int:
    """Optimiser steps of a stage with so many rows."""
    if stage.training.get("max_steps", -1) > 0:
        return max(1, round(float(stage.training["max_steps"]) * scale))
    batch = int(stage.training.get("per_device_train_batch_size", 8))
    per_epoch = math.ceil(math.ceil(rows / batch) / int(stage.training.get("gradient_accumulation_steps", 1)))
    return max(1, math.ceil(per_epoch * float(stage.training.get("num_train_epochs", 1))))


def arguments(stage: Stage, folder: Path, *, rows: int, scale: float = 1.0) -> Any:
    """The trainer's arguments: what the recipe says over `_DEFAULTS`, and `_FIXED`. Raises GeometryBenchError."""
    names = {field.name for field in dataclasses.fields(CONFIGS[stage.method]) if field.init}
    given = {key: value for key, value in stage.training.items() if key in names and key not in ("max_length", "dtype")}
    values = {**_DEFAULTS, **given, **_FIXED, "output_dir": str(folder)}
    grouped = "random" if stage.method == "pretrain" else "group_by_length"
    values.setdefault("train_sampling_strategy", grouped)
    if given.get("max_steps", -1) > 0:
        values["max_steps"] = steps_of(stage, rows, scale)
    if steps_of(stage, rows, scale) == 1:
        values["warmup_steps"] = 0  # the first step of a warm-up has rate 0: the member would equal its parent
    values.setdefault("save_steps", math.ceil(steps_of(stage, rows, scale) / CHECKPOINTS))
    if values["bf16"] and not _has_bf16():
        values["bf16"] = False
    if not torch.cuda.is_available():
        values["dataloader_pin_memory"] = False
    if stage.method == "sft":
        values |= {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    if stage.method == "dpo":
        values["max_length"] = stage.training.get("max_length")
    try:
        with warnings.catch_warnings():
            # Names that the newest library calls by another name are the only ones that the oldest supported one knows.
            warnings.simplefilter("ignore", FutureWarning)
            return CONFIGS[stage.method](**values)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise GeometryBenchError(f"`training` of the stage {stage.role} cannot be used: {error}.") from error
