"""Models of a build: made from scratch, loaded for further training, saved. Imports torch only inside functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geometry_bench.errors import GeometryBenchError
from geometry_bench.storage import digest_bytes
from geometry_bench.subjects import hashing
from geometry_bench.subjects.families import Member
from geometry_bench.training.recipe import Stage


@dataclass(frozen=True)
class Start:
    """A model that a stage can start from: ``place`` and ``revision`` as from_pretrained takes them."""

    member: Member
    place: str
    revision: str | None
    stage_hash: str
    weights: str


def new_model(declared: Mapping[str, Any], spread: float, tokenizer: Any, seed: int) -> Any:
    """A causal model of the declared type with matrices drawn from N(0, spread / sqrt(fan in)).

    Input and output embedding are one matrix unless the declaration says otherwise. The matrices that write into the
    residual stream are smaller by sqrt(2 blocks). Raises GeometryBenchError for an
    unknown type or arguments that the architecture refuses.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    arguments = {"tie_word_embeddings": True, **{key: value for key, value in declared.items() if key != "type"}}
    try:
        config = AutoConfig.for_model(
            declared["type"],
            **arguments,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        torch.manual_seed(seed)
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise GeometryBenchError(
            f"[model] of the recipe does not make a model: {str(error).splitlines()[0]}"
        ) from error
    writers = ("o_proj.weight", "down_proj.weight", "attention.dense.weight", "dense_4h_to_h.weight")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() < 2:
                continue
            width = spread / math.sqrt(weight.shape[1])
            if name.endswith(writers):
                width /= math.sqrt(2 * config.num_hidden_layers)
            weight.normal_(0, width)
    return model


def load_start(start: Start, stage: Stage) -> tuple[Any, Any]:
    """The stored weights of the start, in float32 unless the stage says otherwise: an update is the difference of two
    stored members."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = getattr(torch, stage.training.get("train_dtype", "float32"), None)
    if not isinstance(dtype, torch.dtype):
        raise GeometryBenchError(f"train_dtype of the stage {stage.role} is no dtype; use float32 or bfloat16.")
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(start.place, revision=start.revision or "main", dtype=dtype)
        tokenizer: Any = AutoTokenizer.from_pretrained(start.place, revision=start.revision or "main")
    except (OSError, ValueError) as error:
        raise GeometryBenchError(
            f"Cannot load {start.member.name} from {start.place} to train on: {str(error).splitlines()[0]}"
        ) from error
    return model, tokenizer


def save(model: Any, tokenizer: Any, folder: Path, dtype: str) -> None:
    """Safetensors rounded to ``dtype``, the tokenizer with its template, and how generation ends."""
    import torch

    stored = getattr(torch, dtype)
    model = model.to("cpu", stored)
    model.config.dtype = stored
    model.config.use_cache = True
    generation = model.generation_config
    ends = generation.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    if tokenizer.eos_token_id not in ends:
        ends.insert(0, tokenizer.eos_token_id)
    generation.eos_token_id = ends[0] if len(ends) == 1 else ends
    generation.pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    try:
        generation.validate(strict=True)
    except ValueError:  # published bases name a temperature without sampling, which cannot be saved again
        generation.do_sample = True
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def weights_hash(folder: Path) -> str:
    """``"sha256:" + 64 hex digits`` of the weight file; of several, over their names and hashes."""
    files = hashing.weight_files(folder)
    if len(files) == 1:
        return f"sha256:{hashing.file_hash(files[0])}"
    return "sha256:" + digest_bytes(f"{file.name}\0{hashing.file_hash(file)}\n".encode() for file in files)


def longest(stage: Stage, model: Any) -> int | None:
    """Longest row in tokens: what the recipe says, never more than the model has positions for."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limits = [limit for limit in (stage.training.get("max_length"), positions) if isinstance(limit, int)]
    return min(limits) if limits else None
