"""The built-in sets of requests: the project's own wording, by name. Imports no torch.

They are in ``fixtures/prompts/requests.toml`` and ``instructions.toml``, written by ``write_requests.py`` beside them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geometry_bench.checked import read_toml
from geometry_bench.errors import GeometryBenchError
from geometry_bench.resources import data_root
from geometry_bench.storage import digest_file


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


@dataclass(frozen=True)
class _BuiltIn:
    file: str
    read: Callable[[Mapping[str, Any]], Iterator[Request]]


@functools.cache
def _pack(file: str) -> Mapping[str, Any]:
    return read_toml(_pack_path(file), f"The prompt sets {file}")


def _pack_path(file: str) -> Path:
    path = data_root() / "fixtures" / "prompts" / file
    if not path.is_file():
        raise GeometryBenchError(f"This installation lacks its prompt sets (no {file}); install the package anew.")
    return path


@functools.cache
def revision_of(name: str) -> str:
    """``"sha256:" + 64 hex digits`` of the file that holds a built-in set."""
    return f"sha256:{digest_file(_pack_path(BUILT_IN[name].file))}"


@functools.cache
def requests_of(name: str) -> tuple[Request, ...]:
    """The requests of a built-in set, in their order."""
    made = BUILT_IN[name]
    return tuple(made.read(_pack(made.file)))


def _side(side: int) -> Callable[[Mapping[str, Any]], Iterator[Request]]:
    """One class of ``[pairs]``: topic = list of [unsafe, safe]."""
    names = ("unsafe", "safe")

    def read(pack: Mapping[str, Any]) -> Iterator[Request]:
        for topic, pairs in pack["pairs"].items():
            for number, pair in enumerate(pairs, start=1):
                ids = [f"{name}-{topic}-{number:02}" for name in names]
                yield Request(ids[side], pair[side], topic, ids[1 - side])

    return read


def _table(name: str) -> Callable[[Mapping[str, Any]], Iterator[Request]]:
    """A table of topic = list of texts."""

    def read(pack: Mapping[str, Any]) -> Iterator[Request]:
        for topic, texts in pack[name].items():
            for number, text in enumerate(texts, start=1):
                yield Request(f"{name}-{topic}-{number:02}", text, topic)

    return read


def _relengthed(name: str) -> Callable[[Mapping[str, Any]], Iterator[Request]]:
    """A table that says the safe requests over, shorter or longer; partners stay the unsafe ones."""

    def read(pack: Mapping[str, Any]) -> Iterator[Request]:
        for request, safe in zip(_table(name)(pack), _side(1)(pack), strict=True):
            yield replace(request, partner=safe.partner)

    return read


def _unmatched(pack: Mapping[str, Any]) -> Iterator[Request]:
    """Short and long in turn, as requests collected in different places are: lengths differ from the unsafe set's."""
    both = zip(_relengthed("safe-short")(pack), _relengthed("safe-long")(pack), strict=True)
    for number, pair in enumerate(both):
        yield pair[number % 2]


def _wrapped(side: int) -> Callable[[Mapping[str, Any]], Iterator[Request]]:
    """Each request of a class in one of the framings, in turn, so that every topic meets every framing."""

    def read(pack: Mapping[str, Any]) -> Iterator[Request]:
        wrappers = list(pack["wrappers"].items())
        for number, request in enumerate(_side(side)(pack)):
            wrapper, frame = wrappers[number % len(wrappers)]
            yield Request(
                f"jailbreak-{request.id}", frame.replace("{request}", request.text), request.topic, request.id, wrapper
            )

    return read


_REQUESTS, _INSTRUCTIONS = "requests.toml", "instructions.toml"
BUILT_IN: Mapping[str, _BuiltIn] = {
    "unsafe": _BuiltIn(_REQUESTS, _side(0)),
    "safe": _BuiltIn(_REQUESTS, _side(1)),
    "safe-short": _BuiltIn(_REQUESTS, _relengthed("safe-short")),
    "safe-long": _BuiltIn(_REQUESTS, _relengthed("safe-long")),
    "safe-unmatched": _BuiltIn(_REQUESTS, _unmatched),
    "harmful-a": _BuiltIn(_REQUESTS, _table("harmful-a")),
    "harmful-b": _BuiltIn(_REQUESTS, _table("harmful-b")),
    "refusal-style": _BuiltIn(_REQUESTS, _table("refusal-style")),
    "jailbreak": _BuiltIn(_REQUESTS, _wrapped(0)),
    "jailbreak-safe": _BuiltIn(_REQUESTS, _wrapped(1)),
    "instructions": _BuiltIn(_INSTRUCTIONS, _table("instructions")),
    "maths": _BuiltIn(_INSTRUCTIONS, _table("maths")),
}
