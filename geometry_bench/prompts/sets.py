"""Sets of requests for the claims on unsafe directions, magnitudes and overlaps: built-in, from a file, or public.

Imports no torch.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from geometry_bench.checked import did_you_mean
from geometry_bench.errors import GeometryBenchError
from geometry_bench.prompts import public as hub
from geometry_bench.prompts.builtin import BUILT_IN, requests_of, revision_of
from geometry_bench.prompts.collection import ENDING, Request, named_in, read_collection
from geometry_bench.prompts.public import PUBLIC, Public
from geometry_bench.prompts.reading import Asked, Reading, read_requests
from geometry_bench.prompts.tables import ENDINGS, read_rows
from geometry_bench.storage import digest, digest_file

FILE_ENDINGS = (*ENDINGS, ENDING)
"""What the names of files that hold sets end in."""
_FILE = re.compile(rf"(?P<path>.+(?:{'|'.join(re.escape(e) for e in FILE_ENDINGS)}))(?::(?P<column>[^:/\\]+))?", re.I)
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
    is the column that was read, None for a pack. ``where`` are the conditions that rows had to meet, ``left_out`` the
    rows that hold no request, by reason. ``name`` holds no folder of this machine.
    """

    name: str
    requests: tuple[Request, ...]
    hash: str
    origin: Literal["pack", "file", "dataset"]
    revision: str
    column: str | None
    sampled: Sampled
    where: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What was read, left out or guessed on reading, one sentence each."""
    mixed: bool = False
    """Whether its own labels call some of the requests safe and others unsafe."""

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
            "where": dict(self.where),
            "left_out": dict(self.left_out),
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

    ``name`` is a built-in name (``BUILT_IN``), a file (``FILE`` or ``FILE:column``; csv, json, jsonl, parquet, txt), one of
    the sets of a TOML file (``FILE.toml:set``, see ``collection.py``), a public name (``PUBLIC``) or any data set of the
    Hub (``org/name[@revision][:column]``, split train). ``column`` names the requests, ``topic_column`` the topics,
    ``where`` keeps the rows whose columns have these values, as does ``?column=value&...`` at the end of the name. Of
    texts that differ in case and white space only, the first is kept. ``count`` draws that many with ``seed``, in their
    original order; a smaller draw is part of a larger one, and two paired sets are drawn in the same way.

    Raises GeometryBenchError, one sentence: unknown name, no such file, wrong column, no request, too few of them,
    something not installed, Hub not reachable.
    """
    if count is not None and count < 1:
        raise GeometryBenchError(f"Asked for {count} requests of {name}; ask for at least 1.")
    text, conditions = str(name), dict(where or {})
    if not isinstance(name, Path) and "?" in name and not Path(name).exists():
        text, _, given = name.partition("?")
        conditions |= _conditions(given, name)
    asked, path = Asked(column, topic_column, conditions, count, seed), Path(text)
    key = "" if isinstance(name, Path) else text.lower()
    if key in BUILT_IN:
        if column is not None or topic_column is not None or conditions:
            raise GeometryBenchError(f"The built-in set {text} has no columns to choose from; leave them out.")
        return _draw(key, requests_of(key), "pack", revision_of(key), asked)
    if key in PUBLIC:
        return _from_hub(key, PUBLIC[key], asked)
    if isinstance(name, Path) or (found := _FILE.fullmatch(text)) is not None or path.exists():
        if not isinstance(name, Path) and found is not None and not path.exists():
            path, asked = Path(found["path"]), replace(asked, column=column or found["column"])
        return _from_collection(path, asked) if path.suffix.lower() == ENDING else _from_file(path, asked)
    if (found := _HUB.fullmatch(text)) is not None and not text.startswith("."):
        other = Public(found["hub"], revision=found["revision"])
        return _from_hub(found["hub"], other, replace(asked, column=column or found["column"]))
    hint = did_you_mean(text.lower(), [*BUILT_IN, *PUBLIC])
    raise GeometryBenchError(
        f"There is no prompt set {text!r}{hint}; built-in are {', '.join(BUILT_IN)}, public are {', '.join(PUBLIC)}, and "
        f"files end in {', '.join(FILE_ENDINGS)}."
    )


def file_of(name: str) -> tuple[str | None, str]:
    """The file that a set's name begins with (None where it does not), and the rest: ``:column``, ``?conditions``."""
    found = _FILE.fullmatch(name.partition("?")[0])
    if found is None:
        return None, name
    return found["path"], name.removeprefix(found["path"])


# Files and data sets


def _conditions(text: str, name: str) -> dict[str, str]:
    """``column=value&column=value`` as a mapping."""
    pairs = [part.partition("=") for part in text.split("&")]
    if not all(column and equals for column, equals, _ in pairs):
        raise GeometryBenchError(
            f"The conditions of {name} are not COLUMN=VALUE, joined by &; write FILE?label=unsafe."
        )
    return {column: value for column, _, value in pairs}


def _from_file(path: Path, asked: Asked) -> RequestSet:
    label = f"The data file {path}"
    guessed: list[str] = []
    reading = read_requests(read_rows(path, guessed.append), label, asked)
    reading = replace(reading, notes=(*guessed, *reading.notes))
    return _draw(path.name, reading.requests, "file", f"sha256:{digest_file(path)}", asked, reading, label)


def _from_collection(path: Path, asked: Asked) -> RequestSet:
    label = f"The file of prompt sets {path}"
    if not path.is_file():
        kind = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise GeometryBenchError(f"{label} {kind}; check the path.")
    if asked.topic is not None or asked.where:
        raise GeometryBenchError(f"{label} has no columns to choose from; leave topic column and conditions out.")
    found = read_collection(path, label)
    name = named_in(found, asked.column, label)
    return _draw(f"{path.name}:{name}", found.requests(name), "file", found.revision, asked, label=f"{label}, {name},")


def _from_hub(name: str, public: Public, asked: Asked) -> RequestSet:
    label = f"The data set {public.hub}"
    commit = hub.commit_of(public)
    asked = replace(asked, column=asked.column or public.column, where={**public.where, **(asked.where or {})})
    # A table may lack the declared topics at another revision; only what a person asked for has to be there.
    reading = read_requests(hub.hub_rows(public, commit), label, asked, hoped=public.topic)
    return _draw(name, reading.requests, "dataset", commit, asked, reading, label)


# Drawing


def _draw(
    name: str,
    requests: Sequence[Request],
    origin: Literal["pack", "file", "dataset"],
    revision: str,
    asked: Asked,
    reading: Reading | None = None,
    label: str | None = None,
) -> RequestSet:
    distinct: dict[str, Request] = {}
    for request in requests:
        distinct.setdefault(" ".join(request.text.split()).casefold(), request)
    kept = list(distinct.values())
    duplicates = len(requests) - len(kept)
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
    again = [f"{duplicates} of {len(requests)} requests left out: a text that was there before"] if duplicates else []
    return RequestSet(
        name=name,
        requests=chosen,
        hash=digest([[r.id, r.text, r.topic, r.partner, r.wrapper] for r in chosen]),
        origin=origin,
        revision=revision,
        column=reading.column if reading else None,
        sampled=Sampled(None if asked.count is None else asked.seed, len(chosen), len(kept), duplicates),
        where={column: str(value) for column, value in (asked.where or {}).items()},
        left_out=reading.left_out if reading else {},
        notes=(*(reading.notes if reading else ()), *again),
        mixed=reading is not None and reading.mixed,
    )
