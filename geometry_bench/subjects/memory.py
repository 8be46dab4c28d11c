"""A model that is already in memory: can it be measured, and which one is it?"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from geometry_bench.errors import GeometryBenchError
from geometry_bench.storage import digest_lines
from geometry_bench.subjects import hashing
from geometry_bench.subjects.adapters import refuse_prompt_learning
from geometry_bench.subjects.blocks import find_backbone, find_blocks, text_config, without_adapter
from geometry_bench.subjects.describe import refuse_non_decoder
from geometry_bench.subjects.spec import Identity
from geometry_bench.subjects.values import finite


def refuse_unmeasurable(model: nn.Module, tokenizer: Any, name: str) -> None:
    """Raise GeometryBenchError for anything but a causal transformers or PEFT model with values, and a tokenizer."""
    from transformers import PreTrainedTokenizerBase

    base = without_adapter(model)
    config = getattr(base, "config", None)
    if not isinstance(base, nn.Module) or not hasattr(config, "to_dict"):
        raise GeometryBenchError(
            f"{name} is a {type(base).__name__} without the configuration of a text decoder; give the transformers or PEFT "
            "model itself (the .module of a parallel wrapper)."
        )
    refuse_non_decoder({**cast(Any, config).to_dict(), "architectures": [type(base).__name__]}, name)
    for adapter, settings in getattr(model, "peft_config", {}).items():
        refuse_prompt_learning(settings, adapter)
    for tensor_name, tensor in _weights(model):
        if tensor.device.type == "meta":
            raise GeometryBenchError(
                f"The weight {tensor_name} of {name} has no values in memory (meta device); load all weights first."
            )
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise GeometryBenchError(
            f"The tokenizer of {name} is a {type(tokenizer).__name__}; give the transformers tokenizer of that model."
        )


def tokenizer_hash(tokenizer: Any) -> str:
    """``"sha256:" + 64 hex digits`` over what a transformers tokenizer writes of itself: vocabulary, tokens, template."""
    tokenizer("")  # fast tokenizers would write the padding of their last call
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        (Path(folder) / "tokenizer_config.json").unlink(missing_ok=True)  # says where it came from
        files = hashing.tokenizer_hash(Path(folder))
    specials = sorted((key, str(token)) for key, token in tokenizer.special_tokens_map.items())
    return f"sha256:{digest_lines([files, repr(specials)])}"


def identity(model: nn.Module, tokenizer: str, name: str) -> Identity:
    """Identity of a live model as its weights are now; ``tokenizer`` is the hash of its tokenizer.

    The revision covers names, shapes, dtypes and bytes of all parameters and persistent buffers, the adapters in effect
    and the tokenizer. Raises GeometryBenchError for NaN or infinite weights, and where there are no decoder blocks.
    """
    text = text_config(find_backbone(model))
    total = hashlib.sha256(tokenizer.encode())
    for tensor_name, tensor in _weights(model):
        if not finite(tensor):
            raise GeometryBenchError(f"The weight {tensor_name} of {name} holds NaN or infinite values.")
        total.update(f"\n{tensor_name}\0{tuple(tensor.shape)}\0{tensor.dtype}\n".encode())
        total.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    active: set[str] = set()
    for path, module in model.named_modules():
        if getattr(module, "disable_adapters", None) is False:  # a PEFT layer that is switched on
            names = tuple(cast(Any, module).active_adapters)
            scaling = [(one, getattr(module, "scaling", {}).get(one)) for one in names]
            total.update(f"\n{path}\0{scaling}".encode())
            active.update(names)
    return Identity(
        name=name,
        origin="memory",
        path=None,
        revision=f"memory:{total.hexdigest()}",
        architecture=type(without_adapter(model)).__name__,
        layers=len(find_blocks(model)),
        width=int(text.hidden_size),
        adapter="+".join(sorted(active)) or None,
    )


def _weights(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and persistent buffers by name."""
    return [(name, value) for name, value in model.state_dict().items() if isinstance(value, Tensor)]
