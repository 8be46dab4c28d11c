"""The declaration of a family's training: read, checked, and nothing else. Imports no torch.

A recipe is a TOML file; docs of its keys are in the dataclasses below. ``extends`` names another recipe (relative to
the file) that it adds to: tables are merged key by key, and a stage replaces the keys of the stage of the same role.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from geometry_bench.errors import GeometryBenchError
from geometry_bench.resources import data_root
from geometry_bench.storage import digest
from geometry_bench.subjects.families import ROLES

METHODS = ("pretrain", "sft", "dpo", "given")
SAVE_DTYPES = ("float32", "bfloat16", "float16")

_TOP = ("name", "description", "extends", "keep", "training", "tokenizer", "model", "stages")
_STAGE = ("role", "method", "parents", "alignment", "data", "training", "tokens", "pack")
_TOKENIZER = ("pieces", "documents", "from", "generator", "seed")
_KINDS = ("generator", "dataset", "file")
_COLUMNS = ("prompt", "response", "messages", "text", "chosen", "rejected", "responses", "chosen_index")
_SOURCE = (*_KINDS, "seed", "count", "config", "split", "revision", "where", *_COLUMNS)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MAX_EXTENDS = 8


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

    ``spread``: weights are drawn from N(0, spread / sqrt(fan in)).
    """

    name: str
    description: str
    path: Path
    tokenizer: TokenizerSpec | None
    model: Mapping[str, Any] | None
    spread: float
    stages: tuple[Stage, ...]

    @property
    def makes_base(self) -> bool:
        """Whether the base is trained here, not named by the user."""
        return any(stage.role == "base" for stage in self.stages)

    def members(self) -> tuple[Planned, ...]:
        """Every member but a base that the user names, each after what it starts from."""
        return _planned(self.stages, self.path)

    def hash(self) -> str:
        """``"sha256:" + 64 hex digits`` over the resolved declaration; its wording and place do not count."""
        facts = asdict(self)
        for key in ("description", "path"):
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
        f"There is no recipe {given!r}{_nearest(given, known)}; bundled are {', '.join(sorted(known)) or 'none'}, or "
        "give the path of a TOML file."
    )


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe. Raises GeometryBenchError naming the file, the place and the key."""
    table = _read(path, 0)
    training = _table(table.get("training", {}), f"[training] of {path}")
    stages = tuple(_stage(raw, training, path) for raw in table.get("stages", ()))
    if not stages:
        raise GeometryBenchError(f"{path} has no [[stages]]; a recipe needs at least one.")
    roles = [stage.role for stage in stages]
    twice = next((role for role in roles if roles.count(role) > 1), None)
    if twice is not None:
        raise GeometryBenchError(
            f"{path} has two stages with the role {twice}; give one stage several parents instead."
        )
    model = dict(_table(table["model"], f"[model] of {path}")) if "model" in table else None
    tokenizer = _tokenizer(table["tokenizer"], path) if "tokenizer" in table else None
    makes_base = "base" in roles
    if makes_base and (model is None or tokenizer is None):
        missing = "model" if model is None else "tokenizer"
        raise GeometryBenchError(f"{path} has a base stage but no [{missing}] table that says what to make.")
    if not makes_base and (model is not None or tokenizer is not None):
        extra = "model" if model is not None else "tokenizer"
        raise GeometryBenchError(f"{path} has a [{extra}] table but no stage with the role base; add it, or remove it.")
    spread = 0.6
    if model is not None:
        spread = _number(model.pop("spread", 0.6), "spread", f"[model] of {path}")
        if "type" not in model:
            raise GeometryBenchError(f'[model] of {path} lacks `type`, the architecture, for instance type = "llama".')
    recipe = Recipe(
        name=table["name"],
        description=str(table.get("description", "")),
        path=path,
        tokenizer=tokenizer,
        model=model,
        spread=spread,
        stages=stages,
    )
    recipe.members()  # parents exist and form no cycle
    return recipe


# Reading and merging


def _read(path: Path, depth: int) -> dict[str, Any]:
    if depth > _MAX_EXTENDS:
        raise GeometryBenchError(f"{path} extends a recipe that extends it again; remove one `extends`.")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GeometryBenchError(f"Cannot read the recipe {path} ({error.strerror or error}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise GeometryBenchError(f"The recipe {path} is not valid TOML: {error}.") from error
    _known(table, _TOP, f"the recipe {path}")
    for stage in _list(table.get("stages", []), "stages", f"the recipe {path}"):
        where = f"a stage of {path}"
        if _choice(_table(stage, where).get("role"), ROLES, "role", where):
            _known(stage, _STAGE, f"the stage {stage['role']} of {path}")
    for stage in table.get("stages", []):
        _anchor_files(stage, path)
    if not isinstance(table.get("name"), str) or not _NAME.fullmatch(table["name"]):
        raise GeometryBenchError(f"{path} needs a `name` of letters, digits, dots, dashes and underscores.")
    if "extends" in table:
        if not isinstance(table["extends"], str):
            raise GeometryBenchError(f"`extends` of {path} must be the path of one recipe.")
        parent = path.parent / table["extends"]
        if not parent.is_file():
            raise GeometryBenchError(f"{path} extends {table['extends']}, but there is no such file beside it.")
        table = _merged(_read(parent, depth + 1), table)
    if "keep" in table:
        keep = _list(table.pop("keep"), "keep", f"the recipe {path}")
        roles = [stage["role"] for stage in table.get("stages", [])]
        for role in keep:
            _choice(role, tuple(roles), "role in `keep`", str(path))
        table["stages"] = [stage for stage in table["stages"] if stage["role"] in keep]
    return table


def _anchor_files(stage: dict[str, Any], path: Path) -> None:
    """Remember which recipe a data file was named in: its path is relative to that one."""
    for source in stage.get("data", []) if isinstance(stage.get("data", []), list) else []:
        if isinstance(source, dict) and isinstance(source.get("file"), str):
            source["_beside"] = str(path.parent)


def _merged(parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    merged = {**parent, **child}
    for key in ("training", "tokenizer", "model"):
        if key in parent and key in child:
            merged[key] = {**parent[key], **child[key]}
    own = {stage["role"]: stage for stage in child.get("stages", [])}
    stages = []
    for stage in parent.get("stages", []):
        change = own.pop(stage["role"], {})
        both = {**stage, **change}
        if "training" in stage and "training" in change:
            both["training"] = {**stage["training"], **change["training"]}
        stages.append(both)
    merged["stages"] = [*stages, *own.values()]
    return merged


# Parts


def _stage(raw: dict[str, Any], defaults: Mapping[str, Any], path: Path) -> Stage:
    role = raw["role"]
    where = f"the stage {role} of {path}"
    method = _choice(raw.get("method"), METHODS, "method", where)
    own = _table(raw.get("training", {}), f"`training` of {where}")
    parents = tuple(_list(raw.get("parents", []), "parents", where))
    if not all(isinstance(parent, str) for parent in parents) or len(set(parents)) != len(parents):
        raise GeometryBenchError(f"`parents` of {where} must be different names of members.")
    if (role == "base") != (method == "pretrain"):
        raise GeometryBenchError(f"In {where}: method pretrain and role base go together, and nothing else is a base.")
    if role == "base" and parents:
        raise GeometryBenchError(f"In {where}: a base has no parents.")
    if role != "base" and not parents:
        raise GeometryBenchError(
            f'In {where}: `parents` is missing; name what it starts from, e.g. parents = ["base"].'
        )
    for key in ("tokens", "pack"):
        if method == "pretrain":
            _whole(raw.get(key), key, where, least=2)
        elif key in raw:
            raise GeometryBenchError(f"In {where}: `{key}` belongs to method pretrain only.")
    data = tuple(
        _source(source, f"data source {i} of {where}")
        for i, source in enumerate(_list(raw.get("data", []), "data", where), 1)
    )
    if not data and method != "given":
        raise GeometryBenchError(f"In {where}: `data` is missing; name at least one source of rows.")
    alignment = raw.get("alignment")
    if alignment is not None and not isinstance(alignment, str):
        raise GeometryBenchError(f"In {where}: `alignment` must be text.")
    training = {**defaults, **own}
    save = training.get("save_dtype", "float32")
    _choice(save, SAVE_DTYPES, "save_dtype", f"`training` of {where}")
    return Stage(role, method, parents, alignment, data, training, tuple(own), raw.get("tokens"), raw.get("pack"))


def _source(raw: Any, where: str) -> Source:
    raw = dict(_table(raw, where))
    beside = raw.pop("_beside", None)
    _known(raw, _SOURCE, where)
    kinds = [kind for kind in _KINDS if kind in raw]
    if len(kinds) != 1:
        raise GeometryBenchError(f"In {where}: give exactly one of {', '.join(_KINDS)}.")
    kind = kinds[0]
    name = raw[kind]
    if not isinstance(name, str) or not name:
        raise GeometryBenchError(f"In {where}: `{kind}` must be text.")
    columns = {key: raw[key] for key in _COLUMNS if key in raw}
    if kind == "generator":
        for key in ("config", "split", "revision", "where", *columns):
            if key in raw:
                raise GeometryBenchError(f"In {where}: `{key}` has no meaning for a generator.")
        _whole(raw.get("seed"), "seed", where, least=0)
    if kind == "dataset" and "split" not in raw:
        raise GeometryBenchError(f'In {where}: a dataset needs `split`, for instance split = "train".')
    for key in ("seed", "count"):
        if key in raw:
            _whole(raw[key], key, where, least=0 if key == "seed" else 1)
    for key, value in columns.items():
        good = isinstance(value, str) or (key == "responses" and _two_names(value))
        if not good:
            wanted = "a list of two column names" if key == "responses" else "the name of a column"
            raise GeometryBenchError(f"In {where}: `{key}` must be {wanted}.")
    if ("responses" in columns) != ("chosen_index" in columns):
        raise GeometryBenchError(f"In {where}: `responses` and `chosen_index` go together.")
    return Source(
        kind,
        name,
        seed=raw.get("seed"),
        count=raw.get("count"),
        config=raw.get("config"),
        split=raw.get("split"),
        revision=raw.get("revision"),
        columns=columns,
        where=dict(_table(raw.get("where", {}), f"`where` of {where}")),
        beside=beside,
    )


def _two_names(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(one, str) for one in value)


def _tokenizer(raw: Any, path: Path) -> TokenizerSpec:
    where = f"[tokenizer] of {path}"
    raw = _table(raw, where)
    _known(raw, _TOKENIZER, where)
    shared = raw.get("from")
    if shared is not None:
        if not isinstance(shared, str) or not shared:
            raise GeometryBenchError(f"In {where}: `from` must be the name of a family's folder.")
        # A child that shares a tokenizer may extend a recipe that learns one.
        return TokenizerSpec(None, 0, "", 0, shared)
    pieces = _whole(raw.get("pieces"), "pieces", where, least=300)
    documents = _whole(raw.get("documents", 12000), "documents", where, least=1)
    seed = _whole(raw.get("seed", 11), "seed", where, least=0)
    return TokenizerSpec(pieces, documents, str(raw.get("generator", "documents")), seed, None)


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
                f"{_nearest(member.parent, names)}; there are {', '.join(sorted(names))}."
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


# Checks of values


def _known(table: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in keys:
            raise GeometryBenchError(
                f"Unknown key `{key}` in {where}{_nearest(key, keys)}; known are {', '.join(keys)}."
            )


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f" (did you mean {near[0]}?)" if near else ""


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise GeometryBenchError(f"{where[0].upper() + where[1:]} must be a table of keys and values.")
    return value


def _list(value: Any, key: str, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise GeometryBenchError(f"`{key}` of {where} must be a list.")
    return value


def _choice(value: Any, choices: tuple[str, ...], key: str, where: str) -> str:
    if value not in choices:
        near = _nearest(value, choices) if isinstance(value, str) else ""
        what = "is missing" if value is None else f"{value!r} is unknown{near}"
        raise GeometryBenchError(f"In {where}: {key} {what}; it is one of {', '.join(choices)}.")
    return str(value)


def _whole(value: Any, key: str, where: str, *, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise GeometryBenchError(f"In {where}: `{key}` must be a whole number of at least {least}.")
    return value


def _number(value: Any, key: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise GeometryBenchError(f"In {where}: `{key}` must be a number above 0.")
    return float(value)
