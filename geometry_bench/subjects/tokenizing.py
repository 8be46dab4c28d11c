"""A checkpoint's tokenizer with its chat template, as its files have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects.describe import read_json

_TEXTS = ("How do kites fly?", "  two  spaces\n\n and\ta tab", "Größe: 1,000 = 10³ 🙂")
"""What a tokenizer has to read as its tokenizer.json does."""
TEMPLATE_FILES = ("chat_template.json", "processor_config.json")
"""Where processors keep a chat template, which a tokenizer does not look for."""


def as_files_have_it(tokenizer: Any, folder: Path, name: str) -> tuple[Any, list[str]]:
    """The tokenizer of a model folder as its own files have it, and what was substituted in it.

    Raises:
        GeometryBenchError: it loses characters that its tokenizer.json keeps.
    """
    notes: list[str] = []
    if (folder / "tokenizer.json").is_file() and getattr(tokenizer, "is_fast", False):
        tokenizer, notes = _as_stored(tokenizer, folder, name)
    return tokenizer, [*notes, *_template_from_files(tokenizer, folder)]


def _as_stored(tokenizer: Any, folder: Path, name: str) -> tuple[Any, list[str]]:
    """The tokenizer as its tokenizer.json has it, where transformers made one of it that loses characters."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    stored = Tokenizer.from_file(str(folder / "tokenizer.json"))
    stored.no_truncation()
    stored.no_padding()
    expected = [stored.encode(text, add_special_tokens=False).ids for text in _TEXTS]

    def ids(one: Any) -> list[list[int]]:
        return [list(one(text, add_special_tokens=False)["input_ids"]) for text in _TEXTS]

    if ids(tokenizer) == expected:
        return tokenizer, []
    if tokenizer.decode(ids(tokenizer)[0]).strip() == _TEXTS[0] or stored.decode(expected[0]).strip() != _TEXTS[0]:
        return tokenizer, [
            "the tokenizer gives other token ids than its tokenizer.json: transformers reads it differently"
        ]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
    if ids(tokenizer) != expected:
        raise GeometryBenchError(
            f"The tokenizer of {name} loses characters that its tokenizer.json keeps; update transformers to 5.22 or newer."
        )
    return tokenizer, ["the tokenizer is read from its tokenizer.json alone: transformers' class for it drops spaces"]


def _template_from_files(tokenizer: Any, folder: Path) -> list[str]:
    """Give the tokenizer the chat template that stands in a processor's file, if it has none of its own."""
    for file in TEMPLATE_FILES:
        template = read_json(folder / file).get("chat_template") if (folder / file).is_file() else None
        if isinstance(template, list):  # as tokenizer_config.json may name several
            template = {str(one.get("name")): one.get("template") for one in template if isinstance(one, dict)}
        if template and tokenizer.chat_template is None:
            tokenizer.chat_template = template
            return [f"the chat template is taken from {file}"]
        if template and template != tokenizer.chat_template:
            return [f"the chat template of {file} differs from the tokenizer's and is not used"]
    if tokenizer.chat_template is None and (folder / "tekken.json").is_file():
        return ["tekken.json holds no chat template: put one in chat_template.jinja to have prompts rendered as a chat"]
    return []
