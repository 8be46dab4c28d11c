"""Bring a pinned checkpoint into memory, ready to be measured, or refuse it in one sentence.

Imports torch on top: only modules that measure may import this one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from geometry_bench import hub
from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects import gguf, hashing
from geometry_bench.subjects.adapters import adapter_notes, first_sentence, with_adapter
from geometry_bench.subjects.describe import read_json
from geometry_bench.subjects.quantised import DEQUANTISED, dequantise, method_of, quantisation_of, refuse_unapplied
from geometry_bench.subjects.quiet import quiet_transformers
from geometry_bench.subjects.settings import device_of, dtype_of, has_accelerate, stored_tensors
from geometry_bench.subjects.spec import Identity, SubjectSpec, has_tokenizer, resolve
from geometry_bench.subjects.subject import Subject
from geometry_bench.subjects.tokenizers import load_tokenizer
from geometry_bench.subjects.unused import unused_notes
from geometry_bench.subjects.values import refuse_bad_values

_SNAPSHOT_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.py")


def load(spec: SubjectSpec, identity: Identity | None = None) -> Subject:
    """Load the checkpoint that ``identity`` pins (``resolve(spec)`` when None), check it, and return it.

    dtype "auto": float32 for models under 1.5 billion parameters, the checkpoint's own dtype above that.
    Name a dtype to have a half-precision checkpoint computed as it is stored.
    device "auto": cuda, else mps, else cpu. The attention kernel is sdpa where the architecture supports it, else eager.

    Raises GeometryBenchError: everything ``resolve`` raises; unknown dtype, device or kernel; missing peft or
    accelerate; weights that are missing, of another shape, NaN or infinite; blocks that fail the self-check.
    """
    identity = identity if identity is not None else resolve(spec)
    folder = identity.path if identity.path is not None else _download(spec, identity)
    identity = replace(identity, path=folder)
    quantisation = _quantisation(spec, folder)
    with quiet_transformers():
        device, device_map = device_of(spec.device)
        dtype = dtype_of(spec, folder)
        model, unused = _model(spec, folder, identity.name, dtype, device, device_map)
        notes = unused_notes(model, unused)
        if quantisation is not None:
            refuse_unapplied(unused, quantisation, identity.name)
            notes += dequantise(model, quantisation, dtype)
        if folder.suffix == gguf.SUFFIX:
            identity = replace(identity, architecture=type(model).__name__)
        if spec.adapter is not None:
            model = with_adapter(spec, model)
        model.eval()
        model.requires_grad_(False)
        refuse_bad_values(model, folder, spec)
        tokenizer, digest, of_tokenizer = load_tokenizer(spec, folder, identity.name)
        try:
            return Subject.checked(
                spec,
                identity,
                model,
                tokenizer,
                tokenizer_hash=digest,
                unused_tensors=unused,
                quantisation=quantisation,
                notes=(*notes, *adapter_notes(model), *of_tokenizer),
            )
        except (ValueError, TypeError, RuntimeError, LookupError, AttributeError, ImportError) as error:
            raise GeometryBenchError(
                f"{identity.name} ({type(model).__name__}) cannot run a short prompt: {first_sentence(error)}"
            ) from error


# Files


def _quantisation(spec: SubjectSpec, folder: Path) -> str | None:
    if folder.suffix == gguf.SUFFIX:
        return gguf.read(folder).quantisation
    return quantisation_of(stored_tensors(spec, folder), read_json(folder / "config.json"))


def _download(spec: SubjectSpec, identity: Identity) -> Path:
    patterns = [*_SNAPSHOT_FILES, *(("*.bin",) if spec.allow_pickle else ())]
    folder = hub.snapshot(identity.name, identity.revision, patterns)
    hashing.weight_files(folder, allow_pickle=spec.allow_pickle)
    if not has_tokenizer(folder):
        raise GeometryBenchError(f"{identity.name} has no tokenizer at revision {identity.revision[:12]}.")
    return folder


# Model


def _auto_class(config: Any) -> Any:
    """The auto class whose table knows this configuration: text decoders first, then multimodal wrappers.

    A text model that was saved out of a wrapper stands in no table; its configuration names its class.
    """
    import transformers

    auto_map = getattr(config, "auto_map", None) or {}
    for name in ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM"):
        auto = getattr(transformers, name, None)
        if auto is not None and (type(config) in auto._model_mapping or name in auto_map):
            return auto
    declared = (getattr(config, "architectures", None) or [""])[0]
    return getattr(transformers, declared, transformers.AutoModelForCausalLM)


def _model(
    spec: SubjectSpec,
    folder: Path,
    name: str,
    dtype: torch.dtype | str,
    device: torch.device,
    device_map: str | None,
) -> tuple[nn.Module, tuple[str, ...]]:
    """The model on its device, and the names of stored tensors that it has no place for."""
    from safetensors import SafetensorError
    from transformers import AutoConfig

    place = folder
    options: dict[str, Any] = {"trust_remote_code": spec.trust_remote_code}
    if folder.suffix == gguf.SUFFIX:
        place, options = folder.parent, options | gguf.options(folder)
    else:
        hashing.weight_files(folder, allow_pickle=spec.allow_pickle)
    if spec.attention is not None:
        options["attn_implementation"] = spec.attention
    if device_map is not None:
        options["device_map"] = device_map
    elif device.type != "cpu":
        options["device_map"] = {"": device} if has_accelerate() else None
    try:
        known = {key: options[key] for key in ("trust_remote_code", "gguf_file") if key in options}
        config = AutoConfig.from_pretrained(str(place), **known)
        settings = getattr(config, "quantization_config", None)
        if isinstance(settings, dict) and method_of(config) in DEQUANTISED and device.type == "cpu":
            settings["dequantize"] = True  # or a GPU of the machine would decide
        model, info = _auto_class(config).from_pretrained(
            str(place),
            config=config,
            dtype=dtype,
            use_safetensors=None if spec.allow_pickle else True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below by name; the library's own message names none
            **options,
        )
    except SafetensorError as error:
        raise GeometryBenchError(f"The weights of {name} are not readable ({error}); download them again.") from error
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise GeometryBenchError(
                f"{name} does not fit into the memory of {device}; use --device map, or --dtype bfloat16."
            ) from error
        if spec.attention is not None and "attn" in str(error).lower():
            raise GeometryBenchError(
                f"The attention kernel {spec.attention!r} is unknown, not installed, or not supported by {name}; use "
                "sdpa or eager."
            ) from error
        if "trust_remote_code" in str(error) and not spec.trust_remote_code:
            raise GeometryBenchError(
                f"{name} needs code of its own to run; pass --trust-remote-code if you trust its author."
            ) from error
        raise GeometryBenchError(f"{name} cannot be loaded: {first_sentence(error)}") from error
    _refuse_incomplete(info, name)
    if device_map is None and options.get("device_map") is None:
        model = model.to(device)
    return cast(nn.Module, model), tuple(sorted(str(key) for key in info.get("unexpected_keys", ())))


def _refuse_incomplete(info: dict[str, Any], name: str) -> None:
    """A claim must never be measured on tensors that the library filled with random numbers."""
    missing = sorted(str(key) for key in info.get("missing_keys", ()))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise GeometryBenchError(
            f"The checkpoint of {name} lacks the weights {missing[0]}{more}, which would be random; give a complete one."
        )
    entries = info.get("mismatched_keys", ())  # (name, stored shape, expected shape)
    mismatched = sorted(str(entry[0] if isinstance(entry, tuple | list) else entry) for entry in entries)
    if mismatched:
        raise GeometryBenchError(
            f"The checkpoint of {name} holds {mismatched[0]} in another shape than config.json says; they do not belong "
            "together."
        )
    errors = list(info.get("error_msgs", ()) or ())
    if errors:
        raise GeometryBenchError(f"{name} cannot be loaded: {str(errors[0]).splitlines()[0][:300]}")
