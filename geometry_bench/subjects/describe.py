"""What a ``config.json`` says about a model: is it a text decoder, and of what size? Imports no torch.

Read as plain JSON, so that bad input is refused before any heavy library is imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geometry_bench.errors import GeometryBenchError

_NESTED_TEXT = ("text_config", "llm_config", "language_config", "decoder")
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_WIDTH_KEYS = ("hidden_size", "n_embd", "d_model", "dim")
OTHER_PARTS = (
    *("vision", "visual", "image", "audio", "speech", "video", "encoder"),
    *("projector", "resampler", "talker", "token2wav", "mtp", "nextn"),
)
"""Words in the names of modules that are no part of a text model's pass: towers, bridges, multi-token prediction."""
_GENERATES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForImageTextToText")
_NO_TEXT_OUT = (
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
    "ForNextSentencePrediction",
    "ForPreTraining",
    "ForImageClassification",
)
_ENCODERS = frozenset(
    {
        "albert",
        "bert",
        "big_bird",
        "camembert",
        "clip",
        "convbert",
        "deberta",
        "deberta-v2",
        "distilbert",
        "electra",
        "ernie",
        "esm",
        "eurobert",
        "funnel",
        "layoutlm",
        "longformer",
        "megatron-bert",
        "mobilebert",
        "modernbert",
        "mpnet",
        "nomic_bert",
        "roberta",
        "roberta-prelayernorm",
        "siglip",
        "squeezebert",
        "vit",
        "xlm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xlnet",
        "xmod",
    }
)
_ENCODER_DECODERS = frozenset(
    {
        "bart",
        "blenderbot",
        "blenderbot-small",
        "fsmt",
        "led",
        "longt5",
        "m2m_100",
        "marian",
        "mbart",
        "mt5",
        "mvp",
        "pegasus",
        "pegasus_x",
        "plbart",
        "prophetnet",
        "switch_transformers",
        "t5",
        "t5gemma",
        "umt5",
        "whisper",
    }
)


def read_json(path: Path) -> Mapping[str, Any]:
    """The JSON object in a file; GeometryBenchError when it is unreadable or something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GeometryBenchError(f"{path} is not readable JSON ({error}); restore or download it again.") from error
    if not isinstance(value, dict):
        raise GeometryBenchError(f"{path} holds {type(value).__name__} instead of a JSON object; restore it.")
    return value


def describe(config: Mapping[str, Any], subject: str, path: Path | None = None) -> tuple[str, int, int]:
    """Architecture, number of decoder blocks and width that a ``config.json`` declares.

    ``path`` is the file itself: wrappers that leave their text model's sizes to the defaults of its family are then
    completed by transformers (the one case that imports it). Raises GeometryBenchError for anything but a text decoder.
    """
    model_type = str(config.get("model_type", "unknown"))
    declared = config.get("architectures")
    architecture = declared[0] if isinstance(declared, list) and declared else model_type
    refuse_non_decoder(config, subject)
    layers, width = sizes(config)
    if (layers is None or width is None) and path is not None:
        layers, width = _completed(path)
    if layers is None or width is None:
        raise GeometryBenchError(
            f"The configuration of {subject} (model type {model_type}) names no number of layers or no width; it is not "
            "a text decoder that can be measured."
        )
    return str(architecture), layers, width


def sizes(config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Number of decoder blocks and width that a ``config.json`` declares, None where it leaves them to defaults."""
    text = next((config[key] for key in _NESTED_TEXT if isinstance(config.get(key), dict)), config)
    layers, width = (_first_int(text, keys) or _first_int(config, keys) for keys in (_LAYER_KEYS, _WIDTH_KEYS))
    return layers, width


def refuse_non_decoder(config: Mapping[str, Any], subject: str) -> None:
    """Raise GeometryBenchError when the configuration is that of an encoder-only or an encoder-decoder model."""
    model_type = str(config.get("model_type", "unknown"))
    declared = config.get("architectures")
    architecture = str(declared[0]) if isinstance(declared, list) and declared else model_type
    if config.get("is_encoder_decoder") is True or model_type in _ENCODER_DECODERS:
        raise GeometryBenchError(
            f"{subject} is an encoder-decoder model ({architecture}); only decoder language models can be measured."
        )
    is_encoder = model_type in _ENCODERS and config.get("is_decoder") is not True
    if is_encoder or (architecture.endswith(_NO_TEXT_OUT) and not architecture.endswith(_GENERATES)):
        raise GeometryBenchError(
            f"{subject} is not a generating language model ({architecture}, model type {model_type}: an encoder or a "
            "classifier); only decoder language models can be measured."
        )


def _first_int(config: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    for key in keys:
        value = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _completed(path: Path) -> tuple[int | None, int | None]:
    """Layers and width with the family's defaults filled in, or None where transformers does not know them either."""
    from transformers import AutoConfig

    try:
        text = AutoConfig.from_pretrained(str(path.parent)).get_text_config(decoder=True)
    except (OSError, ValueError, KeyError):
        return None, None
    return getattr(text, "num_hidden_layers", None), getattr(text, "hidden_size", None)
