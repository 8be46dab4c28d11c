"""What manifests of families and of groups have in common: reading, and the models named in them. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geometry_bench.checked import read_toml
from geometry_bench.errors import GeometryBenchError
from geometry_bench.resources import data_root
from geometry_bench.subjects.spec import embedded_folder

SCHEMA = 1
EMBEDDED = "zoo"


def read_tables(file: Path, kind: str) -> tuple[dict[str, Any], list[Any]]:
    """A manifest's own keys and its ``[[members]]`` tables, unchecked but for the schema; ``kind`` is what it is called.

    Raises:
        GeometryBenchError: it cannot be read, is not TOML, has another schema or lists no members.
    """
    content = read_toml(file, f"The {kind} {file}", schema=SCHEMA)
    entries = content.pop("members", None)
    if not isinstance(entries, list) or not entries:
        raise GeometryBenchError(f"The {kind} {file} lists no members; add a [[members]] table for each.")
    return content, entries


def located_model(model: str, revision: str | None, folder: Path, where: str) -> str:
    """A manifest's model as :class:`SubjectSpec` takes it: folders are relative to the manifest's ``folder``.

    Raises:
        GeometryBenchError: it is meant as a folder that does not exist, or has a revision where none can be;
            ``where`` begins the sentence.
    """
    text = Path(model).expanduser()
    place = folder / text
    local = place.exists()
    if local and not place.is_dir():
        raise GeometryBenchError(f"{where} names the file {place}; give the model's folder.")
    embedded = embedded_folder(model) if not local and model.startswith(f"{EMBEDDED}/") else None
    if revision is not None and (local or embedded):
        raise GeometryBenchError(f"{where} has a revision, but its model is the folder {place}; drop the revision.")
    if embedded is not None:
        return model
    if local:
        in_zoo = inside_zoo(place)
        return f"{EMBEDDED}/{in_zoo.as_posix()}" if in_zoo is not None else str(place)
    repository, at, named = model.partition("@")
    # Hub ids are org/name; what has another number of parts, or starts in a folder that exists, is meant as a path.
    meant_as_path = (
        text.is_absolute()
        or model.startswith((".", "~"))
        or repository.count("/") != 1
        or (folder / repository.split("/")[0]).is_dir()
    )
    if meant_as_path:
        raise GeometryBenchError(
            f"{where} names the model {model!r}, but there is no folder {place}; give a folder (relative to the "
            "manifest) or a Hub id org/name."
        )
    if at and revision is not None and named != revision:
        raise GeometryBenchError(f"{where} has two revisions, {named} in its model and {revision} as key; keep one.")
    return model


def inside_zoo(folder: Path) -> Path | None:
    """The folder relative to the embedded zoo, or None if it is elsewhere."""
    zoo = (data_root() / "fixtures" / "zoo").resolve()
    place = folder.resolve()
    return place.relative_to(zoo) if place.is_relative_to(zoo) and place != zoo else None
