"""Published data read from ``baselines/published``: one JSON file a source. Nothing writes to it."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from pydantic import ValidationError

from geometry_bench.errors import GeometryBenchError
from geometry_bench.published.publication import SCHEMA_VERSION, Publication
from geometry_bench.resources import data_root

SOURCES: tuple[str, ...] = ("safety_compassion", "universal_direction", "magnitude_variance", "safety_subspaces")
"""Ids of the publications A, B, C and D."""


@cache
def load_publication(source: str) -> Publication:
    """What a source published, read once a process.

    Raises ``GeometryBenchError`` where the file is missing, is not JSON, has another schema or does not validate.
    """
    file = data_root() / "baselines" / "published" / f"{source}.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_each_key_once)
    except FileNotFoundError as error:
        raise GeometryBenchError(
            f"There are no published values of {source!r} at {file}; reinstall geometry-bench or check the name."
        ) from error
    except (OSError, ValueError) as error:
        raise GeometryBenchError(f"{file} cannot be read as JSON ({error}); restore the file.") from error
    return parse_publication(content, str(file))


def parse_publication(content: object, where: str) -> Publication:
    """Validate the parsed JSON of a file of published values; ``where`` begins the message of an error.

    Raises ``GeometryBenchError`` for another schema version and for anything that does not fit this one.
    """
    if not isinstance(content, dict):
        raise GeometryBenchError(f"{where} does not hold a JSON object; restore the file of published values.")
    version = content.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise GeometryBenchError(
            f"{where} has schema version {version}, this program reads version {SCHEMA_VERSION}; update geometry-bench."
        )
    if version != SCHEMA_VERSION:
        raise GeometryBenchError(f"{where} has schema version {version!r}, expected {SCHEMA_VERSION}; restore it.")
    for section in ("subjects", "groups"):
        entries = content.get(section)
        if isinstance(entries, dict):
            keyed = {key: {"key": key, **value} for key, value in entries.items() if isinstance(value, dict)}
            content = {**content, section: {**entries, **keyed}}
    try:
        return Publication.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file as a whole"
        raise GeometryBenchError(
            f"{where} is not a sound file of published values, at {place}: {first['msg']}; restore or mend it."
        ) from error


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a key stands twice among {', '.join(key for key, _ in pairs)[:80]}")
    return found
