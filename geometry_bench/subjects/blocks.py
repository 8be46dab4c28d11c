"""Find the decoder blocks of a causal language model by structure, not by its name.

A decoder is a module list of as many blocks as the text configuration has layers, standing in the text model. That holds
for every architecture that transformers writes in the usual way, so a new one needs nothing here. Blocks may be of several
classes (attention and recurrence in turn).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects.describe import OTHER_PARTS
from geometry_bench.subjects.streams import cross_attention


def text_config(model: nn.Module) -> Any:
    """Configuration of the text decoder: the nested one of a multimodal wrapper, else the model's own."""
    config = cast(Any, model).config
    getter = getattr(config, "get_text_config", None)
    return getter(decoder=True) if getter is not None else config


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """Decoder blocks of the text model in order, as many as its configuration has layers and a text runs.

    Raises GeometryBenchError when no such list exists or several fit equally well.
    """
    backbone, blocks = _locate(model)
    left_out = cross_attention(text_config(backbone))
    return [block for index, block in enumerate(blocks) if index not in left_out]


def find_backbone(model: nn.Module) -> nn.Module:
    """Text model without its head, the module to call: takes ``input_ids`` and returns ``last_hidden_state``."""
    return _locate(model)[0]


def input_device(backbone: nn.Module) -> torch.device:
    """Device that token ids must be on: the embedding's, or where it runs when its weights are offloaded."""
    embedding = cast(Any, backbone).get_input_embeddings()
    device = next(embedding.parameters()).device
    if device.type == "meta":
        device = embedding._hf_hook.execution_device
    return torch.device(device)


def _locate(model: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    """The (backbone, block list) pair."""
    from transformers import PreTrainedModel

    base = without_adapter(model)
    config = text_config(base)
    # Where both are there, the first counts the attentions of blocks that hold two each (Longcat).
    declared = [getattr(config, key, None) for key in ("num_hidden_layers", "num_layers")]
    counts = [count for count in declared if isinstance(count, int) and count > 0]
    name = type(base).__name__
    if not counts:
        raise GeometryBenchError(f"The configuration of {name} names no number of layers; it is not a text decoder.")
    modules = dict(base.named_modules())
    lists = ([path for path, module in modules.items() if _is_block_list(module, count)] for count in counts)
    found = next(filter(None, lists), [])
    # Lists inside a block (experts, sub-layers) are parts of it, not the decoder.
    found = [path for path in found if not any(path.startswith(f"{other}.") for other in found if other != path)]
    owners = {path: _owner(path, modules, PreTrainedModel) for path in found}
    text = [path for path in found if type(getattr(owners[path], "config", None)) is type(config)]
    found = text or [path for path in found if not any(word in path.lower() for word in OTHER_PARTS)]
    if len(found) > 1:  # a text tower next to another one of the same configuration class
        found = [path for path in found if not any(word in path.lower() for word in OTHER_PARTS)] or found
    if not found:
        raise GeometryBenchError(
            f"{name} has no list of {counts[0]} decoder blocks in its text model; only decoder language models with a "
            "plain stack of blocks can be measured."
        )
    if len(found) > 1:
        raise GeometryBenchError(
            f"{name} has several lists of {counts[0]} blocks ({', '.join(found)}); cannot tell which is the text decoder."
        )
    return owners[found[0]], cast(nn.ModuleList, modules[found[0]])


def without_adapter(model: nn.Module) -> nn.Module:
    """The transformers model inside a PEFT wrapper; adapters live in its layers, so calling it includes them."""
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
        return cast(nn.Module, cast(Any, model).get_base_model())
    return model


def _is_block_list(module: nn.Module, layers: int) -> bool:
    """A list of so many composite modules; plain layers (norms, projections) are no blocks."""
    return isinstance(module, nn.ModuleList) and len(module) == layers and all(any(b.children()) for b in module)


def _owner(path: str, modules: dict[str, nn.Module], kind: type) -> nn.Module:
    """Nearest enclosing transformers model of the list at ``path``: the one that runs its blocks."""
    while path:
        path = path.rpartition(".")[0]
        if isinstance(modules[path], kind):
            return modules[path]
    return modules[""]
