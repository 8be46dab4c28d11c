"""From the rows of a table to requests: which column holds them, which rows are kept, what is left out and why.

Imports no torch.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from geometry_bench.errors import GeometryBenchError
from geometry_bench.prompts.collection import Request
from geometry_bench.prompts.tables import Row, equal, need_column

USUAL_COLUMNS = (
    "prompt", "request", "instruction", "goal", "behavior", "question", "problem", "query", "forbidden_prompt", "text",
    "input", "messages", "conversations", "conversation",
)  # fmt: skip
"""The columns looked for, in this order and in any case, where none is named; a single column needs none of these names."""

_BEHAVIOURS = {"Behavior", "SemanticCategory", "ContextString"}  # HarmBench's own csv
_CONTRASTS = {"prompt", "type", "focus"}  # XSTest's own csv
_LABEL, _BOTH = "label", {"safe", "unsafe"}
_LOOKED_AT = 100
"""Rows whose columns are taken for the table's: in json lines a row may lack some."""
_USERS = ("user", "human", "prompter")


@dataclass(frozen=True)
class Asked:
    """What a caller asks of a table: where its requests and topics stand, which rows are kept, how many are drawn."""

    column: str | None = None
    topic: str | None = None
    where: Mapping[str, Any] | None = None
    count: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Reading:
    """The requests of a table, the column they were read from, and the rows left out by reason.

    ``mixed`` says that the table's own label calls some of them safe and others unsafe.
    """

    requests: tuple[Request, ...]
    column: str
    left_out: Mapping[str, int]
    notes: tuple[str, ...]
    mixed: bool = False


def read_requests(rows: Iterator[Row], label: str, asked: Asked, hoped: str | None = None) -> Reading:
    """The requests of a table; ids are row numbers, counted from 1.

    A conversation (a list of messages) gives the first turn of its user. Rows without a text, and texts that are no
    Unicode (half of a surrogate pair), are left out and counted. ``hoped`` is a topic column that may be absent.

    Raises:
        GeometryBenchError: no row, no such column, a value that is neither text nor conversation, no request.
    """
    head = list(itertools.islice(rows, _LOOKED_AT))
    if not head:
        raise GeometryBenchError(f"{label} is empty.")
    columns = list(dict.fromkeys(name for row in head for name in row))
    behaviours = set(columns) >= _BEHAVIOURS
    column, topic, where = asked.column or _usual_column(columns, head, label), asked.topic, asked.where or {}
    for name in (column, *([topic] if topic else []), *where):
        need_column(name, columns, label)
    own = "SemanticCategory" if behaviours else "type" if set(columns) >= _CONTRASTS else None
    topic = topic or (hoped if hoped in columns else own)
    # A HarmBench behaviour with a context is asked about that context; without it the request would make no sense.
    context = "ContextString" if behaviours and column == "Behavior" else None
    made: list[Request] = []
    total, kept, conversations = 0, 0, False
    labels: set[str] = set()
    left_out: Counter[str] = Counter()
    found: dict[str, Counter[str]] = {name: Counter() for name in where}
    for number, row in enumerate(itertools.chain(head, rows), start=1):
        total += 1
        for name in where:
            found[name][str(row.get(name))] += 1
        if not all(equal(row.get(name), value) for name, value in where.items()):
            continue
        kept += 1
        value = row.get(column)
        conversations = conversations or not isinstance(value, str | None)
        text = _request(value, f"{label} has {{kind}} in row {number} of column {column!r}")
        if context and text and row.get(context):
            text = f"{row[context].strip()}\n\n{text}"
        if not text:
            left_out[f"no text of a user in column {column!r}" if conversations else f"no text in {column!r}"] += 1
        elif not _is_unicode(text):
            left_out["half of a surrogate pair in the text"] += 1
        else:
            labels.add(str(row.get(_LABEL)).strip().casefold())
            made.append(Request(f"row-{number}", text, _topic(row.get(topic)) if topic else None))
    conditions = " and ".join(f"{name} = {value}" for name, value in where.items())
    if not made:
        there = "".join(f"; {name} is {_values(counts)}" for name, counts in found.items())
        raise GeometryBenchError(
            f"{label} has no request in column {column!r}{f' where {conditions}' if conditions else ''}{there}."
        )
    notes = [
        f"requests are {'the first turn of the user in' if conversations else 'read from'} column {column!r}",
        *([f"{kept} of {total} rows have {conditions}"] if conditions else []),
        *(f"{rows} of {kept} rows left out: {reason}" for reason, rows in left_out.items()),
    ]
    if labels >= _BOTH:
        notes.append(f"some requests are safe and others unsafe, as column {_LABEL!r} says")
    return Reading(tuple(made), column, dict(left_out), tuple(notes), labels >= _BOTH)


def _usual_column(columns: Sequence[str], head: Sequence[Row], label: str) -> str:
    if len(columns) == 1:
        return columns[0]
    by_name = {str(name).casefold(): name for name in reversed(columns)}
    for usual in USUAL_COLUMNS:
        name = by_name.get(usual)
        if name is not None and any(isinstance(row.get(name), str | list | dict) for row in head):
            return name
    names = ", ".join(map(str, columns))
    hint = "; its first line must name the columns" if any(len(str(name).split()) >= 4 for name in columns) else ""
    raise GeometryBenchError(f"{label} does not say which column holds the requests; name one of {names}{hint}.")


def _request(value: Any, place: str) -> str:
    """The text of a cell, or the first turn of the user in a conversation; "" where there is none."""
    if isinstance(value, dict) and all(isinstance(part, list) for part in value.values()):
        value = [dict(zip(value, turn, strict=False)) for turn in zip(*value.values(), strict=False)]
    if isinstance(value, list):
        value = next(filter(None, map(_of_user, value)), None)
    if value is not None and not isinstance(value, str):
        raise GeometryBenchError(f"{place.format(kind=type(value).__name__)} where a text belongs.")
    return (value or "").strip()


def _of_user(turn: Any) -> Any:
    """What a turn says, where it is the user's; a turn without a role is."""
    if not isinstance(turn, dict):
        return turn
    if str(turn.get("role", turn.get("from", "user"))).casefold() not in _USERS:
        return None
    said = turn.get("content", turn.get("value", turn.get("text")))
    if isinstance(said, list):  # parts of a multimodal message
        said = "\n".join(part["text"] for part in said if isinstance(part, dict) and isinstance(part.get("text"), str))
    return said


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _topic(value: Any) -> str | None:
    return None if value in (None, "") else str(value).encode(errors="replace").decode()


def _values(counts: Counter[str]) -> str:
    shown = [value for value, _ in counts.most_common(5)]
    return ", ".join([*shown, *(["..."] if len(counts) > 5 else [])])
