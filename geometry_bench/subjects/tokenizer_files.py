"""What a tokenizer that transformers has made must have of its folder's files: token ids and chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects.describe import read_json

_TEXTS = ("How do kites fly?", "  two  spaces\n\n and\ta tab", "Größe: 1,000 = 10³ 🙂")
"""What a tokenizer has to read as its tokenizer.json does."""
PROCESSOR_FILES = ("chat_template.json", "processor_config.json")
"""Where processors keep a chat template, which a tokenizer does not look for."""
TEMPLATE_FILES = ("chat_template.jinja", *PROCESSOR_FILES, "tokenizer_config.json")


def as_stored(tokenizer: Any, folder: Path, name: str) -> tuple[Any, list[str]]:
    """The tokenizer as its tokenizer.json has it, where transformers made one of it that loses characters; and notes.

    Raises:
        GeometryBenchError: even then it loses some.
    """
    if not (folder / "tokenizer.json").is_file() or not getattr(tokenizer, "is_fast", False):
        return tokenizer, []
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


def own_template(folder: Path, among: Sequence[str] = TEMPLATE_FILES) -> tuple[Any, str | None]:
    """The chat template in a folder, the first of the files that holds one, and its name; None where there is none."""
    for file in (folder / name for name in among):
        if file.is_file():
            template = (
                file.read_text(encoding="utf-8") if file.suffix == ".jinja" else read_json(file).get("chat_template")
            )
            if isinstance(template, list):  # several by name
                template = {str(one.get("name")): one.get("template") for one in template if isinstance(one, dict)}
            if template:
                return template, file.name
    return None, None


def with_template(tokenizer: Any, folder: Path) -> list[str]:
    """Give a tokenizer without a chat template the one that stands in another file of its folder; returns notes."""
    found, file = own_template(folder, TEMPLATE_FILES if tokenizer.chat_template is None else PROCESSOR_FILES)
    if tokenizer.chat_template is None and file is not None:
        tokenizer.chat_template = found
        return [f"the chat template is taken from {file}"]
    if file is not None and found != tokenizer.chat_template:
        return [f"the chat template of {file} differs from the tokenizer's and is not used"]
    if tokenizer.chat_template is None and (folder / "tekken.json").is_file():
        return ["tekken.json holds no chat template: put one in chat_template.jinja to have prompts rendered as a chat"]
    return []
