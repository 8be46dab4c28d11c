"""A recipe: the declaration of a family's training, and the members that follow from it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from geometry_bench.checked import did_you_mean
from geometry_bench.errors import GeometryBenchError
from geometry_bench.resources import data_root
from geometry_bench.storage import digest


@dataclass(frozen=True)
class Source:
    """Where some of a stage's rows come from.

    ``kind`` is "generator" (the zoo's own text), "dataset" (through `datasets`) or "file"; ``name`` its name, Hub id or
    path, relative to the folder ``beside`` of the recipe. ``count`` is the number of rows taken (None: all of them), after
    shuffling by ``seed`` where one is given. ``columns`` maps the parts of a row to the columns that hold them; ``where``
    keeps rows with equal values only.
    """

    kind: str
    name: str
    seed: int | None = None
    count: int | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    where: Mapping[str, Any] = field(default_factory=dict)
    beside: str | None = field(default=None, compare=False)

    def declared(self) -> dict[str, Any]:
        """The declaration without the places of this machine: what a hash is taken of."""
        facts = {key: value for key, value in asdict(self).items() if key != "beside"}
        if Path(self.name).is_absolute():
            facts["name"] = Path(self.name).name
        return facts


@dataclass(frozen=True)
class Stage:
    """One training stage: ``role`` of the members it makes, one for each of ``parents`` (names of members).

    ``method`` is "pretrain" (from nothing, on ``tokens`` tokens in rows of ``pack``), "sft", "dpo", or "given" (the user
    names an existing model). ``training`` holds arguments of the trainer, the recipe's defaults included.
    """

    role: str
    method: str
    parents: tuple[str, ...]
    alignment: str | None
    data: tuple[Source, ...]
    training: Mapping[str, Any]
    own_training: tuple[str, ...]
    tokens: int | None = None
    pack: int | None = None


@dataclass(frozen=True)
class TokenizerSpec:
    """Either ``pieces`` learnt from ``documents`` rows of ``generator``, or the tokenizer of the family ``shared``."""

    pieces: int | None
    documents: int
    generator: str
    seed: int
    shared: str | None


@dataclass(frozen=True)
class Planned:
    """One member to be made."""

    name: str
    role: str
    parent: str | None
    stage: Stage


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. ``model`` and ``tokenizer`` are None unless the recipe makes its own base.

    ``spread``: weights are drawn from N(0, spread / sqrt(fan in)). ``sets`` and ``pack`` are what the made family's manifest
    names for its members to be measured with; files are absolute, or of the embedded zoo.
    """

    name: str
    description: str
    path: Path
    tokenizer: TokenizerSpec | None
    model: Mapping[str, Any] | None
    spread: float
    stages: tuple[Stage, ...]
    sets: Mapping[str, str] | str | None = None
    pack: str | None = None

    @property
    def makes_base(self) -> bool:
        """Whether the base is trained here, not named by the user."""
        return any(stage.role == "base" for stage in self.stages)

    def members(self) -> tuple[Planned, ...]:
        """Every member but a base that the user names, each after what it starts from."""
        return _planned(self.stages, self.path)

    def hash(self) -> str:
        """``"sha256:" + 64 hex digits`` over what decides the weights; wording, place and prompts do not count."""
        facts = asdict(self)
        for key in ("description", "path", "sets", "pack"):
            del facts[key]
        for stage, known in zip(facts["stages"], self.stages, strict=True):
            del stage["own_training"]
            stage["data"] = [source.declared() for source in known.data]
        return f"sha256:{digest(facts)}"


def bundled() -> dict[str, Path]:
    """Recipes that come with the package: name -> file."""
    root = data_root() / "fixtures"
    files = [*sorted((root / "zoo" / "recipes").glob("*.toml")), *sorted((root / "recipes").glob("*.toml"))]
    return {path.stem: path for path in files}


def find_recipe(given: str) -> Path:
    """The file that a path or the bare name of a bundled recipe stands for. Raises GeometryBenchError."""
    path = Path(given).expanduser()
    if path.is_file():
        return path
    known = bundled()
    if given in known:
        return known[given]
    if path.suffix == ".toml" or "/" in given:
        raise GeometryBenchError(f"There is no recipe file {given}; bundled recipes are {', '.join(sorted(known))}.")
    raise GeometryBenchError(
        f"There is no recipe {given!r}{did_you_mean(given, known)}; bundled are {', '.join(sorted(known)) or 'none'}, or "
        "give the path of a TOML file."
    )


def _planned(stages: Iterable[Stage], path: Path) -> tuple[Planned, ...]:
    wanted: list[Planned] = []
    for stage in stages:
        if stage.role == "base":
            wanted.append(Planned("base", "base", None, stage))
            continue
        for parent in stage.parents:
            name = stage.role if len(stage.parents) == 1 else f"{parent}-{stage.role}"
            wanted.append(Planned(name, stage.role, parent, stage))
    names = {"base", *(member.name for member in wanted)}
    for member in wanted:
        if member.parent is not None and member.parent not in names:
            raise GeometryBenchError(
                f"The stage {member.role} of {path} starts from {member.parent!r}, which no stage makes"
                f"{did_you_mean(member.parent, names)}; there are {', '.join(sorted(names))}."
            )
    ordered: list[Planned] = []
    done = {"base"} if not any(member.name == "base" for member in wanted) else set()
    while wanted:
        ready = [member for member in wanted if member.parent is None or member.parent in done]
        if not ready:
            raise GeometryBenchError(
                f"In {path} the stages {', '.join(sorted({m.role for m in wanted}))} start from each other in a circle."
            )
        ordered.append(ready[0])
        done.add(ready[0].name)
        wanted.remove(ready[0])
    return tuple(ordered)
