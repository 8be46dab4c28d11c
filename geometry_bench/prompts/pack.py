"""Prompt packs: the system prompts and messages of source A, read from TOML, validated and hashed.

A pack is content only; how it becomes tokens is the business of ``render.py``. Every fault of a file is reported as one
sentence by a ``GeometryBenchError``, before any model is loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from geometry_bench.checked import Declaration, Name, Text, checked, read_toml
from geometry_bench.errors import GeometryBenchError
from geometry_bench.resources import data_root
from geometry_bench.storage import digest, digest_lines

FRAMEWORKS = ("chenrezig", "tara", "agape", "rahma", "secular")
"""The system prompts that may declare an opening formula."""
SYSTEM_KEYS = ("generic", "empty", *FRAMEWORKS, "safety", "safety_strict")
"""The system prompts that every pack must have; ``empty`` stands for no system message."""
MESSAGE_SETS = ("suffering", "benign", "red_team")
"""The sets of user messages that every pack must have."""

MIN_CALIBRATION_MESSAGES = 4
"""Fewest messages in ``suffering`` and in ``benign``; the source has 8. Fewer leave nothing to resample."""
MIN_CONTROLS = 32
"""Fewest unrelated system prompts of a length; fewer give no usable upper quantile of the null."""
LENGTHS_DIFFER = 0.2
"""Share by which the mean number of words of controls may differ from that of the prompts that they stand against."""
MIN_SAFETY_TOPICS = 24
"""Fewest safety prompts for the question whether safety is one direction."""


Lender = Literal["pack", "built-in"]
"""Where an optional table of a pack comes from."""


@dataclass(frozen=True)
class Message:
    """One user message; ``category`` and ``benign`` belong to the red-team set and are None in the other sets."""

    id: str
    text: str
    category: str | None = None
    benign: bool | None = None


LENT = ("controls", "safety_controls", "safety_topics")
"""The tables that a pack may leave out and borrow."""


@dataclass(frozen=True)
class Pack:
    """A validated prompt pack (source A, protocol).

    ``systems`` has exactly the keys ``SYSTEM_KEYS`` in that order; ``openings``, ``controls``, ``safety_controls`` and
    ``safety_topics`` are in an order that the content alone decides; messages keep the order of the file. ``controls`` are
    of the length of the frameworks, ``safety_controls`` of that of the two safety prompts. ``hash`` is the sha256 (hex) of
    all content that is measured, borrowed parts included, so comments, key order and line breaks do not matter.
    ``is_builtin`` is true for the built-in content, whatever file it was read from.
    """

    id: str
    version: str | None
    path: Path
    hash: str
    systems: Mapping[str, str]
    openings: Mapping[str, str]
    controls: Mapping[str, str]
    controls_from: Lender
    safety_controls: Mapping[str, str]
    safety_controls_from: Lender
    safety_topics: Mapping[str, str]
    safety_topics_from: Lender
    messages: Mapping[str, tuple[Message, ...]]
    is_builtin: bool

    def wording(self, messages: str) -> str:
        """Digest of the texts of a message set and of the frameworks' first 100 characters, which source A keeps."""
        beginnings = [self.systems[key][:100] for key in ("generic", *FRAMEWORKS)]
        return digest_lines([*beginnings, *sorted(message.text for message in self.messages[messages])])

    def length_notes(self, messages: str) -> list[str]:
        """Which controls differ in length from what they stand against on a message set, one sentence each."""
        stands = {
            "suffering": [("controls", self.controls, [self.systems[key] for key in FRAMEWORKS])],
            "benign": [
                ("safety_controls", self.safety_controls, [self.systems[key] for key in ("safety", "safety_strict")]),
                ("controls", self.controls, list(self.safety_topics.values())),
            ],
        }
        against = {"suffering": "the frameworks", "benign": "the safety prompts"}
        notes = []
        for name, controls, others in stands.get(messages, []):
            has, wanted = _mean_words(controls.values()), _mean_words(others)
            if abs(has - wanted) > LENGTHS_DIFFER * wanted:
                notes.append(
                    f"{name} have {has:.0f} words on average, {against[messages]} that they stand against {wanted:.0f}: a "
                    "null of another length may be too narrow"
                )
        return notes


def builtin_path() -> Path:
    """Return the file of the built-in pack."""
    return data_root() / "fixtures" / "prompts" / "compassion_safety.toml"


def load_pack(path: Path | None = None) -> Pack:
    """Read and validate a prompt pack; None reads the built-in one.

    A pack without ``controls``, ``safety_controls`` or ``safety_topics`` borrows the built-in ones, since they are
    independent of the wording of the frameworks. Openings are never borrowed: they are literal prefixes of a pack's own
    texts.

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
    what = f"The prompt pack {path}"
    if not path.exists():
        raise GeometryBenchError(f"There is no prompt pack at {path}; give the path of a TOML file.")
    content = checked(_Content, read_toml(path, what), what)
    pack_id = content.id or path.stem
    systems = {key: getattr(content, key).strip() for key in SYSTEM_KEYS}
    messages = {name: _messages(name, getattr(content, name)) for name in MESSAGE_SETS}
    own = {name: getattr(content, name) for name in LENT}
    tables = {
        name: dict(sorted(texts.items())) if texts is not None else dict(getattr(builtin, name, {}))
        for name, texts in own.items()
    }
    lenders: dict[str, Lender] = {
        name: "pack" if builtin is None or texts is not None else "built-in" for name, texts in own.items()
    }
    openings = {key: text for key in FRAMEWORKS if (text := getattr(content.openings, key)) is not None}
    try:
        lacking = next((name for name, texts in own.items() if texts is None), None)
        if builtin is None and lacking is not None:
            raise ValueError(f"has no {lacking}; only a pack beside the built-in one can borrow them")
        # Two equal texts would give an axis of length zero or a cosine of one by construction.
        controls = [_named(name, own[name] or {}) for name in ("controls", "safety_controls")]
        _distinct({**systems, **controls[0], **controls[1]})
        _distinct(_named("safety_topics", tables["safety_topics"]))
        for name, items in messages.items():
            ids = [message.id for message in items]
            twice = next((one for one in ids if ids.count(one) > 1), None)
            if twice is not None:
                raise ValueError(f"has the id {twice!r} twice in {name!r}; rename one of the two messages")
            _distinct(_named(name, {message.id: message.text for message in items}))
        _check_openings(openings, systems)
    except ValueError as error:
        raise GeometryBenchError(f"{what} {error}.") from None
    content_hash = _content_hash(pack_id, content.version, systems, openings, tables, messages)
    return Pack(
        id=pack_id,
        version=content.version,
        path=path,
        hash=content_hash,
        systems=systems,
        openings=openings,
        controls=tables["controls"],
        controls_from=lenders["controls"],
        safety_controls=tables["safety_controls"],
        safety_controls_from=lenders["safety_controls"],
        safety_topics=tables["safety_topics"],
        safety_topics_from=lenders["safety_topics"],
        messages=messages,
        is_builtin=builtin is None or content_hash == builtin.hash,
    )


# What the file declares

_Stripped = Annotated[Text, AfterValidator(str.strip)]
_Id = Annotated[Name, BeforeValidator(lambda value: value.strip() if isinstance(value, str) else value)]
_Texts = dict[_Id, _Stripped]


class _Message(Declaration):
    id: _Id | None = None
    text: _Stripped


class _RedTeam(_Message):
    category: _Id
    benign: Annotated[bool, Field(strict=True)] = False


_Plain = Annotated[_Message, BeforeValidator(lambda item: {"text": item} if isinstance(item, str) else item)]
_Calibration = Annotated[list[_Plain], Field(min_length=MIN_CALIBRATION_MESSAGES)]


class _Openings(Declaration):
    chenrezig: _Stripped | None = None
    tara: _Stripped | None = None
    agape: _Stripped | None = None
    rahma: _Stripped | None = None
    secular: _Stripped | None = None


class _Content(Declaration):
    id: _Id | None = None
    version: Annotated[_Stripped, BeforeValidator(lambda value: str(value) if type(value) is int else value)] | None = (
        None
    )
    generic: Text
    empty: str
    chenrezig: Text
    tara: Text
    agape: Text
    rahma: Text
    secular: Text
    safety: Text
    safety_strict: Text
    suffering: _Calibration
    benign: _Calibration
    red_team: list[_RedTeam]
    openings: _Openings = _Openings()
    controls: Annotated[_Texts, Field(min_length=MIN_CONTROLS)] | None = None
    safety_controls: Annotated[_Texts, Field(min_length=MIN_CONTROLS)] | None = None
    safety_topics: Annotated[_Texts, Field(min_length=MIN_SAFETY_TOPICS)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.empty:
            raise ValueError("has something other than \"\" in 'empty'; leave it empty: it stands for no system text")
        if {message.benign for message in self.red_team} != {True, False}:
            raise ValueError("needs adversarial and benign messages in 'red_team'; add the kind that is missing")
        return self


def _messages(name: str, items: Sequence[_Message]) -> tuple[Message, ...]:
    return tuple(
        Message(
            item.id or f"{name}-{number}", item.text, getattr(item, "category", None), getattr(item, "benign", None)
        )
        for number, item in enumerate(items, start=1)
    )


def _mean_words(texts: Collection[str]) -> float:
    return sum(len(text.split()) for text in texts) / len(texts)


def _named(table: str, texts: Mapping[str, str]) -> dict[str, str]:
    return {f"{table}.{key}": text for key, text in texts.items()}


def _distinct(texts: Mapping[str, str]) -> None:
    seen: dict[str, str] = {}
    for name, text in texts.items():
        plain = " ".join(text.split()).casefold()
        if plain in seen:
            raise ValueError(f"has the same text at {seen[plain]!r} and {name!r}; word one of them differently")
        seen[plain] = name


def _check_openings(openings: Mapping[str, str], systems: Mapping[str, str]) -> None:
    for key, opening in openings.items():
        if not systems[key].startswith(opening):
            raise ValueError(
                f"declares an opening for {key!r} that its text does not begin with; copy the first words literally"
            )
        if not _after_opening(systems[key], opening):
            raise ValueError(f"declares the whole text of {key!r} as its opening; leave some text after the opening")


def _content_hash(
    pack_id: str,
    version: str | None,
    systems: Mapping[str, str],
    openings: Mapping[str, str],
    tables: Mapping[str, Mapping[str, str]],
    messages: Mapping[str, tuple[Message, ...]],
) -> str:
    """Return the sha256 of the content as JSON with sorted keys; only the order of messages counts."""
    content = {
        "id": pack_id,
        "version": version,
        "systems": dict(systems),
        "openings": dict(openings),
        **tables,
        "messages": {
            name: [[item.id, item.text, item.category, item.benign] for item in items]
            for name, items in messages.items()
        },
    }
    return digest(content)
