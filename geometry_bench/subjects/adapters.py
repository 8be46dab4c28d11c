"""Put a PEFT adapter on a loaded model."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects.blocks import find_backbone, input_device
from geometry_bench.subjects.spec import SubjectSpec


def first_sentence(error: BaseException) -> str:
    """First line of a library's message (two where the first only announces), so that the user reads one sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:2] if lines[0].endswith(":") else lines[:1])[:300]


def refuse_prompt_learning(config: Any, adapter: str) -> None:
    """Raise GeometryBenchError for a PEFT configuration that puts learnt tokens before a prompt."""
    if config.is_prompt_learning:
        raise GeometryBenchError(
            f"The adapter {adapter} learns a prompt instead of changing layers; only adapters inside layers "
            "(LoRA and its kin) can be measured."
        )


def with_adapter(spec: SubjectSpec, model: nn.Module) -> nn.Module:
    """Put a PEFT adapter on, unmerged: merging loses accuracy in half precision."""
    from peft import PeftConfig, PeftModel

    folder = Path(str(spec.adapter)).expanduser()
    try:
        refuse_prompt_learning(PeftConfig.from_pretrained(str(folder)), str(folder))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            adapted = PeftModel.from_pretrained(cast(Any, model), str(folder), is_trainable=False)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise GeometryBenchError(
            f"The adapter {folder} does not fit the model {spec.model}: {first_sentence(error)}"
        ) from error
    _refuse_homeless(adapted, folder, spec.model)
    lacking = [str(entry.message) for entry in caught if "missing adapter keys" in str(entry.message).lower()]
    if lacking:
        raise GeometryBenchError(
            f"The adapter {folder} lacks weights that its configuration names, which would be random: {lacking[0][:200]}"
        )
    return cast(nn.Module, adapted)


def _refuse_homeless(adapted: Any, folder: Path, model: str) -> None:
    """Raise GeometryBenchError for stored weights that found no place, which PEFT passes over in silence."""
    from peft import get_peft_model_state_dict
    from peft.utils.save_and_load import load_peft_weights

    known = {*get_peft_model_state_dict(adapted), *adapted.state_dict()}
    homeless = sorted(name for name in load_peft_weights(str(folder), device="cpu") if name not in known)
    if homeless:
        raise GeometryBenchError(
            f"The adapter {folder} holds {len(homeless)} weights that {model} has no place for ({homeless[0]} the first); "
            "it was made for another model."
        )


def adapter_notes(model: nn.Module) -> list[str]:
    """A sentence where the adapters in effect change nothing of what the model computes."""
    if not hasattr(model, "disable_adapter"):
        return []
    backbone = find_backbone(model)
    ids = torch.arange(1, 9, device=input_device(backbone))[None]

    def output() -> Tensor:
        with torch.no_grad():
            return cast(Tensor, backbone(input_ids=ids, use_cache=False).last_hidden_state)

    changed = output()
    with cast(Any, model).disable_adapter():
        same = torch.equal(changed, output())
    return ["the adapter changes nothing: the model answers the same without it"] if same else []
