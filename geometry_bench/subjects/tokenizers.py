"""The tokenizer of a subject: the model folder's own, or the one (or the chat template alone) that an adapter brings."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects import hashing
from geometry_bench.subjects.adapters import first_sentence
from geometry_bench.subjects.describe import read_json
from geometry_bench.subjects.spec import SubjectSpec, has_tokenizer
from geometry_bench.subjects.tokenizing import as_files_have_it

_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_PROBE = "Name the colour of a clear sky at noon."


def load_tokenizer(spec: SubjectSpec, folder: Path, name: str) -> tuple[Any, str, tuple[str, ...]]:
    """Tokenizer, its hash, and notes on where it comes from; ``folder`` may be a GGUF file.

    Raises GeometryBenchError when it cannot be loaded.
    """
    tokenizer, notes = _from_folder(spec, folder, name)
    folders = [folder]
    if spec.adapter is not None:
        adapter = Path(spec.adapter).expanduser()
        tokenizer, of_adapter = _with_adapter(spec, tokenizer, adapter)
        folders += [adapter] if of_adapter else []
        notes += of_adapter
    return tokenizer, hashing.tokenizer_hash(*folders), tuple(notes)


def refuse_mute(tokenizer: Any, name: str) -> None:
    """Raise GeometryBenchError for a tokenizer that makes no token of plain words, or only the unknown one."""
    ids = set(tokenizer(_PROBE, add_special_tokens=False)["input_ids"])
    if ids <= {tokenizer.unk_token_id}:
        made = "only unknown tokens" if ids else "no token"
        raise GeometryBenchError(
            f"The tokenizer of {name} makes {made} of a plain English sentence; give the model with its own vocabulary."
        )


def _with_adapter(spec: SubjectSpec, base: Any, adapter: Path) -> tuple[Any, list[str]]:
    """The tokenizer that an adapter was trained with, and what of it is not the model's own."""
    notes = []
    own = _from_folder(spec, adapter, f"the adapter {adapter.name}")[0] if has_tokenizer(adapter) else base
    if own.get_vocab() != base.get_vocab():
        notes.append("the adapter's own tokenizer is used, not that of the model")
    template = _template(adapter) if own is base else own.chat_template
    if template is not None and template != base.chat_template:
        notes.append("the adapter's own chat template is used, not that of the model")
    chosen = own if notes else base
    chosen.chat_template = template or base.chat_template
    return chosen, notes


def _template(adapter: Path) -> Any:
    """The chat template that lies in an adapter's folder, None where there is none."""
    for file in (adapter / name for name in _TEMPLATES):
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            return text if file.suffix == ".jinja" else read_json(file).get("chat_template")
    config = adapter / "tokenizer_config.json"
    return read_json(config).get("chat_template") if config.is_file() else None


def _from_folder(spec: SubjectSpec, folder: Path, name: str) -> tuple[Any, list[str]]:
    """The tokenizer of a folder, or of a GGUF file, and what was substituted in it."""
    from transformers import AutoTokenizer

    place, options = (folder.parent, {"gguf_file": folder.name}) if folder.is_file() else (folder, {})
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(place), trust_remote_code=spec.trust_remote_code, **options)
    except Exception as error:  # the Rust tokenizers raise bare Exception for a broken file
        sentencepiece = any(folder.glob("*.model")) and not (folder / "tokenizer.json").is_file()
        if sentencepiece and importlib.util.find_spec("sentencepiece") is None:
            raise GeometryBenchError(
                f"The tokenizer of {name} is a sentencepiece model, and sentencepiece is not installed; install it, or save "
                "a tokenizer.json next to the weights."
            ) from error
        raise GeometryBenchError(f"The tokenizer of {name} cannot be loaded: {first_sentence(error)}") from error
    return as_files_have_it(tokenizer, folder, name) if folder.is_dir() else (tokenizer, [])
