"""A model that has learned nothing: the shape and tokenizer of another one, with random weights.

What is found in it comes from architecture, tokenizer and wording alone, so it is what a finding on the trained model must
exceed. Imports torch on top: only modules that measure may import this one.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from geometry_bench.errors import GeometryBenchError
from geometry_bench.storage import digest
from geometry_bench.subjects.adapters import first_sentence
from geometry_bench.subjects.blocks import without_adapter
from geometry_bench.subjects.measuring import measuring
from geometry_bench.subjects.quiet import quiet_transformers
from geometry_bench.subjects.subject import Subject


def untrained_twin(subject: Subject, seed: int = 0) -> Subject:
    """A subject of the same class and configuration, dtype, device, attention kernel, tokenizer and template.

    Its weights are those that transformers gives the class before training (``initializer_range`` of the configuration),
    drawn with ``seed``. A quantised model's twin is not quantised, an adapter's has none. The subject stays as it is, random
    states included. Its revision is a hash of the configuration and the seed.

    Raises GeometryBenchError: the model is spread over devices, its class cannot be built without stored weights, or its
    twin does not fit into memory.
    """
    base = without_adapter(subject.model)
    if getattr(base, "hf_device_map", None) and len(set(cast(Any, base).hf_device_map.values())) > 1:
        raise GeometryBenchError("an untrained twin of a model that is spread over devices is not built")
    config: Any = copy.deepcopy(cast(Any, base).config)
    parts: list[Any] = [config, getattr(config, "text_config", None)]
    for part in parts:
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    kind, name = type(base), f"{subject.identity.name} untrained"
    with quiet_transformers(), measuring(subject.model):
        torch.manual_seed(seed)
        before = torch.get_default_dtype()
        try:
            torch.set_default_dtype(getattr(torch, subject.dtype))
            with torch.device(subject.device):
                model = cast(nn.Module, cast(Any, kind)(config))
        except (ValueError, TypeError, RuntimeError, LookupError, AttributeError, ImportError) as error:
            raise GeometryBenchError(
                f"no untrained twin of {subject.identity.name} ({kind.__name__}) can be built: {first_sentence(error)}"
            ) from error
        finally:
            torch.set_default_dtype(before)
        model = model.to(device=subject.device, dtype=getattr(torch, subject.dtype))
        model.eval()
        model.requires_grad_(False)
    identity = replace(
        subject.identity,
        name=name,
        origin="untrained",
        path=None,
        revision=f"untrained:{_content(config, kind, seed)}",
        adapter=None,
        adapter_hash=None,
    )
    return Subject.checked(subject.spec, identity, model, subject.tokenizer, tokenizer_hash=subject.tokenizer_hash)


def _content(config: Any, kind: type, seed: int) -> str:
    """Hash of all that decides the weights, but for the versions of the libraries."""
    settings = {key: str(value) for key, value in config.to_dict().items() if key != "_name_or_path"}
    return digest([kind.__name__, settings, seed])
