"""Prove on one short prompt that a loaded subject's blocks are the residual stream that the model itself reports."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects.blocks import input_device, text_config
from geometry_bench.subjects.measuring import measuring, recorders_anew
from geometry_bench.subjects.streams import one_stream, residual_stream

# Largest difference allowed, relative to the largest entry: the two are one tensor unless the architecture differs.
_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}


def self_check(backbone: nn.Module, blocks: list[nn.Module], ids: tuple[int, ...], *, layers: int, width: int) -> None:
    """Run ``ids`` once and compare each block's output with the model's own hidden states.

    Raises GeometryBenchError when the number of blocks or the width is not the declared one, when a block's output is
    not finite, or differs from the model's own hidden state: ``hidden_states[block + 1]`` (the last one is after the final
    norm, so it is left out), or ``hidden_states[block]`` in models that report no embedding (Mamba, RWKV).
    """
    name = type(backbone).__name__
    if len(blocks) != layers:
        raise GeometryBenchError(f"{name} has {len(blocks)} decoder blocks, but its configuration says {layers}.")
    rows = int(cast(Any, backbone).get_input_embeddings().weight.shape[0])
    if max(ids) >= rows:
        raise GeometryBenchError(
            f"The tokenizer makes token {max(ids)}, but {name} has only {rows} embeddings; the tokenizer belongs to another "
            "model."
        )
    other = next(token for token in (*ids, 0, 1) if token != ids[-1])
    with measuring(backbone), recorders_anew(backbone):
        outputs, result = _run(backbone, blocks, ids)
        changed, _ = _run(backbone, blocks, (*ids[:-1], other))
    missing = [index for index in range(layers) if index not in outputs]
    if missing:
        raise GeometryBenchError(
            f"Blocks {missing} of {name} did not run in a plain forward pass; it is not supported."
        )
    states = getattr(result, "hidden_states", None)
    if states is None or len(states) != layers + 1:
        raise GeometryBenchError(
            f"{name} reports {len(states) if states is not None else 'no'} hidden states where {layers + 1} are due; "
            "its blocks cannot be checked."
        )
    for index, ours in outputs.items():
        if ours.shape != (1, len(ids), width):
            raise GeometryBenchError(
                f"Block {index} of {name} gives shape {tuple(ours.shape)} instead of (1, {len(ids)}, {width})."
            )
        if not bool(torch.isfinite(ours).all()):
            raise GeometryBenchError(
                f"Block {index} of {name} gives NaN or infinite activations in {_short(ours.dtype)} on a short prompt; "
                "try --dtype float32."
            )
    if not any(bool(ours.any()) for ours in outputs.values()):
        raise GeometryBenchError(f"Every activation of {name} is zero on a short prompt: its weights are empty.")
    config = text_config(backbone)
    theirs = [one_stream(config, state.detach().to("cpu")) for state in states]
    after = [_difference(outputs[index], theirs[index + 1]) for index in range(layers - 1)]
    at = [_difference(outputs[index], theirs[index]) for index in range(layers)]
    tolerance = _TOLERANCE.get(outputs[0].dtype, 2e-2)
    if max(after, default=0.0) > tolerance and max(at) > tolerance:
        index = next(index for index, difference in enumerate(after) if difference > tolerance)
        raise GeometryBenchError(
            f"The output of block {index} of {name} is not the model's hidden state {index + 1} (difference "
            f"{after[index]:.2g} of its scale); its residual stream cannot be read at its blocks."
        )
    _refuse_lookahead(outputs[layers - 1], changed[layers - 1], name)


def _run(backbone: nn.Module, blocks: list[nn.Module], ids: tuple[int, ...]) -> tuple[dict[int, Tensor], Any]:
    """Block outputs by block index, and what the model returns, for one prompt."""
    outputs: dict[int, Tensor] = {}
    config = text_config(backbone)

    def keep(index: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            outputs[index] = residual_stream(config, index, output).detach().to("cpu")

        return hook

    handles = [block.register_forward_hook(keep(index)) for index, block in enumerate(blocks)]
    try:
        tokens = torch.tensor([ids], device=input_device(backbone))
        result = backbone(input_ids=tokens, use_cache=False, output_hidden_states=True, return_dict=True)
    finally:
        for handle in handles:
            handle.remove()
    return outputs, result


def _refuse_lookahead(output: Tensor, changed: Tensor, name: str) -> None:
    """Another last token must leave every earlier position as it was: padding on the right relies on it."""
    before, after = output[:, :-1].double(), changed[:, :-1].double()
    # Relative at each position, since a first token may be hundreds of times larger than the others.
    moved = (before - after).norm(dim=-1) / before.norm(dim=-1).clamp_min(1e-30)
    if float(moved.max()) > 10 * _TOLERANCE.get(output.dtype, 2e-2):
        raise GeometryBenchError(
            f"{name} lets a token see those after it; only causal language models can be measured."
        )


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference relative to the largest entry; infinite for other shapes."""
    if theirs.shape != ours.shape:
        return float("inf")
    return float((ours.double() - theirs.double()).abs().max() / ours.double().abs().max().clamp_min(1e-30))


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
