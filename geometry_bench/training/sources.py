"""Rows of training data from the three kinds of sources. Imports no torch; `datasets` and `pyarrow` only when needed.

A row is ``{"text": str}``, ``{"messages": [...]}`` with the assistant's answer last, or ``{"prompt": [...], "chosen": str,
"rejected": str}`` where prompt is a list of messages; a message is ``{"role": ..., "content": ...}``.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from geometry_bench.checked import did_you_mean
from geometry_bench.errors import GeometryBenchError
from geometry_bench.hub import data_set
from geometry_bench.prompts.tables import equal, need_column, read_rows
from geometry_bench.resources import data_root
from geometry_bench.training.recipe import Source

Row = dict[str, Any]
Generators = Mapping[str, Callable[[str, int], Iterator[Row]]]


@functools.cache
def generators() -> Generators:
    """The zoo's text generators: name -> f(split, seed), endless."""
    folder = data_root() / "fixtures" / "zoo"
    if not (folder / "zootext" / "sources.py").is_file():
        raise GeometryBenchError(
            f"This installation has no text generators (no zootext in {folder}); use files instead."
        )
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module("zootext.sources")
    finally:
        sys.path.remove(str(folder))
    return cast("Generators", module.GENERATORS)


def generator(name: str) -> Callable[[str, int], Iterator[Row]]:
    """One generator by name. Raises GeometryBenchError naming those that there are."""
    known = generators()
    if name not in known:
        raise GeometryBenchError(
            f"There is no generator {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}."
        )
    return known[name]


def check(source: Source, method: str, data: Path | None) -> None:
    """Faults of a source that can be found before anything is trained: its name, its file, its columns.

    Raises GeometryBenchError. A data set of the Hub is looked at when its turn comes.
    """
    if source.kind == "generator":
        _convert(next(generator(source.name)("train", 0)), {}, method, _label(source))
    elif source.kind == "file":
        first = next(read_rows(find(source, data)), None)
        if first is None:
            raise GeometryBenchError(f"{_label(source)} is empty.")
        _need(source.where, first, _label(source))
        _convert(first, source.columns, method, _label(source))


def rows(source: Source, method: str, *, data: Path | None = None, scale: float = 1.0) -> Iterator[Row]:
    """The source's rows in the order of training's input; ``count`` times ``scale`` of them, at least one.

    A generator without ``count`` is endless. Raises GeometryBenchError: unknown generator, missing file or column, no row.
    """
    count = None if source.count is None else max(1, round(source.count * scale))
    if source.kind == "generator":
        assert source.seed is not None, "checked when the recipe was read"
        made = generator(source.name)("train", source.seed)
        yield from (_convert(row, {}, method, _label(source)) for row in itertools.islice(made, count))
        return
    hub = source.kind == "dataset"
    found = _dataset_rows(source) if hub else _kept(list(read_rows(find(source, data))), source)
    if not found:
        kept = " with " + ", ".join(f"{k} = {v}" for k, v in source.where.items()) if source.where else ""
        raise GeometryBenchError(f"{_label(source)} has no rows{kept}.")
    order = list(range(len(found)))
    if source.seed is not None:
        random.Random(source.seed).shuffle(order)
    if count is None and scale < 1:
        count = max(1, round(len(order) * scale))
    for i in order[:count]:
        yield _convert(found[i], source.columns, method, _label(source))


# Files


def find(source: Source, data: Path | None) -> Path:
    """The file of a source: in the folder ``data`` where there is one, else beside the recipe."""
    name = Path(source.name).expanduser()
    beside = Path(source.beside or ".") / name
    places = [beside] if data is None else [data / name, data / name.name, beside]
    for path in places:
        if path.is_file():
            return path
    where = f", nor in {data}" if data is not None else "; name the folder that holds it with --data"
    raise GeometryBenchError(f"There is no data file {beside}{where}.")


# The Hub


def _dataset_rows(source: Source) -> Any:
    found = data_set(source.name, source.config, source.split, source.revision)
    for key in source.where:
        if key not in found.column_names:
            _need(source.where, dict.fromkeys(found.column_names), _label(source))
    if source.where:
        wanted = dict(source.where)
        columns = list(wanted)
        found = found.filter(
            lambda *values: all(a == wanted[key] for key, a in zip(columns, values, strict=True)),
            input_columns=columns,
        )
    return found


# Rows


def _label(source: Source) -> str:
    return {"generator": "The generator", "dataset": "The data set", "file": "The data file"}[
        source.kind
    ] + f" {source.name}"


def _kept(found: Sequence[Row], source: Source) -> Sequence[Row]:
    if not source.where or not found:
        return found
    _need(source.where, found[0], _label(source))
    return [row for row in found if all(equal(row.get(key), value) for key, value in source.where.items())]


def _need(keys: Iterable[str], row: Mapping[str, Any], label: str) -> None:
    for key in keys:
        need_column(key, row, label)


def _convert(row: Row, columns: Mapping[str, Any], method: str, label: str) -> Row:
    return _pair(row, columns, label) if method == "dpo" else _example(row, columns, label)


def _example(row: Row, columns: Mapping[str, Any], label: str) -> Row:
    """A row for pretraining or supervised fine-tuning; without declared columns, the usual names are looked for."""
    if not columns:
        for names in (("messages",), ("text",), ("prompt", "response")):
            if all(name in row for name in names):
                columns = {name: name for name in names}
                break
        else:
            raise GeometryBenchError(
                f"{label} has neither messages, text nor prompt and response; say in the recipe which of its columns "
                f"({', '.join(row)}) hold them."
            )
    if "text" in columns:
        _need([columns["text"]], row, label)
        return {"text": _string(row[columns["text"]], columns["text"], label)}
    if "messages" in columns:
        _need([columns["messages"]], row, label)
        messages = _messages(row[columns["messages"]], columns["messages"], label)
        if messages[-1]["role"] != "assistant":
            raise GeometryBenchError(f"{label} has a conversation that does not end with the assistant's answer.")
        return {"messages": messages}
    if "prompt" not in columns or "response" not in columns:
        raise GeometryBenchError(f"{label} needs columns for `prompt` and `response`, or `messages`, or `text`.")
    _need([columns["prompt"], columns["response"]], row, label)
    prompt = _messages(row[columns["prompt"]], columns["prompt"], label)
    answer = _string(row[columns["response"]], columns["response"], label)
    return {"messages": [*prompt, {"role": "assistant", "content": answer}]}


def _pair(row: Row, columns: Mapping[str, Any], label: str) -> Row:
    columns = columns or {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
    prompt = columns.get("prompt", "prompt")
    if "responses" in columns:
        names = columns["responses"]
        _need([prompt, *names, columns["chosen_index"]], row, label)
        index = row[columns["chosen_index"]]
        if index not in (0, 1, "0", "1"):
            raise GeometryBenchError(f"{label} says {index!r} in {columns['chosen_index']}, which is neither 0 nor 1.")
        chosen, rejected = names[int(index)], names[1 - int(index)]
    else:
        chosen, rejected = columns.get("chosen", "chosen"), columns.get("rejected", "rejected")
        _need([prompt, chosen, rejected], row, label)
    return {
        "prompt": _messages(row[prompt], prompt, label),
        "chosen": _string(row[chosen], chosen, label),
        "rejected": _string(row[rejected], rejected, label),
    }


def _string(value: Any, column: str, label: str) -> str:
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        value = value[-1].get("content")  # a conversation whose last message is what counts
    if not isinstance(value, str):
        raise GeometryBenchError(f"{label} has {type(value).__name__} in the column {column!r} where text is needed.")
    return value


def _messages(value: Any, column: str, label: str) -> list[dict[str, str]]:
    """Messages of a prompt or conversation; plain text is one message of the user."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    good = isinstance(value, list) and len(value) > 0
    if not good or not all(isinstance(m, dict) and isinstance(m.get("content"), str) and "role" in m for m in value):
        raise GeometryBenchError(f"{label} has no list of messages (role, content) in the column {column!r}.")
    return [{"role": str(m["role"]), "content": m["content"]} for m in value]
