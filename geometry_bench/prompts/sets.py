"""Sets of requests for the claims on unsafe directions, magnitudes and overlaps: built-in, from a file, or public.

Imports no torch.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from geometry_bench.checked import did_you_mean
from geometry_bench.errors import GeometryBenchError
from geometry_bench.prompts import public as hub
from geometry_bench.prompts.builtin import BUILT_IN, Request, requests_of, revision_of
from geometry_bench.prompts.public import PUBLIC, Public
from geometry_bench.prompts.tables import ENDINGS, Row, equal, need_column, read_rows
from geometry_bench.storage import digest, digest_file

USUAL_COLUMNS = (
    "prompt", "request", "instruction", "goal", "Behavior", "behavior", "question", "problem", "query", "text",
)  # fmt: skip
"""The columns looked for, in this order, where none is named; a table of one column needs none of these names."""

_BEHAVIOURS = {"Behavior", "SemanticCategory", "ContextString"}  # HarmBench's own csv
_FILE = re.compile(rf"(?P<path>.+(?:{'|'.join(re.escape(e) for e in ENDINGS)}))(?::(?P<column>[^:/\\]+))?", re.I)
_HUB = re.compile(r"(?P<hub>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?::(?P<column>[^:]+))?")


@dataclass(frozen=True)
class Sampled:
    """How the requests were drawn: ``count`` of ``available`` distinct ones, after ``duplicates`` had been dropped.

    ``seed`` is None where all were taken.
    """

    seed: int | None
    count: int
    available: int
    duplicates: int


@dataclass(frozen=True)
class RequestSet:
    """Requests in the order of their source. ``hash`` is the sha256 (hex) of all that is in ``requests``.

    ``revision`` is "sha256:" and the content hash of the file (pack, file) or the commit on the Hub (dataset). ``column``
    is the column that was read, None for a pack. ``name`` holds no folder of this machine.
    """

    name: str
    requests: tuple[Request, ...]
    hash: str
    origin: Literal["pack", "file", "dataset"]
    revision: str
    column: str | None
    sampled: Sampled
    notes: tuple[str, ...] = ()
    """What was left out or guessed on reading, one sentence each."""

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def texts(self) -> list[str]:
        """The texts, in order."""
        return [request.text for request in self.requests]

    @property
    def topics(self) -> list[str]:
        """One label a request for resampling by topic; a request without topic is a cluster of its own (its id)."""
        return [request.topic if request.topic is not None else request.id for request in self.requests]

    def facts(self) -> dict[str, Any]:
        """What a record keeps of the set."""
        return {
            "name": self.name,
            "origin": self.origin,
            "revision": self.revision,
            "hash": self.hash,
            "column": self.column,
            **asdict(self.sampled),
        }


def load_set(
    name: str | Path,
    *,
    column: str | None = None,
    topic_column: str | None = None,
    where: Mapping[str, Any] | None = None,
    count: int | None = None,
    seed: int = 0,
) -> RequestSet:
    """Load a set of requests.

    ``name`` is a built-in name (``BUILT_IN``), a file (``FILE`` or ``FILE:column``; csv, json, jsonl, parquet, txt), a
    public name (``PUBLIC``) or any data set of the Hub (``org/name[@revision][:column]``, split train). ``column`` names
    the requests, ``topic_column`` the topics, ``where`` keeps the rows whose columns have these values. Of texts that
    differ in case and white space only, the first is kept. ``count`` draws that many with ``seed``, in their original
    order; a smaller draw is part of a larger one, and two paired sets are drawn in the same way.

    Raises GeometryBenchError, one sentence: unknown name, no such file, wrong column, no request, too few of them,
    something not installed, Hub not reachable.
    """
    if count is not None and count < 1:
        raise GeometryBenchError(f"Asked for {count} requests of {name}; ask for at least 1.")
    asked = _Asked(column, topic_column, where or {}, count, seed)
    text, path = str(name), Path(name)
    key = "" if isinstance(name, Path) else text.lower()
    if key in BUILT_IN:
        if column is not None or topic_column is not None or where:
            raise GeometryBenchError(f"The built-in set {text} has no columns to choose from; leave them out.")
        return _draw(key, requests_of(key), "pack", revision_of(key), asked)
    if key in PUBLIC:
        return _from_hub(key, PUBLIC[key], asked)
    if isinstance(name, Path) or (found := _FILE.fullmatch(text)) is not None or path.exists():
        if not isinstance(name, Path) and found is not None and not path.exists():
            path, asked = Path(found["path"]), replace(asked, column=column or found["column"])
        return _from_file(path, asked)
    if (found := _HUB.fullmatch(text)) is not None and not text.startswith("."):
        other = Public(found["hub"], revision=found["revision"])
        return _from_hub(found["hub"], other, replace(asked, column=column or found["column"]))
    hint = did_you_mean(text.lower(), [*BUILT_IN, *PUBLIC])
    raise GeometryBenchError(
        f"There is no prompt set {text!r}{hint}; built-in are {', '.join(BUILT_IN)}, public are {', '.join(PUBLIC)}, and "
        f"files end in {', '.join(ENDINGS)}."
    )


# Files and data sets


@dataclass(frozen=True)
class _Asked:
    """What a caller asks of a table: where its requests and topics are, which rows are kept, how many are drawn."""

    column: str | None
    topic: str | None
    where: Mapping[str, Any]
    count: int | None
    seed: int


def _from_file(path: Path, asked: _Asked) -> RequestSet:
    label = f"The data file {path}"
    requests, used = _requests(read_rows(path), label, asked)
    return _draw(path.name, requests, "file", f"sha256:{digest_file(path)}", asked, used, label)


def _from_hub(name: str, public: Public, asked: _Asked) -> RequestSet:
    label = f"The data set {public.hub}"
    commit = hub.commit_of(public)
    asked = replace(asked, column=asked.column or public.column, where={**public.where, **asked.where})
    # A table may lack the declared topics at another revision; only what a person asked for has to be there.
    requests, used = _requests(hub.hub_rows(public, commit), label, asked, hoped=public.topic)
    return _draw(name, requests, "dataset", commit, asked, used, label)


def _requests(rows: Iterator[Row], label: str, asked: _Asked, hoped: str | None = None) -> tuple[list[Request], str]:
    """The requests of a table and the column they were read from; ids are row numbers, counted from 1."""
    first = next(rows, None)
    if first is None:
        raise GeometryBenchError(f"{label} is empty.")
    columns = list(first)
    behaviours = columns and set(columns) >= _BEHAVIOURS
    column, topic, where = asked.column or _usual_column(columns, label), asked.topic, asked.where
    for name in (column, *([topic] if topic else []), *where):
        need_column(name, columns, label)
    topic = topic or (hoped if hoped in columns else "SemanticCategory" if behaviours else None)
    # A HarmBench behaviour with a context is asked about that context; without it the request would make no sense.
    context = "ContextString" if behaviours and column == "Behavior" else None
    made = []
    for number, row in enumerate(itertools.chain([first], rows), start=1):
        if not all(equal(row.get(key), value) for key, value in where.items()):
            continue
        text = row.get(column)
        if text is None:
            continue
        if not isinstance(text, str):
            kind = type(text).__name__
            raise GeometryBenchError(f"{label} has {kind} in row {number} of column {column!r} where a text belongs.")
        text = text.strip()
        if context and row.get(context):
            text = f"{row[context].strip()}\n\n{text}"
        if text:
            found = row.get(topic) if topic else None
            made.append(Request(f"row-{number}", text, str(found) if found not in (None, "") else None))
    if not made:
        kept = " where " + " and ".join(f"{k} = {v}" for k, v in where.items()) if where else ""
        raise GeometryBenchError(f"{label} has no request in column {column!r}{kept}.")
    return made, column


def _usual_column(columns: list[str], label: str) -> str:
    if len(columns) == 1:
        return columns[0]
    for name in USUAL_COLUMNS:
        if name in columns:
            return name
    raise GeometryBenchError(
        f"{label} does not say which column holds the requests; name one of {', '.join(map(str, columns))}."
    )


# Drawing


def _draw(
    name: str,
    requests: Iterable[Request],
    origin: Literal["pack", "file", "dataset"],
    revision: str,
    asked: _Asked,
    column: str | None = None,
    label: str | None = None,
) -> RequestSet:
    distinct: dict[str, Request] = {}
    total = 0
    for request in requests:
        total += 1
        distinct.setdefault(" ".join(request.text.split()).casefold(), request)
    kept = list(distinct.values())
    duplicates = total - len(kept)
    if asked.count is not None:
        if asked.count > len(kept):
            dropped = f" (after dropping {duplicates} duplicates)" if duplicates else ""
            raise GeometryBenchError(
                f"{label or f'The built-in set {name}'} has {len(kept)} requests{dropped}, fewer than the {asked.count} "
                "asked for."
            )
        # Places are shuffled, not requests: sets of one length are drawn alike, and a smaller draw is part of a larger.
        places = list(range(len(kept)))
        random.Random(asked.seed).shuffle(places)
        chosen = tuple(kept[place] for place in sorted(places[: asked.count]))
    else:
        chosen = tuple(kept)
    return RequestSet(
        name=name,
        requests=chosen,
        hash=digest([[r.id, r.text, r.topic, r.partner, r.wrapper] for r in chosen]),
        origin=origin,
        revision=revision,
        column=column,
        sampled=Sampled(None if asked.count is None else asked.seed, len(chosen), len(kept), duplicates),
    )
