"""Ablation in weight space: W <- (I − s·v̂v̂ᵀ) W for everything that writes to the residual stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import Parameter
from transformers.pytorch_utils import Conv1D

from geometry_bench.behavior.interventions import Ablate, applied, chosen_blocks, unit
from geometry_bench.behavior.writers import probe, tolerance, writers
from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects.subject import Subject

# How transformers names the matrix, or the packed matrices of experts, at the end of an attention or an MLP.
_OUTPUTS = (
    "o_proj", "out_proj", "c_proj", "dense", "dense_4h_to_h", "down_proj", "fc2", "fc_out", "wo", "w2",
)  # fmt: skip

Written = tuple[Parameter, int]
"""A parameter, and the axis along which it holds vectors of the stream."""


@contextmanager
def ablated(
    subject: Subject, direction: NDArray[Any], *, strength: float = 1.0, blocks: Sequence[int] | None = None
) -> Iterator[None]:
    """Within it, the direction is projected out of the weights, and of the biases, of all that writes to the stream.

    That is embeddings (those of positions too) and the output matrices of attentions and MLPs; with ``blocks`` only these
    blocks' matrices. A head that shares the embedding's weights only reads the stream: it keeps its own copy of the
    old weights meanwhile, so a checkpoint saved within needs ``tie_word_embeddings`` off. Equals `Ablate` in hooks, which is
    checked on a few tokens. Afterwards all weights are as before, bit by bit, whatever happened.

    Raises GeometryBenchError as `Ablate` and `applied` do, and for weights that cannot be edited: quantised, offloaded,
    under an adapter, or followed by a norm before they reach the stream.
    """
    ablate = Ablate(direction, blocks, strength)
    chosen = chosen_blocks(subject, ablate)
    writing = writers(subject)
    written = [one for block in chosen for module in writing[block] for one in _outputs(subject, block, module)]
    if blocks is None:
        written += [(cast(Parameter, embedding.weight), 1) for embedding in _embeddings(subject)]
    with subject.measuring(), applied(subject, ablate):
        expected = subject.backbone(**probe(subject)).last_hidden_state
    with subject.intervene(), ExitStack() as stack:
        if blocks is None:
            stack.enter_context(_untied(subject))
        for parameter, axis in written:
            stack.callback(setattr, parameter, "data", parameter.data)
            parameter.data = _projected(parameter.data, unit(ablate, parameter), strength, axis)
        with subject.measuring():
            found = subject.backbone(**probe(subject)).last_hidden_state
        if float((found - expected).abs().max()) > tolerance(expected):
            raise GeometryBenchError(
                f"The weights that write to the stream of {subject.identity.name} are not all known "
                f"({subject.identity.architecture}): use the Ablate intervention, which needs no weights."
            )
        yield


def _projected(weights: Tensor, direction: Tensor, strength: float, axis: int) -> Tensor:
    """Weights without ``strength`` of their component along a unit vector, which runs along ``axis``."""
    wide = weights.movedim(axis, -1).to(direction.dtype)
    kept = wide - strength * (wide @ direction)[..., None] * direction
    return kept.movedim(-1, axis).to(weights.dtype).contiguous()


def _outputs(subject: Subject, block: int, writer: nn.Module) -> list[Written]:
    """The parameters of an attention or MLP that write to the stream."""
    found: list[Written] = []
    named = [(name.rpartition(".")[2], module) for name, module in writer.named_modules()]
    linear = [module for name, module in named if name in _OUTPUTS] or [writer]
    for module in linear:
        if isinstance(module, nn.Linear | Conv1D):
            inner = dict(module.named_parameters(recurse=False))
            found.append((inner["weight"], 0 if isinstance(module, nn.Linear) else 1))
            found += [(inner["bias"], 0)] if "bias" in inner else []
    # Experts may be packed in one parameter (experts, width, inner).
    packed = [(name.rpartition(".")[2], parameter) for name, parameter in writer.named_parameters()]
    found += [(parameter, 1) for name, parameter in packed if name in _OUTPUTS and parameter.ndim == 3]
    editable = all(
        parameter.is_floating_point() and parameter.device.type != "meta" and parameter.shape[axis] == subject.width
        for parameter, axis in found
    )
    if not found or not editable:
        parts = ", ".join(name for name, _ in writer.named_children()) or "no parts"
        raise GeometryBenchError(
            f"What {type(writer).__name__} ({parts}) in block {block} of {subject.identity.name} writes cannot be edited: "
            "merge adapters and load plain weights, or use the Ablate intervention."
        )
    return found


def _embeddings(subject: Subject) -> list[nn.Embedding]:
    """Embeddings of tokens and positions that stand before the blocks."""
    inside = {id(module) for block in subject.blocks for module in block.modules()}
    return [
        module
        for module in subject.backbone.modules()
        if isinstance(module, nn.Embedding) and module.embedding_dim == subject.width and id(module) not in inside
    ]


@contextmanager
def _untied(subject: Subject) -> Iterator[None]:
    """Within it, a head that shares the embedding's weights has a copy of its own."""
    model = cast(Any, subject.model)
    head, embedding = model.get_output_embeddings(), cast(Any, subject.backbone).get_input_embeddings()
    shared = getattr(head, "weight", None)
    if shared is None or shared is not embedding.weight:
        yield
        return
    head.weight = Parameter(shared.detach().clone(), requires_grad=False)
    try:
        yield
    finally:
        head.weight = shared
