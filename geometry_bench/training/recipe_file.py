"""Recipe files: read, merged with what they extend, and checked. Imports no torch.

A recipe is a TOML file. ``extends`` names another recipe (relative to the file) that it adds to: tables are merged key by
key, and a stage replaces the keys of the stage of the same role.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, model_validator

from geometry_bench.checked import Declaration, Name, Text, checked, did_you_mean, one_of, read_toml
from geometry_bench.errors import GeometryBenchError
from geometry_bench.prompts.own import spelled_anywhere
from geometry_bench.subjects.families import BASE, ROLES
from geometry_bench.training.recipe import Recipe, Source, Stage, TokenizerSpec

_KINDS = ("generator", "dataset", "file")
_COLUMNS = ("prompt", "response", "messages", "text", "chosen", "rejected", "responses", "chosen_index")
_MAX_EXTENDS = 8
METHODS = ("pretrain", "sft", "dpo", "given")
SAVE_DTYPES = ("float32", "bfloat16", "float16")

_Seed = Annotated[int, Field(strict=True, ge=0)]
_Count = Annotated[int, Field(strict=True, ge=1)]


class _Source(Declaration):
    generator: Text | None = None
    dataset: Text | None = None
    file: Text | None = None
    seed: _Seed | None = None
    count: _Count | None = None
    config: Text | None = None
    split: Text | None = None
    revision: Text | None = None
    where: dict[str, Any] = Field({})
    prompt: Text | None = None
    response: Text | None = None
    messages: Text | None = None
    text: Text | None = None
    chosen: Text | None = None
    rejected: Text | None = None
    responses: Annotated[list[Text], Field(min_length=2, max_length=2)] | None = None
    chosen_index: Text | None = None
    beside: str | None = Field(None, alias="_beside")

    @property
    def columns(self) -> dict[str, Any]:
        return {key: value for key in _COLUMNS if (value := getattr(self, key)) is not None}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        kinds = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"names {' and '.join(kinds) or 'nothing'}; give exactly one of {', '.join(_KINDS)}")
        if self.generator is not None:
            extra = [key for key in ("config", "split", "revision", "where") if getattr(self, key)] + [*self.columns]
            if extra:
                raise ValueError(f"has {extra[0]!r}, which means nothing for a generator; remove it")
            if self.seed is None:
                raise ValueError("has no seed for its generator; add it")
        if self.dataset is not None and self.split is None:
            raise ValueError('has no split of its dataset; add it, for instance split = "train"')
        if (self.responses is None) != (self.chosen_index is None):
            raise ValueError("has one of responses and chosen_index; they go together")
        return self

    def source(self) -> Source:
        kind = next(kind for kind in _KINDS if getattr(self, kind) is not None)
        facts = {key: getattr(self, key) for key in ("seed", "count", "config", "split", "revision", "where", "beside")}
        return Source(kind, getattr(self, kind), columns=self.columns, **facts)


class _Part(Declaration):
    """A stage as one file of several that extend each other says it."""

    role: Annotated[str, one_of(ROLES)]
    method: Any = None
    parents: Any = None
    alignment: Any = None
    data: Any = None
    training: Any = None
    tokens: Any = None
    pack: Any = None


class _Stage(_Part):
    method: Annotated[str, one_of(METHODS)]
    parents: list[Text] = Field([])
    alignment: Text | None = None
    data: list[_Source] = Field([])
    training: dict[str, Any] = Field({})
    tokens: Annotated[int, Field(strict=True, ge=2)] | None = None
    pack: Annotated[int, Field(strict=True, ge=2)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(set(self.parents)) != len(self.parents):
            raise ValueError("names a parent twice; keep one of them")
        if (self.role == BASE) != (self.method == "pretrain"):
            raise ValueError("has method pretrain or role base without the other; the two go together")
        if self.role == BASE and self.parents:
            raise ValueError("has parents; a base has none, remove them")
        if self.role != BASE and not self.parents:
            raise ValueError('has no parents; name what it starts from, e.g. parents = ["base"]')
        for key in ("tokens", "pack"):
            if (self.method == "pretrain") != (getattr(self, key) is not None):
                raise ValueError(f"has {key!r} or method pretrain without the other; the two go together")
        if not self.data and self.method != "given":
            raise ValueError("has no data; name at least one source of rows")
        return self

    def stage(self, defaults: Mapping[str, Any]) -> Stage:
        training = {**defaults, **self.training}
        data = tuple(source.source() for source in self.data)
        own = tuple(self.training)
        return Stage(
            self.role, self.method, tuple(self.parents), self.alignment, data, training, own, self.tokens, self.pack
        )


class _Training(BaseModel):
    save_dtype: Annotated[str, one_of(SAVE_DTYPES)] = "float32"


class _Tokenizer(Declaration):
    pieces: Annotated[int, Field(strict=True, ge=300)] | None = None
    documents: _Count = 12000
    shared: Text | None = Field(None, alias="from")
    generator: Text = "documents"
    seed: _Seed = 11

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.pieces is None and self.shared is None:
            raise ValueError("has no pieces; say how many to learn, or from which family to take them")
        return self

    def spec(self) -> TokenizerSpec:
        if self.shared is not None:  # a child that shares a tokenizer may extend a recipe that learns one
            return TokenizerSpec(None, 0, "", 0, self.shared)
        return TokenizerSpec(self.pieces, self.documents, self.generator, self.seed, None)


class _Model(BaseModel, extra="allow"):
    """Its other keys are arguments of the architecture."""

    type: Text
    spread: Annotated[float, Field(strict=True, gt=0)] = 0.6


class _Recipe(Declaration):
    name: Name
    description: str = ""
    extends: Text | None = None
    keep: list[Text] | None = None
    sets: Any = None
    pack: Text | None = None
    training: dict[str, Any] = Field({})
    tokenizer: dict[str, Any] | None = None
    model: dict[str, Any] | None = None
    stages: list[_Part] = Field([])


# Reading and merging


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe. Raises GeometryBenchError naming the file, the place and the key."""
    merged = _read(path, 0)
    table = checked(_Recipe, merged, f"The recipe {path}")
    if not table.stages:
        raise GeometryBenchError(f"The recipe {path} has no [[stages]]; it needs at least one.")
    stages = []
    for raw in merged["stages"]:
        what = f"The stage {raw['role']} of {path}"
        stages.append(checked(_Stage, raw, what).stage(table.training))
        checked(_Training, stages[-1].training, f"`training` of the stage {raw['role']} of {path}")
    roles = [stage.role for stage in stages]
    twice = next((role for role in roles if roles.count(role) > 1), None)
    if twice is not None:
        raise GeometryBenchError(
            f"{path} has two stages with the role {twice}; give one stage several parents instead."
        )
    for key, part in (("model", table.model), ("tokenizer", table.tokenizer)):
        if BASE in roles and part is None:
            raise GeometryBenchError(f"{path} has a base stage but no [{key}] table that says what to make.")
        if BASE not in roles and part is not None:
            raise GeometryBenchError(
                f"{path} has a [{key}] table but no stage with the role base; add it, or remove it."
            )
    spread, model, tokenizer = _Model(type="x").spread, None, None
    if table.model is not None and table.tokenizer is not None:
        spread = checked(_Model, table.model, f"[model] of {path}").spread
        model = {key: value for key, value in table.model.items() if key != "spread"}
        tokenizer = checked(_Tokenizer, table.tokenizer, f"[tokenizer] of {path}").spec()
    recipe = Recipe(
        table.name, table.description, path, tokenizer, model, spread, tuple(stages), table.sets, table.pack
    )
    recipe.members()  # parents exist and form no cycle
    return recipe


def _read(path: Path, depth: int) -> dict[str, Any]:
    """The file's table with what it extends; its own keys are checked, and where it was, data files are relative to."""
    if depth > _MAX_EXTENDS:
        raise GeometryBenchError(f"{path} extends a recipe that extends it again; remove one `extends`.")
    table = read_toml(path, f"The recipe {path}")
    own = checked(_Recipe, table, f"The recipe {path}")
    for stage in table.get("stages", []):
        for source in stage["data"] if isinstance(stage.get("data"), list) else []:
            if isinstance(source, dict) and "file" in source:
                source["_beside"] = str(path.parent)
    table |= spelled_anywhere(own.sets, own.pack, path.parent, f"The recipe {path}")
    if own.extends is not None:
        parent = path.parent / own.extends
        if not parent.is_file():
            raise GeometryBenchError(f"{path} extends {own.extends}, but there is no such file beside it.")
        table = _merged(_read(parent, depth + 1), table)
    if own.keep is not None:
        roles = [stage["role"] for stage in table.get("stages", [])]
        unknown = next((role for role in own.keep if role not in roles), None)
        if unknown is not None:
            raise GeometryBenchError(
                f"{path} keeps {unknown!r}{did_you_mean(unknown, roles)}, which is no stage; there are {', '.join(roles)}."
            )
        table["stages"] = [stage for stage in table["stages"] if stage["role"] in own.keep]
    return table


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
