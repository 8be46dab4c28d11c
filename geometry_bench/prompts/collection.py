"""Several sets of requests in one TOML file, with topics, partners and framings. Imports no torch.

``[pairs]`` gives the two classes, ``[wrappers]`` jailbreak framings for both; any other table is a set of its own. Each
table but the framings has a list for each topic. The built-in sets are written so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from geometry_bench.checked import did_you_mean, read_toml
from geometry_bench.errors import GeometryBenchError
from geometry_bench.storage import digest_file

PAIRS, WRAPPERS = "pairs", "wrappers"
ENDING = ".toml"
_PLACE = "{request}"


@dataclass(frozen=True)
class Request:
    """One request to a model.

    ``topic`` groups requests for clustered intervals, None where the source has no topics. ``partner`` is the id of the
    request that this one is matched with: the other class in the same wording, or the plain form of a wrapped request.
    ``wrapper`` names the jailbreak framing.
    """

    id: str
    text: str
    topic: str | None = None
    partner: str | None = None
    wrapper: str | None = None


Tables = Mapping[str, Mapping[str, Any]]
_Reader = Callable[[Tables], Iterator[Request]]


@dataclass(frozen=True)
class Collection:
    """The sets of a file, checked; ``revision`` is ``"sha256:" + 64 hex digits`` of the file."""

    tables: Tables
    revision: str

    @property
    def names(self) -> tuple[str, ...]:
        """The sets that the tables give."""
        derived = [name for name, (needs, _) in _DERIVED.items() if self.tables.keys() >= set(needs)]
        others = [name for name in self.tables if name not in (PAIRS, WRAPPERS)]
        return tuple(dict.fromkeys([*derived, *others]))

    def requests(self, name: str) -> tuple[Request, ...]:
        """The requests of one of the sets, in their order."""
        needs, read = _DERIVED.get(name, ((), _table(name)))
        return tuple((read if self.tables.keys() >= set(needs) else _table(name))(self.tables))


def read_collection(path: Path, what: str) -> Collection:
    """Read and check a file; ``what`` begins sentences (The prompt sets X).

    Raises:
        GeometryBenchError: it cannot be read, is not TOML, or a table has another form than it should.
    """
    try:
        revision = f"sha256:{digest_file(path)}"
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise GeometryBenchError(f"{what} cannot be read ({reason}); give a readable TOML file.") from None
    return _read(path, what, revision)


def named_in(found: Collection, name: str | None, what: str) -> str:
    """A set's name, checked; None chooses the only one.

    Raises:
        GeometryBenchError: there is no such set, or a choice is needed.
    """
    known = ", ".join(found.names)
    if name is None and len(found.names) > 1:
        raise GeometryBenchError(f"{what} holds several sets; name one of {known} after a colon.")
    if name is not None and name not in found.names:
        raise GeometryBenchError(
            f"{what} has no set {name!r}{did_you_mean(name, found.names)}; there are {known or 'none'}."
        )
    if not found.names:
        raise GeometryBenchError(f"{what} holds no set; give it a table of topic = list of texts.")
    return name or found.names[0]


@functools.lru_cache(maxsize=16)
def _read(path: Path, what: str, revision: str) -> Collection:
    """A file is parsed once as long as it stays as it is: ``revision`` is a part of the key."""
    tables = read_toml(path, what)
    try:
        for name, table in tables.items():
            _check(name, table)
        for name in _RELENGTHED:
            if PAIRS in tables and name in tables:
                _check_partners(name, tables[name], tables[PAIRS])
    except ValueError as error:
        raise GeometryBenchError(f"{what} {error}.") from None
    return Collection(MappingProxyType(tables), revision)


def _check(name: str, table: Any) -> None:
    if not isinstance(table, Mapping) or not table:
        raise ValueError(f"has no entry in {name!r}; write it as a table of topic = list of texts")
    for topic, entries in table.items():
        place = f"at '{name}.{topic}'"
        if name == WRAPPERS:
            if not isinstance(entries, str) or _PLACE not in entries:
                raise ValueError(f"has no framing {place}; write a text that holds {_PLACE}")
            continue
        if not isinstance(entries, list) or not entries:
            raise ValueError(f"has no list {place}; write a list of {'pairs' if name == PAIRS else 'texts'}")
        for number, entry in enumerate(entries, start=1):
            texts = entry if name == PAIRS else [entry]
            if (
                not isinstance(texts, list)
                or len(texts) != (2 if name == PAIRS else 1)
                or not all(map(_is_text, texts))
            ):
                wanted = "[unsafe, safe], two texts," if name == PAIRS else "a text"
                raise ValueError(f"has something else than {wanted} {place}, number {number}; correct it")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _check_partners(name: str, table: Mapping[str, Any], pairs: Mapping[str, Any]) -> None:
    if [(topic, len(texts)) for topic, texts in table.items()] != [(topic, len(p)) for topic, p in pairs.items()]:
        raise ValueError(
            f"has other topics or other numbers of requests in {name!r} than in {PAIRS!r}; give each its own"
        )


# How sets follow from the tables


def _side(side: int) -> _Reader:
    """One class of ``[pairs]``: topic = list of [unsafe, safe]."""
    names = ("unsafe", "safe")

    def read(tables: Tables) -> Iterator[Request]:
        for topic, pairs in tables[PAIRS].items():
            for number, pair in enumerate(pairs, start=1):
                ids = [f"{name}-{topic}-{number:02}" for name in names]
                yield Request(ids[side], pair[side], topic, ids[1 - side])

    return read


def _table(name: str) -> _Reader:
    """A table of topic = list of texts."""

    def read(tables: Tables) -> Iterator[Request]:
        for topic, texts in tables[name].items():
            for number, text in enumerate(texts, start=1):
                yield Request(f"{name}-{topic}-{number:02}", text, topic)

    return read


def _relengthed(name: str) -> _Reader:
    """A table that says the safe requests over, shorter or longer; partners stay the unsafe ones."""

    def read(tables: Tables) -> Iterator[Request]:
        for request, safe in zip(_table(name)(tables), _side(1)(tables), strict=True):
            yield replace(request, partner=safe.partner)

    return read


def _unmatched(tables: Tables) -> Iterator[Request]:
    """Short and long in turn, as requests collected in different places are: lengths differ from the unsafe set's."""
    both = zip(*(_relengthed(name)(tables) for name in _RELENGTHED), strict=True)
    for number, pair in enumerate(both):
        yield pair[number % 2]


def _wrapped(side: int) -> _Reader:
    """Each request of a class in one of the framings, in turn, so that every topic meets every framing."""

    def read(tables: Tables) -> Iterator[Request]:
        wrappers = list(tables[WRAPPERS].items())
        for number, request in enumerate(_side(side)(tables)):
            wrapper, frame = wrappers[number % len(wrappers)]
            yield Request(
                f"jailbreak-{request.id}", frame.replace(_PLACE, request.text), request.topic, request.id, wrapper
            )

    return read


_RELENGTHED = ("safe-short", "safe-long")
_DERIVED: Mapping[str, tuple[tuple[str, ...], _Reader]] = {
    "unsafe": ((PAIRS,), _side(0)),
    "safe": ((PAIRS,), _side(1)),
    "safe-short": ((PAIRS, "safe-short"), _relengthed("safe-short")),
    "safe-long": ((PAIRS, "safe-long"), _relengthed("safe-long")),
    "safe-unmatched": ((PAIRS, *_RELENGTHED), _unmatched),
    "jailbreak": ((PAIRS, WRAPPERS), _wrapped(0)),
    "jailbreak-safe": ((PAIRS, WRAPPERS), _wrapped(1)),
}
"""Sets that are made from tables: which they need, and how they are read."""
