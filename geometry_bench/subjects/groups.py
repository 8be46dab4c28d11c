"""Groups: unrelated models measured together about one reference model (source B). Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geometry_bench.checked import Declaration, Name, Text, checked
from geometry_bench.errors import GeometryBenchError
from geometry_bench.prompts.own import OwnPrompts, own_prompts
from geometry_bench.resources import data_root
from geometry_bench.subjects.manifests import EMBEDDED, inside_zoo, located_model, read_tables
from geometry_bench.subjects.spec import SubjectSpec

KIND = "group manifest"
GROUP = "group"
"""Stands before a group's name in test ids and records; alone, for a group that a run does not have."""

OF_THE_RUN = f"{GROUP}/run"
"""The group of all subjects of a run, made by ``--reference``."""

DEPTH = 2 / 3
"""Relative depth of the block that a group is measured at by default: the source does not state its layer."""


class _Head(Declaration):
    name: Name
    reference: Text
    sets: Any = None
    pack: Text | None = None


class _Member(Declaration):
    name: Name
    model: Text
    revision: Text | None = None
    alignment: Text | None = None


@dataclass(frozen=True)
class Group:
    """Models by the name that each goes by in the group, and the one whose space the others are mapped to.

    ``prompts`` are those that its manifest names; all members are read with them.

    Raises:
        GeometryBenchError: fewer than two members, or a reference that is none of them.
    """

    id: str
    reference: str
    members: Mapping[str, SubjectSpec]
    prompts: OwnPrompts | None = None

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise GeometryBenchError(
                f"{self.id} has one member, {', '.join(self.members)}: a group needs two models or more."
            )
        if self.reference not in self.members:
            raise GeometryBenchError(
                f"The reference {self.reference} is no member of {self.id}, whose members are "
                f"{', '.join(self.members)}: name one of them."
            )


def load_group(path: Path) -> Group:
    """Read and check a group's manifest: ``schema = 1``, ``name``, ``reference`` and ``[[members]]`` of ``name``, ``model``;
    ``sets`` and ``pack`` as in a family's.

    ``zoo/groups/NAME`` names an embedded one. Members are folders (relative to the manifest), ``zoo/…`` or Hub ids.

    Raises:
        GeometryBenchError: no such file, not TOML, another schema, an unknown or missing key, two members of one name, a
            folder that is missing, or any fault that :class:`Group` finds.
    """
    file = group_manifest(path)
    content, entries = read_tables(file, KIND)
    own = checked(_Head, content, f"The {KIND} {file}")
    members: dict[str, SubjectSpec] = {}
    for number, entry in enumerate(entries, start=1):
        where = f"Member number {number} of the {KIND} {file}"
        declared = checked(_Member, entry, where)
        if declared.name in members:
            raise GeometryBenchError(f"{where} is called {declared.name!r} like another one; give it another name.")
        model = located_model(declared.model, declared.revision, file.parent, where)
        members[declared.name] = SubjectSpec(model, revision=declared.revision, alignment=declared.alignment)
    prefix = f"{EMBEDDED}-" if inside_zoo(file.parent) is not None else ""
    prompts = own_prompts(own.sets, own.pack, file.parent, f"The {KIND} {file}")
    return Group(f"{GROUP}/{prefix}{own.name}", own.reference, members, prompts)


def embedded_groups() -> tuple[Group, ...]:
    """The groups of the embedded zoo, by name."""
    return tuple(load_group(manifest) for manifest in sorted(_embedded_folder().glob("*.toml")))


def group_of(specs: Sequence[SubjectSpec], reference: str) -> Group:
    """The subjects of a run as one group about ``reference``, which is spelled as its ``--model`` or FAMILY/MEMBER.

    Raises:
        GeometryBenchError: one subject alone, or a reference that is none of them.
    """
    spelled = reference.rstrip("/")
    return Group(OF_THE_RUN, spelled, {(spec.name or spec.model).rstrip("/"): spec for spec in specs})


def _embedded_folder() -> Path:
    return data_root() / "fixtures" / "zoo" / "groups"


def group_manifest(path: str | Path) -> Path:
    """The manifest that is meant, however it is spelled.

    Raises:
        GeometryBenchError: there is none.
    """
    given = Path(path).expanduser()
    if not given.exists() and given.parts[:2] == (EMBEDDED, "groups") and len(given.parts) == 3:
        given = _embedded_folder() / f"{given.parts[2].removesuffix('.toml')}.toml"
    if given.is_dir():
        raise GeometryBenchError(f"{path} is a folder; give the group's manifest, a TOML file.")
    if not given.exists():
        raise GeometryBenchError(
            f"There is no {KIND} {path}; give a TOML file, or zoo/groups/NAME for an embedded one."
        )
    return given.resolve()
