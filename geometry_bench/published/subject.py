"""One published model: single values and curves, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from geometry_bench.errors import GeometryBenchError
from geometry_bench.published.alignment import AlignmentGroup, alignment_group_of


class Frozen(BaseModel):
    """Published data: never changed, no field but the declared ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _ascending(curve: Mapping[float, float]) -> Mapping[float, float]:
    return dict(sorted(curve.items()))


Finite = Annotated[float, Field(allow_inf_nan=False)]
Curve = Annotated[Mapping[Finite, Finite], Field(min_length=1), AfterValidator(_ascending)]
"""y by x, x ascending."""


class PublishedSubject(Frozen):
    """A model as a source names it. ``values`` and ``curves`` go by the names that the publication explains."""

    key: str
    hub_id: str | None
    """None where the source does not say which of several checkpoints it took, or it is on no Hub."""
    label: str
    layers: int = Field(gt=0)
    origin: str | None = None
    parameters_billion: float | None = Field(None, gt=0)
    alignment_method: str | None = None
    """In the source's words; None for a model that was not aligned, or where the source does not say."""
    parent: str | None = None
    """Key of the published subject that it was fine-tuned from."""
    base_hub_id: str | None = None
    values: Mapping[str, Finite] = {}
    curves: Mapping[str, Curve] = {}

    @property
    def alignment_group(self) -> AlignmentGroup | None:
        """The group of its own last alignment method; None where the source names no method."""
        return None if self.alignment_method is None else alignment_group_of(self.alignment_method)

    @property
    def final_block(self) -> int:
        """Index of the last decoder block, layers - 1."""
        return self.layers - 1

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all values and curves."""
        return (*self.values, *self.curves)

    def value(self, name: str) -> float | None:
        """A single value, None where none was published under this name."""
        return self.values.get(name)

    def curve(self, name: str) -> Mapping[float, float] | None:
        """y by ascending x (0-based block, penalty, SVD fraction); None where none was published under this name."""
        return self.curves.get(name)

    def cosine(self, message_set: str, a: str, b: str) -> Mapping[float, float] | None:
        """Cosine of two axes by block, in either order of their names; None where none was published."""
        return self.curves.get(f"{message_set}/{a}|{b}", self.curves.get(f"{message_set}/{b}|{a}"))

    def points(self, name: str) -> Mapping[float | None, float]:
        """All numbers under a name: ``{None: value}``, or the curve by x. Raises ``GeometryBenchError`` for no such name."""
        if name in self.values:
            return {None: self.values[name]}
        if name not in self.curves:
            raise GeometryBenchError(f"{self.key} has no {name} among the published values; restore the file.")
        return dict(self.curves[name].items())

    def number(self, name: str) -> float:
        """The one number a table shows of a name: the value, or the curve at its last x (the final block).

        Raises ``GeometryBenchError`` where there is no such name.
        """
        return list(self.points(name).values())[-1]

    @model_validator(mode="after")
    def _sound(self) -> PublishedSubject:
        try:
            _ = self.alignment_group
        except GeometryBenchError as error:
            raise ValueError(f"{self.key}: {error}") from error
        seen: set[tuple[str, frozenset[str]]] = set()
        for name in self.names:
            folder, _, last = name.rpartition("/")
            pair = (folder, frozenset(last.split("|")))
            if pair in seen:
                raise ValueError(f"{self.key} gives {name} twice")
            seen.add(pair)
        return self
