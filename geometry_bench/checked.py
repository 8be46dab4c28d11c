"""Declarations in TOML, read and checked, with each fault reported in one sentence. Imports no torch."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from geometry_bench.errors import GeometryBenchError

T = TypeVar("T")

Text = Annotated[str, StringConstraints(pattern=r"\S")]
"""A text that is not empty."""
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$")]
"""Letters, digits, '.', '_' and '-': what a test id and a file name can hold."""

_WANTED = {
    "string_type": "a text", "int_type": "a whole number", "float_type": "a number", "bool_type": "true or false",
    "list_type": "a list", "dict_type": "a table", "model_type": "a table", "dataclass_type": "a table",
}  # fmt: skip


class Declaration(BaseModel):
    """A table of a declaration: frozen, and with no keys but its own."""

    model_config = ConfigDict(frozen=True, populate_by_name=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, table: Any) -> Any:
        if isinstance(table, Mapping):
            for key in table:
                refuse_unknown(key, cls.keys())
        return table

    @classmethod
    def keys(cls) -> list[str]:
        """The keys that the table may have."""
        return [field.alias or name for name, field in cls.model_fields.items()]


def did_you_mean(word: str, known: Collection[str]) -> str:
    """`` (did you mean X?)`` with up to three names near the word, else those that hold it; empty where there are none."""
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.65) or [name for name in known if word in name][:3]
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def refuse_unknown(key: str, known: Collection[str]) -> None:
    """Raise ValueError, with the nearest names, where a key is none of the known ones."""
    if key not in known:
        listed = ", ".join(name for name in known if not name.startswith("_"))
        raise ValueError(f"has an unknown key {key!r}{did_you_mean(key, known)}; known are {listed}")


def one_of(choices: Collection[str]) -> AfterValidator:
    """A text that is one of the choices."""

    def check(value: str) -> str:
        if value not in choices:
            raise ValueError(f"has the unknown {value!r}{did_you_mean(value, choices)}; known are {', '.join(choices)}")
        return value

    return AfterValidator(check)


def read_toml(path: Path, what: str, *, schema: int | None = None) -> dict[str, Any]:
    """The content of a TOML file; ``what`` begins sentences (The recipe X). With ``schema`` its key of that name is checked.

    Raises:
        GeometryBenchError: it cannot be read, is not UTF-8 or not TOML, or has another schema.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise GeometryBenchError(f"{what} cannot be read ({reason}); give a readable TOML file.") from None
    try:
        text = raw.decode("utf-8-sig")  # editors on Windows put a byte-order mark in front
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise GeometryBenchError(f"{what} is not UTF-8 text at line {line}; save it as UTF-8.") from None
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # tomllib ends its messages with "(at line 3, column 5)", or with "(at end of document)", which names no line.
        reason = str(error).replace("end of document", f"line {len(text.splitlines())}, end of the file")
        raise GeometryBenchError(f"{what} is not valid TOML: {reason}; correct that line.") from None
    if schema is None:
        return content
    found = content.pop("schema", None)
    if found != schema or isinstance(found, bool):
        said = "does not say its schema" if found is None else f"has schema {found!r}"
        raise GeometryBenchError(f"{what} {said}; this geometry-bench reads schema = {schema}.")
    return content


def checked(kind: type[T], table: Any, what: str) -> T:
    """A table as a model or dataclass; ``what`` begins sentences. Raises GeometryBenchError for the first fault."""
    try:
        if not issubclass(kind, BaseModel) and isinstance(table, Mapping):
            for key in table:
                refuse_unknown(key, list(kind.__dataclass_fields__))  # type: ignore[attr-defined]
        return TypeAdapter(kind).validate_python(table)
    except ValidationError as error:
        raise _fault(what, _told(error.errors()[0]), _place(error.errors()[0])) from None
    except ValueError as error:
        raise _fault(what, str(error), "") from None


def _fault(what: str, told: str, place: str) -> GeometryBenchError:
    fault, _, remedy = told.partition("; ")
    return GeometryBenchError(f"{what} {fault}{f' at {place!r}' if place else ''}; {remedy}.")


def _place(error: ErrorDetails) -> str:
    """``stages[2].data[1]``, counted from 1; a key that is missing is no place of its own."""
    parts = [part for part in error["loc"] if part != "[key]"]
    if error["type"] == "missing":
        parts = parts[:-1]
    return "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")


def _told(error: ErrorDetails) -> str:
    """What is wrong; what to do."""
    kind, found, facts = error["type"], error["input"], error.get("ctx", {})
    if kind == "value_error":
        return str(facts["error"])
    if kind == "missing":
        return f"has no key {error['loc'][-1]!r}; add it"
    if kind in _WANTED:
        return f"has {_in_words(found)} where {_WANTED[kind]} belongs; correct it"
    if kind == "string_pattern_mismatch":
        if facts["pattern"] == r"\S":
            return "has an empty text; write it"
        return f"has {found!r}; use letters, digits, '.', '_' and '-' only"
    if kind == "too_short":
        return f"has {facts['actual_length']} entries, fewer than {facts['min_length']}; add some"
    if kind in ("greater_than", "greater_than_equal"):
        return (
            f"has {found!r}; write a number {'above' if kind == 'greater_than' else 'of at least'} {facts.popitem()[1]}"
        )
    return f"has {found!r} ({error['msg'][0].lower()}{error['msg'][1:]}); correct it"


def _in_words(value: object) -> str:
    """A TOML value's type."""
    if isinstance(value, bool):
        return "true or false"
    names: tuple[tuple[type, str], ...] = (
        (str, "a text"), (int, "a number"), (float, "a number"), (list, "a list"), (dict, "a table"),
    )  # fmt: skip
    return next((name for kind, name in names if isinstance(value, kind)), "a date or time")
