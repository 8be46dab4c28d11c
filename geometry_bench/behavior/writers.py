"""What writes to the residual stream of a model: in every block its attention and its MLP.

They are found by the names that transformers gives them, and checked by running a few tokens: what a block adds to its
input must be the sum of what they give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects.streams import block_output
from geometry_bench.subjects.subject import Subject

# In a block: norms after attention and MLP write in their place (Gemma 2, OLMo 2, GLM-4); else these do themselves.
_AFTER = (
    ("post_attention_layernorm", "post_feedforward_layernorm"),
    ("post_self_attn_layernorm", "post_mlp_layernorm"),
)
_WRITERS = (
    "self_attn", "attn", "attention", "self_attention", "linear_attn", "mixer", "mamba",
    "mlp", "feed_forward", "ffn", "block_sparse_moe", "fc2",
)  # fmt: skip

_TOKENS = 8
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def probe(subject: Subject) -> dict[str, Any]:
    """Arguments of a pass over a few tokens through the backbone."""
    ids = torch.arange(_TOKENS, device=subject.device)[None] + 1
    return {"input_ids": ids, "use_cache": False, "output_hidden_states": False}


def tolerance(values: Tensor) -> float:
    """Largest difference that rounding may leave between two ways to compute the same values."""
    return _TOLERANCE.get(values.dtype, 5e-2) * float(values.abs().max())


def writers(subject: Subject) -> list[tuple[nn.Module, ...]]:
    """For every block the modules whose outputs sum up to what it adds to the stream.

    Raises:
        GeometryBenchError: a block adds something else, as where it scales its input or holds several streams.
    """
    found = [tuple(_of_block(block)) for block in subject.blocks]
    for index, seen in enumerate(_observed(subject, found)):
        if not _adds_up(*seen):
            names = ", ".join(name for name, _ in subject.blocks[index].named_children())
            raise GeometryBenchError(
                f"Block {index} of {subject.identity.name} does not add the plain outputs of an attention and an MLP to its "
                f"input (it holds {names}): ablation is not supported for {subject.identity.architecture}."
            )
    return found


def _adds_up(given: Tensor, written: list[Tensor], output: Tensor) -> bool:
    """Whether an output is the input and what was written; some modules give rows of all prompts together (n, width)."""
    if not written or any(value.numel() != output.numel() for value in written):
        return False
    total = sum((value.reshape(output.shape) for value in written), given)
    return float((total - output).abs().max()) <= tolerance(output)


def _of_block(block: nn.Module) -> Iterator[nn.Module]:
    parts = dict(block.named_children())
    for names in _AFTER:
        if all(name in parts for name in names):
            yield from (parts[name] for name in names)
            return
    yield from (parts[name] for name in _WRITERS if name in parts)


def _observed(subject: Subject, found: list[tuple[nn.Module, ...]]) -> list[tuple[Tensor, list[Tensor], Tensor]]:
    """(input, what each writer gives, output) of every block in one pass, as other hooks leave them for the block."""
    given: dict[int, Tensor] = {}
    written: dict[int, list[Tensor]] = {index: [] for index in range(len(found))}
    outputs: dict[int, Tensor] = {}

    def reads(index: int) -> Callable[..., None]:
        def before(_module: nn.Module, args: Any, kwargs: Any) -> None:
            given[index] = stream_input(args, kwargs)

        return before

    def writes(index: int) -> Callable[..., None]:
        return lambda _module, _args, output: written[index].append(block_output(output))

    def returns(index: int) -> Callable[..., None]:
        return lambda _module, _args, output: outputs.update({index: block_output(output)})

    with subject.measuring(), ExitStack() as stack:
        for index, block in enumerate(subject.blocks):
            stack.callback(block.register_forward_pre_hook(reads(index), with_kwargs=True).remove)
            for writer in found[index]:
                stack.callback(writer.register_forward_hook(writes(index)).remove)
            # Before what other hooks add to the output.
            stack.callback(block.register_forward_hook(returns(index), prepend=True).remove)
        subject.backbone(**probe(subject))
    return [(given[index], written[index], outputs[index]) for index in range(len(found))]


def stream_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The residual stream among the arguments of a decoder block."""
    value: Tensor = args[0] if args else kwargs["hidden_states"]
    return value
