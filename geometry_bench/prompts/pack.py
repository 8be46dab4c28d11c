"""Prompt packs: the system prompts and messages of source A, read from TOML, validated and hashed.

A pack is content only; how it becomes tokens is the business of ``render.py``. Every fault of a file is told as one
sentence by a ``GeometryBenchError``, before any model is loaded.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from geometry_bench.errors import GeometryBenchError
from geometry_bench.resources import data_root
from geometry_bench.storage import digest

TRADITIONS = ("chenrezig", "tara", "agape", "rahma")
"""The four contemplative traditions of source A."""
FRAMEWORKS = (*TRADITIONS, "secular")
"""The system prompts that may declare an opening formula."""
SYSTEM_KEYS = ("generic", "empty", *FRAMEWORKS, "safety", "safety_strict")
"""The system prompts that every pack must have; ``empty`` stands for no system message."""
MESSAGE_SETS = ("suffering", "benign", "red_team")
"""The sets of user messages that every pack must have."""

MIN_CALIBRATION_MESSAGES = 4
"""Fewest messages in ``suffering`` and in ``benign``; the source has 8. Fewer leave nothing to resample."""
MIN_CONTROLS = 32
"""Fewest unrelated system prompts; fewer give no usable upper quantile of the null."""
MIN_SAFETY_TOPICS = 24
"""Fewest safety prompts for the question whether safety is one direction."""

_TABLES = ("openings", "controls", "safety_topics")
_TOP_LEVEL = ("id", "version", *SYSTEM_KEYS, *MESSAGE_SETS, *_TABLES)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Message:
    """One user message; ``category`` and ``benign`` belong to the red-team set and are None in the other sets."""

    id: str
    text: str
    category: str | None = None
    benign: bool | None = None


@dataclass(frozen=True)
class Pack:
    """A validated prompt pack (source A, protocol).

    ``systems`` has exactly the keys ``SYSTEM_KEYS`` in that order; ``openings``, ``controls`` and ``safety_topics`` are in
    an order that the content alone decides; messages keep the order of the file. ``hash`` is the sha256 (hex) of all
    content that is measured, borrowed parts included, so comments, key order and line breaks of the file do not matter.
    ``is_builtin`` is true for the built-in content, whatever file it was read from.
    """

    id: str
    version: str | None
    path: Path
    hash: str
    systems: Mapping[str, str]
    openings: Mapping[str, str]
    controls: Mapping[str, str]
    controls_from: Literal["pack", "built-in"]
    safety_topics: Mapping[str, str]
    safety_topics_from: Literal["pack", "built-in"]
    messages: Mapping[str, tuple[Message, ...]]
    is_builtin: bool


def builtin_path() -> Path:
    """Return the file of the built-in pack."""
    return data_root() / "fixtures" / "prompts" / "compassion_safety.toml"


def load_pack(path: Path | None = None) -> Pack:
    """Read and validate a prompt pack; None reads the built-in one.

    A pack without ``controls`` or ``safety_topics`` borrows the built-in ones, since both are independent of the wording
    of the frameworks. Openings are never borrowed: they are literal prefixes of a pack's own texts.

    Raises GeometryBenchError, one sentence, for a file that is missing, unreadable or not TOML, and for content that is
    missing, unknown, empty, duplicated, too little or of the wrong type.
    """
    builtin = _parse(builtin_path(), None)
    return builtin if path is None else _parse(Path(path), builtin)


def without_opening(pack: Pack, key: str) -> str:
    """Return the framework prompt ``key`` with its opening formula, and the punctuation after it, removed.

    Raises GeometryBenchError where the pack declares no opening for that key.
    """
    if key not in pack.openings:
        raise GeometryBenchError(
            f"The prompt pack {pack.path} declares no opening formula for {key!r}; add it to the table [openings]."
        )
    return _after_opening(pack.systems[key], pack.openings[key])


def _after_opening(text: str, opening: str) -> str:
    return text.removeprefix(opening).lstrip(" \t\r\n.,;:!\N{EN DASH}\N{EM DASH}-")


def _parse(path: Path, builtin: Pack | None) -> Pack:
    """Turn a file into a Pack; ``builtin`` lends controls and topics, and is None only for the built-in pack itself."""
    data = _read(path)
    where = _Where(path)
    where.known(data, _TOP_LEVEL)
    for key in (*SYSTEM_KEYS, *MESSAGE_SETS):
        if key not in data:
            raise where.fault(
                f"has no key {key!r}", f"add it (a pack needs {', '.join((*SYSTEM_KEYS, *MESSAGE_SETS))})"
            )

    pack_id = where.identifier(data["id"], "'id'") if "id" in data else path.stem
    systems = _systems(data, where)
    openings = _openings(data.get("openings", {}), systems, where)
    messages = {name: _messages(name, data[name], where) for name in MESSAGE_SETS}

    if builtin is None or "controls" in data:
        controls = _table("controls", data.get("controls", {}), MIN_CONTROLS, where)
        where.distinct({**_named("", systems), **_named("controls.", controls)})
    else:
        controls = dict(builtin.controls)
    if builtin is None or "safety_topics" in data:
        topics = _table("safety_topics", data.get("safety_topics", {}), MIN_SAFETY_TOPICS, where)
        where.distinct(_named("safety_topics.", topics))
    else:
        topics = dict(builtin.safety_topics)

    version = _version(data, where)
    content_hash = _content_hash(pack_id, version, systems, openings, controls, topics, messages)
    return Pack(
        id=pack_id,
        version=version,
        path=path,
        hash=content_hash,
        systems=systems,
        openings=openings,
        controls=controls,
        controls_from="pack" if builtin is None or "controls" in data else "built-in",
        safety_topics=topics,
        safety_topics_from="pack" if builtin is None or "safety_topics" in data else "built-in",
        messages=messages,
        is_builtin=builtin is None or content_hash == builtin.hash,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise GeometryBenchError(f"There is no prompt pack at {path}; give the path of a TOML file.") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise GeometryBenchError(
            f"The prompt pack {path} cannot be read ({reason}); give a readable TOML file."
        ) from error
    try:
        text = raw.decode("utf-8-sig")  # editors on Windows put a byte-order mark in front
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise GeometryBenchError(
            f"The prompt pack {path} is not UTF-8 text at line {line}; save it as UTF-8."
        ) from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # tomllib ends its messages with "(at line 3, column 5)", or with "(at end of document)", which names no line.
        reason = str(error).replace("end of document", f"line {len(text.splitlines())}, end of the file")
        raise GeometryBenchError(f"The prompt pack {path} is not valid TOML: {reason}; correct that line.") from None


@dataclass(frozen=True)
class _Where:
    """The checks that all parts of a pack share, and the file that their sentences name."""

    path: Path

    def fault(self, what: str, advice: str) -> GeometryBenchError:
        return GeometryBenchError(f"The prompt pack {self.path} {what}; {advice}.")

    def known(self, table: Mapping[str, Any], allowed: Iterable[str], inside: str = "") -> None:
        names = tuple(allowed)
        for key in table:
            if key not in names:
                near = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
                advice = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(names)}"
                place = f" in {inside}" if inside else ""
                # A question ends with its own mark, so the full stop of fault() would be one too many.
                raise GeometryBenchError(
                    f"The prompt pack {self.path} has an unknown key {key!r}{place}; {advice}{'' if near else '.'}"
                )

    def text(self, value: object, name: str) -> str:
        if not isinstance(value, str):
            raise self.fault(f"has {_kind(value)} at {name} where a text belongs", "put the text in quotation marks")
        stripped = value.strip()
        if not stripped:
            raise self.fault(f"has an empty text at {name}", "write the text (only 'empty' may be empty)")
        return stripped

    def identifier(self, value: object, name: str) -> str:
        text = self.text(value, name)
        if not _ID.fullmatch(text):
            raise self.fault(f"has the id {text!r} at {name}", "use letters, digits, '-', '_' and '.' only")
        return text

    def distinct(self, texts: Mapping[str, str]) -> None:
        seen: dict[str, str] = {}
        for name, text in texts.items():
            plain = " ".join(text.split()).casefold()
            if plain in seen:
                raise self.fault(f"has the same text at {seen[plain]!r} and {name!r}", "word one of them differently")
            seen[plain] = name


def _kind(value: object) -> str:
    """Name a TOML value's type in words."""
    if isinstance(value, bool):
        return "true or false"
    names: tuple[tuple[type, str], ...] = (
        (str, "a text"), (int, "a number"), (float, "a number"), (list, "a list"), (dict, "a table"),
    )  # fmt: skip
    return next((name for kind, name in names if isinstance(value, kind)), "a date or time")


def _named(prefix: str, texts: Mapping[str, str]) -> dict[str, str]:
    return {prefix + key: text for key, text in texts.items() if text}


def _version(data: Mapping[str, Any], where: _Where) -> str | None:
    value = data.get("version")
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return where.text(value, "'version'")
    raise where.fault(f"has {_kind(value)} at 'version'", "write a whole number or a text")


def _systems(data: Mapping[str, Any], where: _Where) -> dict[str, str]:
    systems = {}
    for key in SYSTEM_KEYS:
        if key == "empty":
            if data[key] != "":
                raise where.fault(
                    "has something other than \"\" at 'empty'", "leave it empty: it stands for no system text"
                )
            systems[key] = ""
        else:
            systems[key] = where.text(data[key], repr(key))
    # Two equal texts would give an axis of length zero or a cosine of one by construction.
    where.distinct(_named("", systems))
    return systems


def _openings(table: object, systems: Mapping[str, str], where: _Where) -> dict[str, str]:
    if not isinstance(table, dict):
        raise where.fault(f"has {_kind(table)} at 'openings' where a table belongs", "write it below a line [openings]")
    where.known(table, FRAMEWORKS, "[openings]")
    openings = {}
    for key in (key for key in FRAMEWORKS if key in table):
        opening = where.text(table[key], repr(f"openings.{key}"))
        if not systems[key].startswith(opening):
            raise where.fault(
                f"declares an opening for {key!r} that its text does not begin with", "copy the first words literally"
            )
        if not _after_opening(systems[key], opening):
            raise where.fault(f"declares the whole text of {key!r} as its opening", "leave some text after the opening")
        openings[key] = opening
    return openings


def _table(name: str, table: object, least: int, where: _Where) -> dict[str, str]:
    """Return a table of id -> text, sorted by id."""
    if not isinstance(table, dict):
        raise where.fault(f"has {_kind(table)} at {name!r} where a table belongs", f"write it below a line [{name}]")
    texts = {
        where.identifier(key, repr(f"{name}.{key}")): where.text(table[key], repr(f"{name}.{key}"))
        for key in sorted(table)
    }
    if len(texts) < least:
        raise where.fault(
            f"has {len(texts)} texts in [{name}] where at least {least} are needed",
            f"add some or leave [{name}] out to use the built-in ones",
        )
    return texts


def _messages(name: str, items: object, where: _Where) -> tuple[Message, ...]:
    if not isinstance(items, list):
        raise where.fault(
            f"has {_kind(items)} at {name!r} where a list belongs", "list the messages in square brackets"
        )
    messages = tuple(_message(name, number, item, where) for number, item in enumerate(items, start=1))
    seen: set[str] = set()
    for message in messages:
        if message.id in seen:
            raise where.fault(f"has the id {message.id!r} twice in {name!r}", "rename one of the two messages")
        seen.add(message.id)
    where.distinct({f"{name}.{message.id}": message.text for message in messages})
    if name == "red_team":
        if {message.benign for message in messages} != {True, False}:
            raise where.fault("needs adversarial and benign messages in 'red_team'", "add the kind that is missing")
    elif len(messages) < MIN_CALIBRATION_MESSAGES:
        raise where.fault(
            f"has {len(messages)} messages in {name!r} where at least {MIN_CALIBRATION_MESSAGES} are needed",
            "add some (the source has 8)",
        )
    return messages


def _message(name: str, number: int, item: object, where: _Where) -> Message:
    """Read one message: a plain text, or a table with ``text`` and perhaps ``id``; red-team tables name a category."""
    place = f"message {number} of {name!r}"
    default_id = f"{name}-{number}"
    if isinstance(item, str) and name != "red_team":
        return Message(default_id, where.text(item, place))
    fields = ("id", "text", "category", "benign") if name == "red_team" else ("id", "text")
    needed = ("text", "category") if name == "red_team" else ("text",)
    if not isinstance(item, dict):
        kinds = "a table" if name == "red_team" else "a text or a table"
        raise where.fault(f"has {_kind(item)} at {place} where {kinds} belongs", f"give it {' and '.join(needed)}")
    where.known(item, fields, place)
    for field in needed:
        if field not in item:
            raise where.fault(f"has no {field!r} in {place}", "add it")
    message_id = where.identifier(item["id"], f"the id of {place}") if "id" in item else default_id
    text = where.text(item["text"], f"the text of {place}")
    if name != "red_team":
        return Message(message_id, text)
    benign = item.get("benign", False)
    if not isinstance(benign, bool):
        raise where.fault(f"has {_kind(benign)} at 'benign' in {place}", "write true or false without quotation marks")
    return Message(message_id, text, where.identifier(item["category"], f"the category of {place}"), benign)


def _content_hash(
    pack_id: str,
    version: str | None,
    systems: Mapping[str, str],
    openings: Mapping[str, str],
    controls: Mapping[str, str],
    topics: Mapping[str, str],
    messages: Mapping[str, tuple[Message, ...]],
) -> str:
    """Return the sha256 of the content as JSON with sorted keys; only the order of messages counts."""
    content = {
        "id": pack_id,
        "version": version,
        "systems": dict(systems),
        "openings": dict(openings),
        "controls": dict(controls),
        "safety_topics": dict(topics),
        "messages": {
            name: [[item.id, item.text, item.category, item.benign] for item in items]
            for name, items in messages.items()
        },
    }
    return digest(content)
