"""Families: checkpoints that share an ancestor, each with a role, as a ``family.toml`` declares them. Imports no torch."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tomli_w

from geometry_bench.checked import Declaration, Name, Text, checked, did_you_mean
from geometry_bench.errors import GeometryBenchError
from geometry_bench.prompts.own import OwnPrompts, own_prompts
from geometry_bench.resources import data_root
from geometry_bench.subjects.manifests import (
    EMBEDDED,
    SCHEMA,
    inside_zoo,
    located_model,
    read_tables,
)
from geometry_bench.subjects.spec import SubjectSpec

KIND = "family manifest"
MANIFEST = "family.toml"
BASE = "base"
CONTROL = "control"
ROLES: tuple[str, ...] = (BASE, "aligned", "safety_tuned", "safety_dpo", "useful", "harmful", "contaminated", CONTROL)
"""What a member can be (source D): the common ancestor, its aligned version, the latter tuned further for safety, and
fine-tunes on useful, harmful and mixed data, and one on an unrelated benign task, which overlaps are held against."""


@dataclass(frozen=True)
class Member:
    """One checkpoint of a family, as its manifest declares it.

    ``model`` is a folder (relative to the manifest, or absolute), ``zoo/…`` for an embedded model, or a Hub id
    ``org/name[@revision]``. ``parent`` is the name of the member that its training started from; the base alone has none.
    ``alignment`` is the alignment method in free text; ``method`` how it was made (pretrain, sft, dpo). The hashes say
    what it was made from and are written by the training.
    """

    name: Name
    role: Text
    model: Text
    revision: Text | None = None
    parent: Text | None = None
    alignment: Text | None = None
    method: Text | None = None
    data_hash: Text | None = None
    stage_hash: Text | None = None
    weights: Text | None = None


@dataclass(frozen=True)
class Family:
    """A family and where its manifest is (or will be written); members in the manifest's order.

    ``sets`` and ``pack`` are as the manifest spells them, see :func:`own_prompts`.

    Raises:
        GeometryBenchError: not exactly one base, an unknown role, two members of one name or one place, a parent that
            is missing, is no member, or makes a cycle, a name that a test id cannot hold.
    """

    name: str
    path: Path
    members: tuple[Member, ...]
    recipe: str | None = None
    recipe_hash: str | None = None
    sets: Mapping[str, str] | str | None = None
    pack: str | None = None

    def __post_init__(self) -> None:
        _check(self)

    @property
    def folder(self) -> Path:
        """The folder of the manifest, which relative ``model`` entries start from."""
        return self.path.parent

    @cached_property
    def prompts(self) -> OwnPrompts | None:
        """The sets and the pack that the members are measured with, None for the built-in ones.

        Raises:
            GeometryBenchError: an unknown role, or a file that does not exist.
        """
        return own_prompts(self.sets, self.pack, self.folder, f"The {KIND} {self.path}")

    def member(self, name: str) -> Member:
        """The member of that name.

        Raises:
            GeometryBenchError: there is none.
        """
        for member in self.members:
            if member.name == name:
                return member
        raise GeometryBenchError(
            f"The family {self.name} has no member {name!r}; there are {', '.join(m.name for m in self.members)}."
        )

    def by_role(self, role: str) -> tuple[Member, ...]:
        """The members of that role, none to several.

        Raises:
            GeometryBenchError: there is no such role.
        """
        if role not in ROLES:
            raise GeometryBenchError(f"{role!r} is no role of a family; roles are {', '.join(ROLES)}.")
        return tuple(member for member in self.members if member.role == role)

    @property
    def id(self) -> str:
        """The family as in test ids and records: its name, with ``zoo/`` before it in the embedded zoo."""
        return self.name if inside_zoo(self.folder) is None else f"{EMBEDDED}/{self.name}"

    def subject_id(self, member: Member) -> str:
        """A member as in test ids and records: ``FAMILY/MEMBER``, ``zoo/FAMILY/MEMBER`` in the embedded zoo."""
        return f"{self.id}/{member.name}"

    def spec(self, member: Member) -> SubjectSpec:
        """The member as a subject to measure, with the family's facts; dtype, device and kernel are left to the caller.

        A member whose folder holds an adapter only is its parent with that adapter on it.

        Raises:
            GeometryBenchError: its folder does not exist, or it is an adapter over an adapter.
        """
        model, revision, adapter = self._model(member), member.revision, None
        if member.parent is not None and _is_adapter(model):
            parent = self.spec(self.member(member.parent))
            if parent.adapter is not None:
                raise GeometryBenchError(
                    f"Member {member.name} of the {KIND} {self.path} is an adapter over {member.parent}, which is "
                    "an adapter itself: merge that one into its model and name the result."
                )
            model, revision, adapter = parent.model, parent.revision, model
        return SubjectSpec(
            model,
            revision=revision,
            adapter=adapter,
            alignment=member.alignment,
            name=self.subject_id(member),
            family=self.id,
            role=member.role,
            parent=self.subject_id(self.member(member.parent)) if member.parent is not None else None,
            prompts=self.prompts,
        )

    def _model(self, member: Member) -> str:
        where = f"Member {member.name} of the {KIND} {self.path}"
        return located_model(member.model, member.revision, self.folder, where)


def _is_adapter(model: str) -> bool:
    folder = Path(model)
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


# Reading


class _Head(Declaration):
    name: Name
    recipe: Text | None = None
    recipe_hash: Text | None = None
    sets: Any = None
    pack: Text | None = None


def load_family(path: Path) -> Family:
    """Read and check a manifest: a file, a folder that holds ``family.toml``, or ``zoo/NAME`` for an embedded family.

    No model file is opened; only folders named as members, and files of sets and pack, must exist.

    Raises:
        GeometryBenchError: no such file, not TOML, another schema, an unknown or missing key, a value that is not text, a
            member's folder or a file of prompts that is missing, or any fault that :class:`Family` finds.
    """
    file = _manifest(path)
    content, entries = read_tables(file, KIND)
    own = checked(_Head, content, f"The {KIND} {file}")
    members = []
    for number, entry in enumerate(entries, start=1):
        named = {"name": str(entry["role"]), **entry} if isinstance(entry, dict) and "role" in entry else entry
        name = named["name"] if isinstance(named, dict) and isinstance(named.get("name"), str) else f"number {number}"
        members.append(checked(Member, named, f"Member {name} of the {KIND} {file}"))
    family = Family(own.name, file, tuple(members), own.recipe, own.recipe_hash, own.sets, own.pack)
    for member in family.members:
        family.spec(member)  # its folder must be there
    return family


@functools.cache
def embedded_families() -> tuple[Family, ...]:
    """The families of the embedded zoo.

    Raises:
        GeometryBenchError: this installation has none.
    """
    zoo = data_root() / "fixtures" / "zoo"
    families = tuple(load_family(manifest) for manifest in sorted(zoo.glob(f"*/{MANIFEST}")))
    if not families:
        raise GeometryBenchError(
            "This installation has no embedded models: name a subject with --model ORG/NAME or a folder."
        )
    return families


@functools.cache
def embedded_specs() -> tuple[SubjectSpec, ...]:
    """The members of the embedded zoo, by their family manifests."""
    return tuple(family.spec(member) for family in embedded_families() for member in family.members)


def declared_member(name: str) -> SubjectSpec | None:
    """What a family's manifest says of a model: of an embedded one by its name, of a folder beside a ``family.toml``.

    Raises:
        GeometryBenchError: that manifest is faulty.
    """
    if name.startswith(f"{EMBEDDED}/"):
        return next((spec for spec in embedded_specs() if spec.name == name.rstrip("/")), None)
    folder = Path(name).expanduser()
    if not folder.is_dir() or not (folder.parent / MANIFEST).is_file():
        return None
    family = load_family(folder.parent)
    specs = (family.spec(member) for member in family.members)
    return next((spec for spec in specs if Path(spec.adapter or spec.model).resolve() == folder.resolve()), None)


def _manifest(path: Path) -> Path:
    given = Path(path).expanduser()
    if not given.exists() and given.parts[:1] == (EMBEDDED,) and len(given.parts) == 2:
        given = data_root() / "fixtures" / given
    if given.is_dir():
        if not (given / MANIFEST).is_file():
            raise GeometryBenchError(f"The folder {path} holds no {MANIFEST}; give a family's folder or its manifest.")
        return given / MANIFEST
    if not given.exists():
        raise GeometryBenchError(f"There is no family manifest {path}; give a family's folder or its {MANIFEST}.")
    return given


# Checks of the whole


def _check(family: Family) -> None:
    where = f"The family manifest {family.path}"

    def fault(text: str) -> GeometryBenchError:
        return GeometryBenchError(f"{where} {text}")

    if family.name == EMBEDDED:
        raise fault(f"calls its family {EMBEDDED!r}, a name kept for the embedded models; choose another.")
    by_name = {member.name: member for member in family.members}
    by_place: dict[tuple[str, str | None], Member] = {}
    by_start: dict[tuple[str, str | None], Member] = {}
    for place, member in enumerate(family.members):
        if member.role not in ROLES:
            hint = did_you_mean(member.role, ROLES)
            raise fault(f"gives {member.name} the unknown role {member.role!r}{hint}; roles are {', '.join(ROLES)}.")
        if any(other.name == member.name for other in family.members[:place]):
            raise fault(f"has two members called {member.name!r}; give each a name of its own.")
        same = by_place.setdefault((os.path.normpath(member.model), member.revision), member)
        if same is not member:
            raise fault(f"names {member.model} twice, as {same.name} and as {member.name}; keep one of them.")
    bases = [member.name for member in family.members if member.role == BASE]
    if len(bases) != 1:
        raise fault(f"has {' and '.join(bases) if bases else 'no member'} as its base; it needs exactly one.")
    for member in family.members:
        if member.role == BASE:
            if member.parent is not None:
                raise fault(f"gives the base {member.name} the parent {member.parent!r}; the base has none, drop it.")
        elif member.parent is None:
            raise fault(f"gives {member.name} no parent; name the member that its training started from.")
        elif member.parent not in by_name:
            raise fault(f"gives {member.name} the parent {member.parent!r}, which is no member; check the spelling.")
        same = by_start.setdefault((member.role, member.parent), member)
        if same is not member:
            raise fault(
                f"has two members of role {member.role} from {member.parent}, {same.name} and {member.name}; keep one "
                "of them here and put the other into a family of its own."
            )
    for member in family.members:
        line = [member.name]
        while (parent := by_name[line[-1]].parent) is not None:
            if parent in line:
                raise fault(f"has parents in a circle ({' from '.join([*line, parent])}); one must come from the base.")
            line.append(parent)


# Writing


def dump_family(family: Family) -> str:
    """The manifest's text: keys in a fixed order, absent ones left out; the same family gives the same bytes."""
    own = {"schema": SCHEMA, "name": family.name, "recipe": family.recipe, "recipe_hash": family.recipe_hash}
    own |= {"pack": family.pack, "sets": family.sets}
    tables = [_present(asdict(member)) for member in family.members]
    return tomli_w.dumps({**_present(own), "members": tables})


def _present(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value is not None}
