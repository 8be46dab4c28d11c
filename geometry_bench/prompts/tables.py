"""Rows of a data file, whatever its format: csv, json, jsonl, parquet or txt. Imports no torch; pyarrow only when needed.

Every fault of a file is reported as one sentence by a ``GeometryBenchError`` that names the file, the place and the remedy.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from geometry_bench.checked import did_you_mean
from geometry_bench.errors import GeometryBenchError

Row = dict[str, Any]

ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".txt")
"""The endings of file names that are understood."""
DELIMITERS = ",;\t|"
"""What may separate the columns of a csv file; of those that give as many columns, the first."""
TEXT_COLUMN = "text"
"""The column that a line of a text file, or a bare string in a json list, is put into."""


def read_rows(path: Path, note: Callable[[str], object] = lambda _: None) -> Iterator[Row]:
    """The rows of a file in their order, each a mapping from column to value.

    csv, tsv: the first line names the columns, which a comma, semicolon, tab or bar separates; a single column whose first
    line is a sentence has no name. json: a list, or an object with one list in it. jsonl, ndjson: one value a line. txt: one
    text a line, blank lines left out. A bare text is a row with the column ``text``. ``note`` is given a sentence on what
    was guessed.

    Raises GeometryBenchError: no such file, an unknown ending, not UTF-8, damaged content, rows without named columns.
    A csv, json or txt file is read whole, the other two piece by piece.
    """
    if not path.is_file():
        kind = "is a folder, not a data file" if path.is_dir() else "does not exist"
        raise GeometryBenchError(f"The data file {path} {kind}; check the path.")
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise GeometryBenchError(f"The data file {path} ends in none of {', '.join(ENDINGS)}; save it as one of these.")
    try:
        if ending == ".parquet":
            yield from _parquet_rows(path)
        elif ending in (".jsonl", ".ndjson"):
            yield from _jsonl_rows(path)
        elif ending in (".csv", ".tsv"):
            yield from _csv_rows(path, note)
        elif ending == ".json":
            yield from _json_rows(path)
        else:
            # Not splitlines: a line separator (U+2028), form feed or the like inside a text does not end it.
            yield from ({TEXT_COLUMN: line.strip()} for line in re.split(r"\r\n|[\r\n]", _text(path)) if line.strip())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise GeometryBenchError(f"The data file {path} cannot be read ({reason}); give a readable file.") from error


def need_column(name: str, columns: Iterable[str], label: str) -> None:
    """Raise GeometryBenchError, naming the nearest and all columns, where ``name`` is none of ``columns``."""
    known = [str(column) for column in columns]
    if name in known:
        return
    raise GeometryBenchError(
        f"{label} has no column {name!r}{did_you_mean(name, known)}; its columns are {', '.join(known)}."
    )


def equal(found: object, wanted: object) -> bool:
    """Equality that lets a table of texts say "True" where another says true."""
    return found == wanted or (found is not None and str(found).strip().casefold() == str(wanted).strip().casefold())


def _text(path: Path) -> str:
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")  # spreadsheets on Windows put a byte-order mark in front
    except UnicodeDecodeError as error:
        raise _not_utf8(path, raw.count(b"\n", 0, error.start) + 1) from None


def _not_utf8(path: Path, line: int) -> GeometryBenchError:
    return GeometryBenchError(f"The data file {path} is not UTF-8 text at line {line}; save it as UTF-8.")


def _csv_rows(path: Path, note: Callable[[str], object]) -> Iterator[Row]:
    text = _text(path)
    previous = csv.field_size_limit()
    # The limit is the whole process's: put back what was there once the rows are through.
    csv.field_size_limit(max(previous, 1 << 24))
    line = 1
    try:
        delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(text)
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        columns = [name.strip() for name in reader.fieldnames or []]
        if len(columns) == 1 and _is_sentence(columns[0]):
            note("its first line is read as a request, since it does not look like the name of a column")
            reader = csv.DictReader(io.StringIO(text, newline=""), [TEXT_COLUMN], delimiter=delimiter, strict=True)
        else:
            reader.fieldnames = columns
        if delimiter != "," and len(columns) > 1:
            note(f"its columns are separated by {delimiter!r}")
        doubled = [name for name in columns if columns.count(name) > 1]
        if doubled:
            raise GeometryBenchError(f"The data file {path} has two columns {doubled[0]!r}; rename one of them.")
        for row in reader:
            line = reader.line_num
            if None in row or None in row.values():
                sign = "commas" if delimiter == "," else repr(delimiter)
                raise GeometryBenchError(
                    f"The data file {path} has {'more' if None in row else 'fewer'} cells than columns at line {line}; put "
                    f"quotation marks around cells that hold {sign}."
                )
            yield row
    except csv.Error as error:
        raise GeometryBenchError(
            f"The data file {path} is not valid csv at line {line} ({error}); correct that line."
        ) from error
    finally:
        csv.field_size_limit(previous)


def _delimiter(text: str) -> str:
    """What separates the columns: the sign that gives the first line most of them."""

    def cells(sign: str) -> int:
        return len(next(csv.reader(io.StringIO(text, newline=""), delimiter=sign), []))

    return max(DELIMITERS, key=cells)


def _is_sentence(cell: str) -> bool:
    return len(cell.split()) >= 4 or cell.endswith((".", "?", "!"))


def _json_rows(path: Path) -> Iterator[Row]:
    try:
        table = json.loads(_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        reason = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        hint = "; for one object a line use the ending .jsonl" if reason.endswith("Extra data") else "; correct it"
        raise GeometryBenchError(f"The data file {path} is not valid JSON ({reason}){hint}.") from None
    if isinstance(table, dict):
        lists = [value for value in table.values() if isinstance(value, list)]
        table = lists[0] if len(lists) == 1 else table
    if not isinstance(table, list):
        raise GeometryBenchError(f"The data file {path} holds no list of rows; write [{{...}}, {{...}}].")
    for number, value in enumerate(table, start=1):
        yield _row(value, path, f"row {number}")


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError:
                raise _not_utf8(path, number) from None
            if not line:
                continue
            try:
                value = json.loads(line)
            except (json.JSONDecodeError, RecursionError):
                raise GeometryBenchError(
                    f"The data file {path} is not valid JSON at line {number}; write one object a line, or use the ending "
                    ".json for a list."
                ) from None
            yield _row(value, path, f"line {number}")


def _row(value: object, path: Path, place: str) -> Row:
    if isinstance(value, str):
        return {TEXT_COLUMN: value}
    if not isinstance(value, dict):
        raise GeometryBenchError(f"The data file {path} has neither an object nor a text at {place}; correct it.")
    return value


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise GeometryBenchError(
            f"Reading {path} needs pyarrow, which is not installed; run: pip install 'geometry-bench[data]'."
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, ValueError) as error:
        first = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise GeometryBenchError(f"The data file {path} is not valid parquet ({first}); save it anew.") from error
