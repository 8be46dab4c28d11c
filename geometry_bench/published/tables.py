"""Tables of projected models (source D): utility and harm by table, basis and SVD fraction ρ, validated.

A row is one model in one table: the models before and after fine-tuning as scalars, and the fine-tuned model with its
update projected on three bases, along the grid of ρ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Measure = Literal["utility", "harm"]
Basis = Literal["top_k", "random_k", "random"]
Variant = Literal["aligned", "safety_tuned"]
"""The model that was fine-tuned: the published aligned one, or the source's own safety-tuned one."""
Stage = Literal["base", "aligned", "safety_tuned", "fine_tuned"]
Projection = Literal["parallel", "orthogonal"]

BASES: tuple[Basis, ...] = ("top_k", "random_k", "random")
MEASURES: tuple[Measure, ...] = ("utility", "harm")

_Fraction = Annotated[float, Field(gt=0, lt=1)]
_Utility = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Harm = Annotated[float, Field(ge=1, le=5, allow_inf_nan=False)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Outcome(_Frozen):
    """One model, not projected: accuracy on GSM8K (0 to 1, higher is better) and judged harm (1 to 5, lower is safer)."""

    utility: _Utility
    harm: _Harm


class Sweep(_Frozen):
    """The fine-tuned model with its update projected, by SVD fraction ρ."""

    utility: Mapping[_Fraction, _Utility]
    harm: Mapping[_Fraction, _Harm]

    def curve(self, measure: Measure) -> dict[float, float]:
        """One measure by ρ, ascending."""
        return dict(sorted((self.utility if measure == "utility" else self.harm).items()))


class SweepRow(_Frozen):
    """One row of a table."""

    table: str
    variant: Variant
    scalars: Mapping[Stage, Outcome]
    projections: Mapping[Basis, Sweep]

    def outcome(self, measure: Measure, stage: Stage) -> float | None:
        """A measure of a model that was not projected, None where the row does not give it."""
        found = self.scalars.get(stage)
        return None if found is None else float(getattr(found, measure))

    def projected(self, measure: Measure, basis: Basis, fraction: float) -> float | None:
        """A measure of the projected model, None for a fraction outside the table."""
        return self.projections[basis].curve(measure).get(fraction)

    def cells(self) -> dict[tuple[str, Measure, float | None], float]:
        """Every figure of the row by stage or basis, measure and SVD fraction (None for a model not projected)."""
        cells: dict[tuple[str, Measure, float | None], float] = {}
        for measure in MEASURES:
            for stage, outcome in self.scalars.items():
                cells[stage, measure, None] = getattr(outcome, measure)
            for basis, sweep in self.projections.items():
                for fraction, value in sweep.curve(measure).items():
                    cells[basis, measure, fraction] = value
        return cells

    @model_validator(mode="after")
    def _complete(self) -> SweepRow:
        missing = [name for name in (self.variant, "fine_tuned") if name not in self.scalars]
        missing += [name for name in BASES if name not in self.projections]
        if missing:
            raise ValueError(f"a row of table {self.table} lacks {missing[0]!r}")
        return self


class TableFacts(_Frozen):
    """What a table says of itself; ``caption`` and ``section`` name the projection, None where that was not recorded."""

    where: str
    caption: Projection | None
    section: Projection | None
    extends: str | None
    """The table whose rows this one repeats among more models."""
    training: str
