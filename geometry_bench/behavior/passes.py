"""Passes that end in logits: prompts padded on the left, so that the last token of each is at the end."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from geometry_bench.activations import batching
from geometry_bench.activations.batching import Batch, Ids
from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects.blocks import without_adapter
from geometry_bench.subjects.settings import position_limit
from geometry_bench.subjects.subject import Subject

TOKENS_CPU = 4096
TOKENS_ACCELERATOR = 32768

# How much logits may differ, of their largest, for a model still to count as one that does not see padding.
_LOOSE = {"float64": 1e-8, "float32": 1e-3}


def refuse_prompts(subject: Subject, prompts: Sequence[Sequence[int]], new_tokens: int = 0) -> None:
    """Raise GeometryBenchError for no prompts, an empty one, ids of another vocabulary, and one too long for the model."""
    name = subject.identity.name
    if not prompts:
        raise GeometryBenchError(f"No prompts were given to {name}: give at least one.")
    size = int(cast(Any, subject.backbone).get_input_embeddings().weight.shape[0])
    limit = position_limit(subject.text_config, subject.tokenizer)
    for index, ids in enumerate(prompts):
        if not len(ids):
            raise GeometryBenchError(f"Prompt {index} has no tokens: give each prompt at least one.")
        if not 0 <= min(ids) <= max(ids) < size:
            raise GeometryBenchError(
                f"Prompt {index} holds a token id outside 0..{size - 1}, the vocabulary of {name}: encode it with that "
                "model's own tokenizer."
            )
        if limit is not None and len(ids) + new_tokens > limit:
            more = f" and {new_tokens} more are asked for" if new_tokens else ""
            raise GeometryBenchError(
                f"Prompt {index} has {len(ids)} tokens{more}, beyond the {limit} positions of {name}: shorten it"
                f"{' or ask for fewer' if new_tokens else ''}."
            )


def left_padded(subject: Subject, prompts: Sequence[Ids]) -> dict[str, Tensor]:
    """``input_ids`` and ``attention_mask`` (n, longest) of prompts, on the subject's device."""
    longest = max(map(len, prompts))
    pads = torch.tensor([longest - len(ids) for ids in prompts])
    device = torch.device("cpu") if subject.device.type == "meta" else subject.device
    mask = torch.arange(longest)[None] >= pads[:, None]
    return {"input_ids": batching.pad(prompts, longest, "left").to(device), "attention_mask": mask.long().to(device)}


def last_logits(subject: Subject, prompts: Sequence[Ids]) -> Tensor:
    """Logits of the token after each prompt, (n, vocabulary) in float32 at least, in one pass.

    Raises GeometryBenchError for a model without a head.
    """
    model = cast(Any, without_adapter(subject.model))
    inputs: dict[str, Any] = left_padded(subject, prompts)
    takes = inspect.signature(model.forward).parameters
    if "position_ids" in takes:
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    if "logits_to_keep" in takes:
        inputs["logits_to_keep"] = 1
    with subject.measuring():
        logits = getattr(model(**inputs, use_cache=False, output_hidden_states=False), "logits", None)
    if logits is None:
        raise GeometryBenchError(f"{subject.identity.name} has no head that predicts tokens: give the causal model.")
    last: Tensor = logits[:, -1]
    return last.to(torch.promote_types(last.dtype, torch.float32))


def planned(
    subject: Subject, prompts: Sequence[Ids], *, new_tokens: int = 0, token_budget: int | None = None
) -> tuple[list[Batch], list[int]]:
    """Batches of prompts of ascending length, and the length of each prompt with its answer.

    Prompts of several lengths meet only where the model gives the same logits with and without padding; recurrent ones may
    not. ``token_budget``: padded tokens of a batch, answers included.
    """
    if token_budget is not None and token_budget < 1:
        raise GeometryBenchError(f"token_budget is {token_budget}: give 1 or more.")
    lengths = [len(ids) + new_tokens for ids in prompts]
    default = TOKENS_CPU if subject.device.type == "cpu" else TOKENS_ACCELERATOR
    alike = lengths[0] == lengths[-1] or _ignores_padding(subject, prompts[0], prompts[-1])
    batches = batching.plan(lengths, token_budget=token_budget or default, uniform_above=None if alike else 0)
    return batches, lengths


def _ignores_padding(subject: Subject, short: Ids, long: Ids) -> bool:
    """Whether a short prompt's logits are the same alone and beside a long one."""
    alone, beside = last_logits(subject, [short])[0], last_logits(subject, [short, long])[0]
    loose = _LOOSE.get(subject.dtype, 5e-2)
    return bool((alone - beside).abs().max() <= loose * alone.abs().max())
