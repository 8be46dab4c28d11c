"""A README of a model with our part in it: metadata in its first block, markdown between markers, the rest as it was."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from geometry_bench.errors import GeometryBenchError
from geometry_bench.records.judgement import Judgement
from geometry_bench.report.card import BEGIN, DATASET, END, eval_results, model_index, section

KEY = "model-index"
_BOM = "\ufeff"


def new_readme(judged: Sequence[Judgement]) -> str:
    """A whole card: metadata, and the section as its text."""
    return with_card("", judged)


def with_card(readme: str, judged: Sequence[Judgement]) -> str:
    """The README with our section and our results in its ``model-index``; the same again if it has them already.

    Everything else stays as it is, to the byte: other metadata with their comments, results of others, line ends.

    Raises:
        GeometryBenchError: its metadata cannot be read, or its markers are not one pair.
    """
    start = _BOM if readme.startswith(_BOM) else ""
    end = "\r\n" if "\r\n" in readme else "\n"
    text = readme.removeprefix(_BOM)
    merged = _with_metadata(_with_section(text, section(judged), end), model_index(judged), end)
    _check(merged, text, judged)
    return start + merged


def _with_section(text: str, body: str, end: str) -> str:
    ours = body.replace("\n", end)
    begins, ends = text.count(BEGIN), text.count(END)
    if begins == ends == 0:
        return f"{text.rstrip()}{end}{end}{ours}{end}" if text.strip() else f"{ours}{end}"
    first, last = text.find(BEGIN), text.find(END)
    if (begins, ends) != (1, 1) or last < first:
        raise GeometryBenchError(
            f"The README has {begins} opening and {ends} closing lines of a geometry-bench card: leave one of each, in "
            "order, or none."
        )
    return text[:first] + ours + text[last + len(END) :]


def _with_metadata(text: str, index: list[dict[str, Any]], end: str) -> str:
    from huggingface_hub.repocard import REGEX_YAML_BLOCK
    from huggingface_hub.utils import yaml_dump  # type: ignore[attr-defined]

    block = REGEX_YAML_BLOCK.search(text)
    known = _loaded(block[2]) if block else {}
    data = yaml_dump({KEY: _merged(known.get(KEY), index)}, sort_keys=False, line_break=end)
    if block is None:
        return f"---{end}{data}---{end}{text}"
    return text[: block.start(2)] + _replaced(block[2], data, end, KEY in known) + text[block.end(2) :]


def _merged(known: Any, index: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results of others in their order, then ours."""
    if not known:
        return index
    if not isinstance(known, list) or not all(isinstance(one, dict) for one in known):
        raise GeometryBenchError(f"The README's {KEY} is not a list of models: mend its metadata first.")
    mine = index[0]["results"]
    kept = [{**one, "results": [found for found in one.get("results") or [] if not _is_ours(found)]} for one in known]
    return [{**kept[0], "results": [*kept[0]["results"], *mine]}, *kept[1:]]


def _is_ours(result: Any) -> bool:
    dataset = result.get("dataset") if isinstance(result, dict) else None
    return isinstance(dataset, dict) and dataset.get("type") == DATASET


def _replaced(yaml: str, data: str, end: str, is_there: bool) -> str:
    """The metadata's text with one key of its first level replaced, or added as the last."""
    data = data.rstrip()
    if not is_there:
        return f"{yaml.rstrip()}{end}{data}" if yaml.strip() else data
    lines = yaml.splitlines(keepends=True)
    first = next((place for place, line in enumerate(lines) if re.match(rf"{KEY}\s*:", line)), None)
    if first is None:
        raise GeometryBenchError(
            f"The README's {KEY} is written in a way that cannot be replaced: put it on lines of its own."
        )
    last = first + 1
    while last < len(lines) and re.match(r"[ \t-]|\s*$", lines[last]):
        last += 1
    after = "".join(lines[last:])
    return "".join(lines[:first]) + data + (f"{end}{after}" if after else "")


def _loaded(yaml_text: str) -> dict[str, Any]:
    import yaml

    try:
        data = yaml.safe_load(yaml_text)
    except yaml.YAMLError as error:
        raise GeometryBenchError(f"The README's metadata cannot be read ({' '.join(str(error).split())}).") from None
    if data is not None and not isinstance(data, dict):
        raise GeometryBenchError("The README's metadata are no list of keys and values: mend them first.")
    return data or {}


def _check(merged: str, before: str, judged: Sequence[Judgement]) -> None:
    """Whether the Hub's own library reads what was written, and nothing else has changed.

    Raises:
        GeometryBenchError: it does not.
    """
    from huggingface_hub import ModelCard, ModelCardData
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    try:
        data = ModelCard(merged).data
    except (ValueError, TypeError, KeyError) as error:
        raise GeometryBenchError(f"The README's metadata are not what the Hub takes ({error}).") from None
    found = data.eval_results or [] if isinstance(data, ModelCardData) else []
    blocks = [REGEX_YAML_BLOCK.search(text) for text in (before, merged)]
    others = [{k: v for k, v in _loaded(block[2] if block else "").items() if k != KEY} for block in blocks]
    if others[0] != others[1] or any(one not in found for one in eval_results(judged)):
        raise GeometryBenchError(f"The README's metadata cannot be merged: put {KEY} on lines of its own.")
