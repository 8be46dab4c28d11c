"""Pure edits of a transformers model in memory: each gives an edited copy and leaves the model as it is."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_WRITES = ("o_proj", "down_proj", "attention.dense", "dense_4h_to_h")
"""Ends of the names of the matrices of Llama and GPT-NeoX that write to the residual stream."""


def written_through(model: Any, map: Tensor) -> Any:
    """Everything that is written to the residual stream goes through a linear map (width, width).

    That is embeddings, attention and MLP outputs of all blocks; whatever reads the stream, the head included, stays.
    """
    edited = copy.deepcopy(model)
    embedding, head = edited.get_input_embeddings(), edited.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())  # a head that is the embedding only reads
    edited.config.tie_word_embeddings = False
    with torch.no_grad():
        embedding.weight.copy_(embedding.weight @ map.T)
        for module in writers(edited):
            module.weight.copy_(map @ module.weight)
            if module.bias is not None:
                module.bias.copy_(map @ module.bias)
    return edited


def writers(model: Any) -> Iterator[nn.Linear]:
    """Output matrices of attentions and MLPs."""
    for name, module in model.named_modules():
        if name.endswith(_WRITES):
            yield module


def rotation(direction: Tensor, towards: Tensor, degrees: float) -> Tensor:
    """The map that turns a unit vector towards another by an angle, within their plane (width, width)."""
    across = towards - (towards @ direction) * direction
    plane = torch.stack([direction, across / across.norm()])
    angle = math.radians(degrees)
    turn = torch.tensor([[math.cos(angle) - 1, -math.sin(angle)], [math.sin(angle), math.cos(angle) - 1]])
    return torch.eye(len(direction)) + plane.T @ turn @ plane


def ablation(direction: Tensor, share: float) -> Tensor:
    """The map that takes away a share of what lies along a unit vector (width, width)."""
    return torch.eye(len(direction)) - share * torch.outer(direction, direction)


def scrambled(model: Any, share: float, seed: int) -> Any:
    """A share of the rows of the MLP output of the middle block change places with each other."""
    edited, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    outputs = list(writers(edited))[1::2]  # in every block the attention comes first
    weight = outputs[len(outputs) // 2].weight
    rows = torch.randperm(len(weight), generator=generator)[: max(2, round(share * len(weight)))]
    with torch.no_grad():
        weight[rows] = weight[rows.roll(1)]
    return edited


def noisy(model: Any, relative: float, seed: int) -> Any:
    """Gaussian noise on every tensor, relative to the root mean square of its weights."""
    edited, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in edited.parameters():
            rms = parameter.square().mean().sqrt()
            parameter.add_(relative * rms * torch.randn(parameter.shape, generator=generator))
    return edited


def rounded(model: Any, bits: int) -> Any:
    """Every matrix rounded to so many bits, symmetrically, one scale for each output channel."""
    edited, most = copy.deepcopy(model), 2 ** (bits - 1) - 1
    with torch.no_grad():
        for parameter in edited.parameters():
            if parameter.ndim == 2:
                scale = parameter.abs().amax(dim=1, keepdim=True) / most
                parameter.copy_((parameter / scale).round() * scale)
    return edited


def cast(model: Any, dtype: torch.dtype) -> Any:
    """Weights as a file of another dtype would hold them, read back into the model's own."""
    edited, own = copy.deepcopy(model), model.dtype
    return edited.to(dtype).to(own)
