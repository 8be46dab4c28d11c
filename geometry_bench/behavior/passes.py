"""Passes that end in logits: the last token of each prompt is at the end, and a common beginning is computed once."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from geometry_bench.activations import batching
from geometry_bench.activations.batching import Batch, Ids
from geometry_bench.behavior.last_token import only_beginnings
from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects.blocks import without_adapter
from geometry_bench.subjects.settings import position_limit
from geometry_bench.subjects.subject import Subject

TOKENS_CPU = 4096
TOKENS_ACCELERATOR = 32768

# A beginning of fewer tokens, or of fewer prompts, is not worth a pass of its own.
_WORTHWHILE = 8
# How much logits may differ, of their largest, for a model still to count as one that does not see how prompts are laid out.
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


def common_beginning(prompts: Sequence[Ids]) -> int:
    """How many tokens all prompts begin with, the last token of the shortest left out."""
    first, last = min(prompts), max(prompts)  # what these two share, all share
    most = min(map(len, prompts)) - 1
    return next((place for place in range(most) if first[place] != last[place]), most)


def inputs_of(subject: Subject, prompts: Sequence[Ids], prefix: int = 0) -> dict[str, Any]:
    """``input_ids`` and ``attention_mask`` (n, positions) of prompts with their last tokens at the end, on their device.

    The first ``prefix`` tokens, the same in all, are passed here and once, and their keys and values are given as
    ``past_key_values``; padding then follows them.
    """
    longest = max(map(len, prompts))
    pads = torch.tensor([longest - len(ids) for ids in prompts])[:, None]
    device = torch.device("cpu") if subject.device.type == "meta" else subject.device
    beginning = torch.tensor([prompts[0][:prefix]] * len(prompts), dtype=torch.long)
    ids = torch.cat([beginning, batching.pad([ids[prefix:] for ids in prompts], longest - prefix, "left")], dim=1)
    places = torch.arange(longest)[None]
    mask = (places < prefix) | (places >= prefix + pads)
    inputs: dict[str, Any] = {"input_ids": ids.to(device), "attention_mask": mask.long().to(device)}
    if prefix:
        with subject.measuring(), only_beginnings():
            passed = subject.backbone(
                input_ids=inputs["input_ids"][:1, :prefix], use_cache=True, output_hidden_states=False
            )
        inputs["past_key_values"] = passed.past_key_values
        inputs["past_key_values"].batch_repeat_interleave(len(prompts))
    return inputs


def refuse_not_finite(subject: Subject, logits: Tensor) -> None:
    """Raise GeometryBenchError for logits (n, vocabulary) with NaN, or a row in which nothing is finite."""
    if bool(logits.isnan().any()) or not bool(logits.isfinite().any(dim=-1).all()):
        raise GeometryBenchError(
            f"The logits of {subject.identity.name} are not finite: check weights and interventions, or take float32 or "
            "bfloat16 in place of a dtype that overflows."
        )


def last_logits(subject: Subject, prompts: Sequence[Ids], prefix: int = 0) -> Tensor:
    """Logits of the token after each prompt, (n, vocabulary) in float32 at least, in one pass; ``prefix`` as in `inputs_of`.

    Raises GeometryBenchError for a model without a head, and for logits that are not finite.
    """
    model = cast(Any, without_adapter(subject.model))
    inputs = inputs_of(subject, prompts, prefix)
    takes = inspect.signature(model.forward).parameters
    inputs["input_ids"] = inputs["input_ids"][:, prefix:]
    if "position_ids" in takes:
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)[:, prefix:]
    if "logits_to_keep" in takes:
        inputs["logits_to_keep"] = 1
    with subject.measuring():
        logits = getattr(model(**inputs, use_cache=prefix > 0, output_hidden_states=False), "logits", None)
    if logits is None:
        raise GeometryBenchError(f"{subject.identity.name} has no head that predicts tokens: give the causal model.")
    last: Tensor = logits[:, -1]
    refuse_not_finite(subject, last)
    return last.to(torch.promote_types(last.dtype, torch.float32))


@dataclass(frozen=True)
class Plan:
    """Batches of prompts of ascending length, the length of each prompt with its answer, and the prefix computed once."""

    batches: list[Batch]
    lengths: list[int]
    prefix: int


def planned(
    subject: Subject,
    prompts: Sequence[Ids],
    *,
    new_tokens: int = 0,
    token_budget: int | None = None,
    batch_size: int | None = None,
) -> Plan:
    """How to run prompts of ascending length; ``token_budget``: padded tokens of a batch, answers included; ``batch_size``:
    prompts of a batch at most.

    A common beginning is computed once, and prompts of several lengths meet, only where the model gives the same logits so:
    recurrent ones may not.
    """
    if token_budget is not None and token_budget < 1:
        raise GeometryBenchError(f"token_budget is {token_budget}: give 1 or more.")
    lengths = [len(ids) + new_tokens for ids in prompts]
    default = TOKENS_CPU if subject.device.type == "cpu" else TOKENS_ACCELERATOR
    window = getattr(subject.text_config, "sliding_window", None) or math.inf  # it counts the padding behind a prefix
    prefix = common_beginning(prompts) if len(prompts) >= _WORTHWHILE and lengths[-1] <= window else 0
    prefix = prefix if prefix >= _WORTHWHILE else 0
    padded = lengths[0] != lengths[-1]
    if prefix or padded:
        ends = [prompts[0], prompts[-1]]
        alone = torch.cat([last_logits(subject, [ids]) for ids in ends])
        if prefix and _alike(subject, alone, ends, prefix):
            padded = False
        else:
            prefix, padded = 0, padded and not _alike(subject, alone, ends, 0)
    budget, above = token_budget or default, 0 if padded else None
    batches = batching.plan(lengths, token_budget=budget, batch_size=batch_size, uniform_above=above)
    return Plan(batches, lengths, prefix)


def _alike(subject: Subject, alone: Tensor, prompts: Sequence[Ids], prefix: int) -> bool:
    """Whether prompts have the same logits together as alone."""
    try:
        together = last_logits(subject, prompts, prefix)
    except (TypeError, ValueError, AttributeError, NotImplementedError, IndexError, RuntimeError):
        return False  # this architecture takes no keys and values of that kind
    loose = _LOOSE.get(subject.dtype, 5e-2)
    return bool((alone - together).abs().max() <= loose * alone.abs().max())
