"""Sets of requests and a prompt pack that a manifest names for its models, in their own language. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geometry_bench.checked import did_you_mean
from geometry_bench.errors import GeometryBenchError
from geometry_bench.prompts.collection import ENDING, read_collection
from geometry_bench.prompts.names import ROLES
from geometry_bench.prompts.sets import file_of
from geometry_bench.resources import data_root

_EMBEDDED = "zoo"
"""What names of files of the embedded zoo begin with."""


@dataclass(frozen=True)
class OwnPrompts:
    """What a manifest names: pairs of role and set, and a pack (None: the built-in one). Files are absolute.

    ``manifest`` begins sentences; two manifests that name the same are equal.
    """

    sets: tuple[tuple[str, str], ...] = ()
    pack: Path | None = None
    manifest: str = field(default="", compare=False)


def own_prompts(sets: Any, pack: str | None, folder: Path, manifest: str) -> OwnPrompts | None:
    """What the keys ``sets`` and ``pack`` of a manifest in ``folder`` mean; None where it has neither.

    ``sets`` is a table of role = set (a file, relative to the folder; a built-in or public name; a data set of the Hub), or
    one TOML file whose sets fill the roles of their names. ``zoo/FILE`` is a file of the embedded zoo.

    Raises:
        GeometryBenchError: another form, an unknown role, a file that does not exist; ``manifest`` begins the sentence.
    """
    if sets is None and pack is None:
        return None
    found = () if sets is None else _whole(sets, folder, manifest) if isinstance(sets, str) else sets
    if not isinstance(found, tuple):
        found = _table(sets, folder, manifest)
    return OwnPrompts(found, None if pack is None else _file(pack, folder, f"{manifest} names the pack"), manifest)


def spelled_anywhere(sets: Any, pack: str | None, folder: Path, manifest: str) -> dict[str, Any]:
    """The keys ``sets`` and ``pack`` as a manifest in another folder has to spell them; absent ones are left out.

    Raises:
        GeometryBenchError: any fault that :func:`own_prompts` finds.
    """
    own_prompts(sets, pack, folder, manifest)

    def spelled(name: str) -> str:
        file, rest = file_of(name)
        return name if file is None else f"{_spelled(_file(file, folder, manifest))}{rest}"

    made: dict[str, Any] = {}
    if sets is not None:
        made["sets"] = spelled(sets) if isinstance(sets, str) else {role: spelled(name) for role, name in sets.items()}
    if pack is not None:
        made["pack"] = _spelled(_file(pack, folder, manifest))
    return made


def _whole(given: str, folder: Path, manifest: str) -> tuple[tuple[str, str], ...]:
    """Each role that a file of several sets has a set for."""
    file = _file(given, folder, f"{manifest} names the sets")
    if file.suffix.lower() != ENDING:
        raise GeometryBenchError(f"{manifest} names the sets {given}: one file for all roles ends in {ENDING}.")
    names = read_collection(file, f"The file of prompt sets {file}").names
    for name in names:
        _check_role(name, f"{manifest} names the sets {given}, whose set {name!r}")
    return tuple((name, f"{file}:{name}") for name in names)


def _table(sets: Any, folder: Path, manifest: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(sets, Mapping):
        raise GeometryBenchError(f"{manifest} has no table at 'sets'; write it as role = set, or name one TOML file.")
    made = []
    for role, given in sets.items():
        _check_role(role, f"{manifest} names a set for {role!r}, which")
        if not isinstance(given, str) or not given.strip():
            raise GeometryBenchError(f"{manifest} has no text at 'sets.{role}'; write a file or the name of a set.")
        name, rest = file_of(given)
        made.append((role, given if name is None else f"{_file(name, folder, f'{manifest} names the set')}{rest}"))
    return tuple(made)


def _check_role(role: str, beginning: str) -> None:
    if role not in ROLES:
        raise GeometryBenchError(f"{beginning} is no role{did_you_mean(role, ROLES)}; roles are {', '.join(ROLES)}.")


def _spelled(file: Path) -> str:
    fixtures = (data_root() / "fixtures").resolve()
    embedded = file.is_relative_to(fixtures / _EMBEDDED)
    return file.relative_to(fixtures).as_posix() if embedded else str(file)


def _file(given: str, folder: Path, beginning: str) -> Path:
    place = folder / Path(given).expanduser()
    if not place.exists() and Path(given).parts[:1] == (_EMBEDDED,):
        place = data_root() / "fixtures" / given
    if not place.is_file():
        raise GeometryBenchError(f"{beginning} {given}, but there is no file {place}; correct the name.")
    return place.resolve()
