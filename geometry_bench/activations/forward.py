"""One forward pass over one batch, read by hooks on the decoder blocks and abandoned after the last of them.

Batches are padded on the right and get no attention mask: under causal attention a token never sees what follows it, and
padded positions are never read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geometry_bench.activations import batching
from geometry_bench.activations.batching import Batch, Ids
from geometry_bench.activations.pooling import Padding, Pooler, Pooling
from geometry_bench.errors import GeometryBenchError

if TYPE_CHECKING:
    import torch

    from geometry_bench.subjects.load import Subject

Array = NDArray[np.float32]


class _LastBlockDoneError(Exception):
    """Ends a forward pass after the last block; never leaves this module."""


def forward(
    subject: Subject,
    prompts: Sequence[Ids],
    length: int,
    padding: Padding,
    poolings: Sequence[Pooling],
    prefix: int = 0,
) -> Array:
    """One pass over one batch: (poolings, prompts, layers, width).

    With ``prefix``, so many tokens that all prompts begin with are passed once before, and the rest attends to their
    keys and values; poolings must read nothing of them.
    """
    import torch

    from geometry_bench.subjects.blocks import block_output

    device = input_device(subject)
    beginning, prompts, length = prompts[0][:prefix], [ids[prefix:] for ids in prompts], length - prefix
    lengths = [len(ids) for ids in prompts]
    ids = batching.pad(prompts, length, padding).to(device)
    inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False}
    if beginning:
        inputs |= {"use_cache": True, "past_key_values": _keys_and_values(subject, beginning, len(prompts))}
    if padding == "left":
        steps = torch.arange(length)[None, :] - (length - torch.tensor(lengths))[:, None]
        inputs["attention_mask"] = (steps >= 0).long().to(device)
        # Models that take no positions (OPT in older versions) work them out from the mask themselves.
        if "position_ids" in inspect.signature(subject.backbone.forward).parameters:
            inputs["position_ids"] = steps.clamp(min=0).to(device)

    pooler = Pooler(lengths, length, padding, poolings)
    expected = (len(prompts), length, subject.width)
    final = len(subject.blocks) - 1
    pooled: list[torch.Tensor] = []

    def read(layer: int, output: Any) -> None:
        hidden = block_output(output)
        if tuple(hidden.shape) != expected or len(pooled) != layer:
            raise GeometryBenchError(
                f"Block {layer} of {subject.identity.name} returned {tuple(hidden.shape)} as output {len(pooled)} of "
                f"the pass, not {expected} as output {layer}: blocks that do not run once each, in order, are not "
                "supported."
            )
        pooled.append(pooler(hidden))
        if layer == final:
            raise _LastBlockDoneError

    with torch.no_grad(), _hooks(subject.blocks, read):
        try:
            subject.backbone(**inputs)
        except _LastBlockDoneError:
            return torch.stack([values.cpu() for values in pooled], dim=2).numpy()
    raise GeometryBenchError(
        f"A forward pass of {subject.identity.name} ended without its last block: check that its architecture is "
        "a causal decoder whose blocks all run."
    )


def _keys_and_values(subject: Subject, beginning: Ids, rows: int) -> Any:
    """What a prompt's beginning leaves for the tokens after it, once for each row."""
    import torch

    ids = torch.tensor([beginning], device=input_device(subject))
    with torch.no_grad():
        past = subject.backbone(input_ids=ids, use_cache=True).past_key_values
    past.batch_repeat_interleave(rows)
    return past


def may_share(subject: Subject, distinct: Sequence[Ids], batches: Sequence[Batch], poolings: Sequence[Pooling]) -> bool:
    """Whether this model answers the same where a common beginning is computed once.

    Models keep keys and values in ways of their own (windows, recurrent states), so the first shared batch's first
    prompt is also computed in one piece.
    """
    first = next((batch for batch in batches if batch.prefix), None)
    if first is None:
        return True
    row = [distinct[first.rows[0]]]
    with evaluating(subject.backbone):
        whole = forward(subject, row, len(row[0]), "right", poolings)
        try:
            shared = forward(subject, row, len(row[0]), "right", poolings, first.prefix)
        except (TypeError, ValueError, AttributeError, NotImplementedError, IndexError):
            shared = np.full_like(whole, np.nan)  # this architecture takes no keys and values of that kind
    loose = 1e-4 if subject.dtype in ("float32", "float64") else 5e-2
    scale = np.abs(whole).max(axis=-1, keepdims=True)
    # Weights that give no finite values are told with the prompt's number when the batches run.
    return bool(not np.all(np.isfinite(whole)) or np.all(np.abs(whole - shared) <= loose * scale))


def input_device(subject: Subject) -> torch.device:
    """Where token ids go; an offloaded embedding lives nowhere, and its loader takes ids from the CPU."""
    import torch

    return torch.device("cpu") if subject.device.type == "meta" else subject.device


@contextmanager
def _hooks(blocks: Sequence[torch.nn.Module], read: Callable[[int, Any], None]) -> Iterator[None]:
    """Forward hooks on all blocks, gone afterwards whatever happens."""

    def hook(layer: int) -> Callable[..., None]:
        return lambda _module, _inputs, output: read(layer, output)

    handles: list[Any] = []
    try:
        for layer, block in enumerate(blocks):
            handles.append(block.register_forward_hook(hook(layer)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(backbone: torch.nn.Module) -> Iterator[None]:
    """Dropout off for the time being."""
    training = [module for module in backbone.modules() if module.training]
    backbone.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def length_dependent_positions(backbone: torch.nn.Module) -> tuple[int | None, bool]:
    """The length above which rotary frequencies depend on the longest prompt of a batch, and whether on earlier ones.

    Two kinds of scaled rotary encoding choose their frequencies by the longest prompt in a batch (`longrope`, and
    `dynamic`, which also keeps those of the longest prompt seen before). (None, False) for all other models.
    """
    from geometry_bench.subjects.blocks import text_config

    config = text_config(backbone)
    settings = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    for setting in [settings, *settings.values()]:
        kind = setting.get("rope_type", setting.get("type")) if isinstance(setting, Mapping) else None
        if kind in ("dynamic", "longrope"):
            original = setting.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            return int(original or config.max_position_embeddings), kind == "dynamic"
    return None, False


def forget_longer_prompts(subject: Subject) -> None:
    """A pass over one token sets `dynamic` rotary frequencies back to those of short prompts."""
    import torch

    with torch.no_grad():
        subject.backbone(input_ids=torch.zeros((1, 1), dtype=torch.long, device=input_device(subject)), use_cache=False)
