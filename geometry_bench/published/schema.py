"""Published figures of a source: read, validated, looked up. The files lie in ``baselines/published``.

A file keeps two things apart: what the source's own data say (cosines and norms, block by block) and what its text and
tables print. Nothing is corrected on the way in; the audit and the leaderboard compare the two.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from geometry_bench.errors import GeometryBenchError
from geometry_bench.published.tables import Measure, SweepRow, TableFacts, Variant
from geometry_bench.resources import data_root

SCHEMA_VERSION = 1
SOURCES = ("safety_compassion", "universal_direction", "magnitude_variance", "safety_subspaces")

_File = TypeVar("_File", bound=BaseModel)

MessageSet = Literal["suffering", "benign"]
AlignmentGroup = Literal["sft", "preference", "distilled", "undisclosed"]

TRADITIONS = ("chenrezig", "tara", "agape", "rahma")
"""The four contemplative framings, Buddhist (two), Christian, Islamic."""

# Cosines computed in bfloat16 can exceed one by a quantum (1.0078), so the bound is not exactly one.
_Cosine = Annotated[float, Field(ge=-1.01, le=1.01, allow_inf_nan=False)]
_Norm = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]


_PREFERENCE = ("dpo", "rlhf", "rlaif", "ppo", "kto", "orpo", "grpo")


def alignment_group_of(method: str) -> AlignmentGroup:
    """The group of an alignment method as published; the first rule that matches decides.

    DPO, RLHF or another training on preferences named: ``preference``; distilled: ``distilled``; undisclosed in part or
    whole: ``undisclosed``; SFT named: ``sft``. Only the model's own last method counts, not its parent's. Raises
    ``GeometryBenchError`` where no rule matches, so that an unknown method never lands in a group by default.
    """
    text = method.lower()
    if any(word in text for word in _PREFERENCE):
        return "preference"
    if "distil" in text:
        return "distilled"
    if "undisclosed" in text:
        return "undisclosed"
    if "sft" in text:
        return "sft"
    raise GeometryBenchError(
        f"The alignment method {method!r} names none of DPO, RLHF, PPO, KTO, SFT, distillation or 'undisclosed'; "
        "say it with one of these words."
    )


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Pair(_Frozen):
    """Two axes of one message set; a cosine does not depend on their order."""

    message_set: MessageSet
    a: str
    b: str

    @property
    def name(self) -> str:
        """``a↔b``, with the source's name ``baseline`` for no system message beside safety, ``compassion`` alike."""
        if self.message_set == "benign" and self.a == "safety":
            return f"safety↔{_SAFETY_TABLE_NAMES.get(self.b, self.b)}"
        return f"{self.a}↔{self.b}"


_SAFETY_TABLE_NAMES = {"chenrezig": "compassion", "empty": "baseline"}


class PrintedRow(_Frozen):
    """One row of a printed table: the subject's key, the method named in that row, the values column by column."""

    subject: str
    alignment: str | None
    values: tuple[float, ...]


class PrintedTable(_Frozen):
    """A table as the source prints it, rows in its order."""

    where: str
    columns: tuple[Pair, ...]
    rows: tuple[PrintedRow, ...]

    def value(self, subject: str, pair: Pair) -> float | None:
        """The printed cell, or None where the table has no such row or column."""
        for row in self.rows:
            for column, value in zip(self.columns, row.values, strict=True):
                if row.subject == subject and _same(column, pair):
                    return value
        return None

    @model_validator(mode="after")
    def _rectangular(self) -> PrintedTable:
        for row in self.rows:
            if len(row.values) != len(self.columns):
                raise ValueError(f"row {row.subject!r} has {len(row.values)} values for {len(self.columns)} columns")
        return self


class PrintedFigure(Pair):
    """One figure in a sentence of the source."""

    subject: str
    value: float
    where: str


class Printed(_Frozen):
    """What the source prints, in tables and in sentences, right or not."""

    tables: Mapping[str, PrintedTable]
    text: tuple[PrintedFigure, ...]


class PublishedStatement(_Frozen):
    """A sentence of the source in this project's words, where it stands, and the figures or names in it."""

    sentence: str
    where: str
    stated: Mapping[str, Any]


class SetOfMessages(_Frozen):
    """The calibration messages that a run really used, by short name."""

    ids: tuple[str, ...]
    where: str


class Protocol(_Frozen):
    """Facts of the procedure that the text may state otherwise."""

    suffering_messages: SetOfMessages


class PublishedSubject(_Frozen):
    """One published model: who made it, how it was aligned, its cosines and axis norms by block."""

    key: str
    hub_id: str | None
    label: str
    origin: str
    parameters_billion: float = Field(gt=0)
    layers: int = Field(gt=0)
    alignment_method: str
    alignment_group: AlignmentGroup
    parent: str | None
    cosines: Mapping[MessageSet, Mapping[str, Mapping[int, _Cosine]]]
    axis_norms: Mapping[MessageSet, Mapping[str, Mapping[int, _Norm]]]

    @property
    def final_block(self) -> int:
        """Index of the last decoder block, L-1."""
        return self.layers - 1

    def pairs(self, message_set: MessageSet) -> tuple[tuple[str, str], ...]:
        """The pairs of axes with published cosines, as the file orders them."""
        return tuple(_split(name) for name in self.cosines.get(message_set, {}))

    def cosine(self, message_set: MessageSet, a: str, b: str) -> dict[int, float] | None:
        """Cosine of two axes by block (0-based), in either order of names; None where none was published."""
        profiles = self.cosines.get(message_set, {})
        profile = profiles.get(f"{a}|{b}", profiles.get(f"{b}|{a}"))
        return None if profile is None else dict(profile)

    def cosine_at(self, pair: Pair, block: int | None = None) -> float | None:
        """One cosine at a block (the final one unless told); None where none was published."""
        profile = self.cosine(pair.message_set, pair.a, pair.b)
        return None if profile is None else profile.get(self.final_block if block is None else block)

    def axis_norm(self, message_set: MessageSet, axis: str) -> dict[int, float] | None:
        """Euclidean length of an axis by block, in units of the residual stream; None where none was published."""
        profile = self.axis_norms.get(message_set, {}).get(axis)
        return None if profile is None else dict(profile)

    @model_validator(mode="after")
    def _sound(self) -> PublishedSubject:
        if alignment_group_of(self.alignment_method) != self.alignment_group:
            raise ValueError(f"{self.key}: alignment_group does not follow from {self.alignment_method!r}")
        for by_set in (self.cosines, self.axis_norms):
            for message_set, profiles in by_set.items():
                seen: set[frozenset[str]] = set()
                for name, profile in profiles.items():
                    names = frozenset(name.split("|"))
                    if names in seen:
                        raise ValueError(f"{self.key}: {message_set} gives {name} twice")
                    seen.add(names)
                    _check_blocks(self, f"{message_set} {name}", profile)
        for message_set, profiles in self.cosines.items():
            for name in profiles:
                if len(name.split("|")) != 2:
                    raise ValueError(f"{self.key}: {message_set} {name!r} is not of the form a|b")
        return self


class Published(_Frozen):
    """Everything that one source published, as data."""

    schema_version: int
    id: str
    title: str
    citation: str
    precision: str
    resolution: float = Field(gt=0)
    """The smallest difference that the source's precision lets one see (bfloat16 cosines: 0.01)."""
    layer_index: str
    axes: str
    alignment_group_rule: str
    protocol: Protocol
    printed: Printed
    statements: Mapping[str, PublishedStatement]
    subjects: Mapping[str, PublishedSubject]

    def find(self, name: str) -> PublishedSubject | None:
        """The subject with this key or Hub id (case-insensitive), or None."""
        return _named(self.subjects, name)

    @model_validator(mode="after")
    def _names_exist(self) -> Published:
        named = [row.subject for table in self.printed.tables.values() for row in table.rows]
        named += [figure.subject for figure in self.printed.text]
        named += [subject.parent for subject in self.subjects.values() if subject.parent is not None]
        for name in named:
            if name not in self.subjects:
                raise ValueError(f"{name!r} is named but is not among the subjects")
        return self


class FigureSubject(_Frozen):
    """One published model of a source that gives single figures rather than profiles of cosines."""

    key: str
    hub_id: str | None
    """None where the source does not say which of several checkpoints it took."""
    label: str
    layers: int = Field(gt=0)
    alignment_method: str | None
    """None for a model that was not aligned, or where the source does not say."""
    figures: Mapping[str, _Finite]
    profiles: Mapping[str, Mapping[float, _Finite]] = {}
    """Figures along a grid, by the grid's value."""

    def figure(self, name: str) -> float | None:
        """A figure by name, None where the source has none of that name."""
        return self.figures.get(name)

    def profile(self, name: str) -> dict[float, float] | None:
        """Figures by the value of their grid, ascending; None where the source has none of that name."""
        found = self.profiles.get(name)
        return None if found is None else dict(sorted(found.items()))


class Group(_Frozen):
    """Published models that were mapped into the space of one of them, by their keys (source B).

    ``cosines`` are those of pairs ``a|b`` of mapped directions without the reference; those with it are the members'
    figures ``reference_cosine``.
    """

    key: str
    reference: str
    members: tuple[str, ...] = Field(min_length=2)
    cosines: Mapping[str, _Cosine]

    @model_validator(mode="after")
    def _every_pair(self) -> Group:
        if self.reference not in self.members:
            raise ValueError(f"the reference {self.reference!r} of the group {self.key} is not one of its members")
        rest = [member for member in self.members if member != self.reference]
        wanted = {frozenset((a, b)) for i, a in enumerate(rest) for b in rest[i + 1 :]}
        given = [frozenset(name.split("|")) for name in self.cosines]
        if len(given) != len(wanted) or set(given) != wanted:
            raise ValueError(
                f"the group {self.key} must give the cosine of each pair of members but the reference once"
            )
        return self


class PublishedFigures(_Frozen):
    """Everything that one source published, where that is a few figures a model: the short form of :class:`Published`."""

    schema_version: int
    id: str
    title: str
    citation: str
    precision: str
    resolution: float = Field(gt=0)
    layer_index: str
    protocol: Mapping[str, str]
    figures: Mapping[str, str]
    """What each figure is and where it stands: name -> one sentence."""
    bounds: Mapping[str, tuple[float, float]] = {}
    """Least and greatest value that a figure can have by its definition."""
    overall: Mapping[str, _Finite] = {}
    """Figures of no single model, as the source states them."""
    qualitative: tuple[str, ...] = ()
    """What the source says without a figure, in this project's words."""
    statements: Mapping[str, PublishedStatement] = {}
    """Sentences that the audit holds against the figures."""
    groups: Mapping[str, Group] = {}
    subjects: Mapping[str, FigureSubject]

    def find(self, name: str) -> FigureSubject | None:
        """The subject with this key or Hub id (case-insensitive), or None."""
        return _named(self.subjects, name)

    def group_of(self, name: str) -> Group | None:
        """The group that holds the subject with this key or Hub id, or None."""
        subject = self.find(name)
        if subject is None:
            return None
        return next((group for group in self.groups.values() if subject.key in group.members), None)

    def members(self, group: str) -> tuple[FigureSubject, ...]:
        """The subjects of a group, in its order; ``GeometryBenchError`` for an unknown group."""
        return tuple(self.subjects[key] for key in self._group(group).members)

    def reference(self, group: str) -> FigureSubject:
        """The subject into whose space the others of a group were mapped."""
        return self.subjects[self._group(group).reference]

    def gram(self, group: str) -> list[list[float]]:
        """Published cosines of all pairs of mapped directions in the order of the members; 1 on the diagonal."""
        found = self._group(group)
        pairs = {frozenset(name.split("|")): value for name, value in found.cosines.items()}
        for member in self.members(group):
            if member.key != found.reference:
                pairs[frozenset((found.reference, member.key))] = member.figures["reference_cosine"]
        return [[1.0 if a == b else pairs[frozenset((a, b))] for b in found.members] for a in found.members]

    def _group(self, name: str) -> Group:
        if name not in self.groups:
            raise GeometryBenchError(f"{self.id} has no group {name!r}; it has {', '.join(self.groups) or 'none'}.")
        return self.groups[name]

    @model_validator(mode="after")
    def _explained(self) -> PublishedFigures:
        given = [
            (key, name, value) for key, subject in self.subjects.items() for name, value in subject.figures.items()
        ]
        given += [
            (key, name, value)
            for key, subject in self.subjects.items()
            for name, profile in subject.profiles.items()
            for value in profile.values()
        ]
        given += [("overall", name, value) for name, value in self.overall.items()]
        for key, name, value in given:
            if name not in self.figures:
                raise ValueError(f"{key} has a figure {name!r} that is explained nowhere")
            low, high = self.bounds.get(name, (value, value))
            if not low <= value <= high:
                raise ValueError(f"{key} has {name} = {value:g}, which cannot lie outside {low:g} to {high:g}")
        return self

    @model_validator(mode="after")
    def _grouped(self) -> PublishedFigures:
        seen: set[str] = set()
        for group in self.groups.values():
            for member in group.members:
                if member not in self.subjects or member in seen:
                    raise ValueError(f"{member!r} of the group {group.key} is in two groups or not among the subjects")
                seen.add(member)
                if member != group.reference and self.subjects[member].figure("reference_cosine") is None:
                    raise ValueError(f"{member} has no reference_cosine in the group {group.key}")
        return self


class TabledSubject(FigureSubject):
    """One published model of a source of tables (source D), with its rows. ``hub_id`` is that of the aligned model."""

    base_hub_id: str
    rows: tuple[SweepRow, ...]

    def row(self, table: str, variant: Variant = "aligned") -> SweepRow | None:
        """The model's row in a table, fine-tuned from the aligned or from the safety-tuned model; None where none is."""
        return next((row for row in self.rows if (row.table, row.variant) == (table, variant)), None)


class PublishedTables(PublishedFigures):
    """Everything that one source published, where that is tables of projected models beside a few figures."""

    training_examples: Mapping[str, Annotated[int, Field(gt=0)]]
    scales: Mapping[Measure, str]
    svd_fractions: tuple[float, ...]
    tables: Mapping[str, TableFacts]
    subjects: Mapping[str, TabledSubject]

    def find(self, name: str) -> TabledSubject | None:
        """The subject with this key or Hub id (case-insensitive), or None."""
        return _named(self.subjects, name)

    def rows(self, table: str) -> tuple[tuple[TabledSubject, SweepRow], ...]:
        """The rows of a table in its order, each with its model; ``GeometryBenchError`` for an unknown table."""
        if table not in self.tables:
            raise GeometryBenchError(f"{self.id} has no table {table!r}; it has {', '.join(self.tables)}.")
        return tuple((s, row) for s in self.subjects.values() for row in s.rows if row.table == table)

    @model_validator(mode="after")
    def _tabled(self) -> PublishedTables:
        grid = list(self.svd_fractions)
        for key, subject in self.subjects.items():
            places = [(row.table, row.variant) for row in subject.rows]
            if len(set(places)) != len(places):
                raise ValueError(f"{key} has two rows of one variant in one table")
            for row in subject.rows:
                if row.table not in self.tables:
                    raise ValueError(f"{key} has a row of table {row.table!r}, which is described nowhere")
                for basis, sweep in row.projections.items():
                    if not grid == list(sweep.curve("utility")) == list(sweep.curve("harm")):
                        raise ValueError(f"{key}, table {row.table}, {basis}: the SVD fractions are not {grid}")
        extended = [facts.extends for facts in self.tables.values() if facts.extends is not None]
        if unknown := [table for table in extended if table not in self.tables]:
            raise ValueError(f"table {unknown[0]!r} is extended but described nowhere")
        return self


_Subject = TypeVar("_Subject", PublishedSubject, FigureSubject, TabledSubject)


def _named(subjects: Mapping[str, _Subject], name: str) -> _Subject | None:
    wanted = name.casefold()
    for key, subject in subjects.items():
        if wanted == key.casefold() or (subject.hub_id is not None and wanted == subject.hub_id.casefold()):
            return subject
    return None


def agrees(printed: float, value: float, decimals: int = 2) -> bool:
    """Whether ``value`` rounds to ``printed``; a value on the very edge may be rounded either way."""
    return abs(printed - value) <= 0.5 * 10.0**-decimals + 1e-9


def parse_published(content: object, where: str) -> Published:
    """Validate the parsed JSON of a published-figures file.

    Raises ``GeometryBenchError`` for a newer schema and for anything that does not fit this one.
    """
    return _parsed(Published, content, where)


def _parsed(model: type[_File], content: object, where: str) -> _File:
    if not isinstance(content, dict):
        raise GeometryBenchError(f"{where} does not hold a JSON object; restore the file of published figures.")
    version = content.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise GeometryBenchError(
            f"{where} has schema version {version}, this program reads up to {SCHEMA_VERSION}; update geometry-bench."
        )
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise GeometryBenchError(f"{where} has schema version {version!r}, expected {SCHEMA_VERSION}; restore it.")
    for section in ("subjects", "groups"):
        entries = content.get(section)
        if isinstance(entries, dict):
            keyed = {key: {"key": key, **value} for key, value in entries.items() if isinstance(value, dict)}
            content = {**content, section: {**entries, **keyed}}
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file as a whole"
        raise GeometryBenchError(
            f"{where} is not a sound file of published figures, at {place}: {first['msg']}; restore or mend it."
        ) from error


def load_published(source: str = "safety_compassion", path: Path | None = None) -> Published:
    """Read ``baselines/published/SOURCE.json`` (or the file at ``path``).

    Raises ``GeometryBenchError`` where the file is missing, is not JSON, has a newer schema or does not validate.
    """
    content, file = _read(source, path)
    return parse_published(content, str(file))


def parse_figures(content: object, where: str) -> PublishedFigures:
    """Validate the parsed JSON of a file in the short form; one with ``tables`` gives :class:`PublishedTables`.

    Raises ``GeometryBenchError`` as :func:`parse_published` does.
    """
    tabled = isinstance(content, dict) and "tables" in content
    return _parsed(PublishedTables if tabled else PublishedFigures, content, where)


def load_source(source: str) -> Published | PublishedFigures:
    """Read ``baselines/published/SOURCE.json``, whichever form it has: one with ``figures`` is the short form.

    Raises ``GeometryBenchError`` as :func:`load_published` does.
    """
    content, file = _read(source, None)
    if isinstance(content, dict) and "figures" in content:
        return parse_figures(content, str(file))
    return parse_published(content, str(file))


def load_figures(source: str) -> PublishedFigures:
    """As :func:`load_source`, for a source in the short form; ``GeometryBenchError`` for another one."""
    content, file = _read(source, None)
    return parse_figures(content, str(file))


def load_tables(source: str = "safety_subspaces") -> PublishedTables:
    """As :func:`load_source`, for a source with tables of projected models; ``GeometryBenchError`` for another one."""
    content, file = _read(source, None)
    return _parsed(PublishedTables, content, str(file))


def _read(source: str, path: Path | None) -> tuple[object, Path]:
    file = data_root() / "baselines" / "published" / f"{source}.json" if path is None else path
    try:
        return json.loads(file.read_text(encoding="utf-8")), file
    except FileNotFoundError as error:
        raise GeometryBenchError(
            f"There are no published figures of {source!r} at {file}; reinstall geometry-bench or check the name."
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise GeometryBenchError(f"{file} cannot be read as JSON ({error}); restore the file.") from error


def tradition_pairs(names: Sequence[str] = TRADITIONS) -> tuple[Pair, ...]:
    """All pairs of contemplative traditions on the suffering set (six for four traditions)."""
    return tuple(_pairs(names))


def _pairs(names: Sequence[str]) -> Iterator[Pair]:
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            yield Pair(message_set="suffering", a=a, b=b)


def _split(name: str) -> tuple[str, str]:
    a, b = name.split("|")
    return a, b


def _same(left: Pair, right: Pair) -> bool:
    return left.message_set == right.message_set and {left.a, left.b} == {right.a, right.b}


def _check_blocks(subject: PublishedSubject, what: str, profile: Iterable[int]) -> None:
    outside = [block for block in profile if not 0 <= block < subject.layers]
    if outside:
        raise ValueError(f"{subject.key}: {what} names block {outside[0]} of a model with {subject.layers} blocks")
