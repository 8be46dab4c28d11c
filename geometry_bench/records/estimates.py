"""A value with what is needed to judge it, plot it and compare it in pairs later.

Numbers are plain floats; a quantity that is not defined is ``None``, never 0 or NaN.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.resampling import Interval, family_percentiles, prediction_interval

Variant = Literal["published", "corrected"]
VARIANTS: tuple[Variant, ...] = ("published", "corrected")


class Frozen(BaseModel):
    """Data that never change and hold no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _undefined_as_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_undefined_as_none)]


class Null(Frozen):
    """The distribution that a value would come from if the claim were empty: ``name`` says how it was made."""

    name: str
    draws: int = Field(description="number of draws")
    mean: float
    sd: float
    low: float = Field(description="5 % quantile")
    high: float = Field(description="95 % quantile")
    percentile: float = Field(description="share of draws below the value, 0 to 100")
    cases: int | None = Field(None, description="of the claim, drawn together")
    any_percentile: float | None = Field(None, description="exceeded by any of the cases in 5 % of draws")
    all_percentile: float | None = Field(None, description="exceeded by all of the cases in 5 % of draws")

    @classmethod
    def of(cls, name: str, draws: Any, value: float, joint: Array | None = None) -> Null | None:
        """Summarise draws (draws,) of a null distribution and place ``value`` in it.

        ``joint`` (draws, cases) are draws of all cases of the claim together. Undefined draws are left out;
        None where fewer than two are defined. Draws that differ from the value by rounding alone are ties with it.
        """
        draws = np.asarray(draws, dtype=np.float64)
        draws = draws[np.isfinite(draws)]
        if len(draws) < 2:
            return None
        # Rates and ranks have few values: rounding must not decide whether a draw is as large as the value.
        draws = np.where(np.isclose(draws, value, rtol=1e-9, atol=1e-12), value, draws)
        # One more draw exceeds this quantile in 5 % of cases, however few there are; the linear one of 32 draws, in 8 %.
        low, high = np.quantile(draws, [0.05, 0.95], method="weibull")
        return cls(
            name=name,
            draws=len(draws),
            mean=float(draws.mean()),
            sd=float(draws.std(ddof=1)),
            low=float(low),
            high=float(high),
            percentile=100 * float((draws < value).mean()),
            **_of_several(joint),
        )

    @classmethod
    def of_few(cls, name: str, draws: Any, value: float) -> Null | None:
        """The same of so few draws that no quantile is known: its ends are those that one more normal draw exceeds in 5 %.

        The percentile is still the share of draws below the value.
        """
        found = cls.of(name, draws, value)
        if found is None:
            return None
        values = np.asarray(draws, dtype=np.float64)
        low, high = prediction_interval(values[np.isfinite(values)])
        return found.model_copy(update={"low": low, "high": high})

    def beside(self, other: Null | None) -> Null:
        """This null and another that a value must lie beyond too: the outer ends, and the smaller percentile."""
        if other is None:
            return self
        return self.model_copy(
            update={
                "name": f"{self.name}; and {other.name}",
                "low": min(self.low, other.low),
                "high": max(self.high, other.high),
                "percentile": min(self.percentile, other.percentile),
            }
        )


def _of_several(joint: Array | None) -> dict[str, Any]:
    defined = None if joint is None else joint[np.isfinite(joint).all(axis=1)]
    if defined is None or len(defined) < 2 or defined.shape[1] < 2:
        return {}
    any_of, all_of = family_percentiles(defined)
    return {"cases": defined.shape[1], "any_percentile": any_of, "all_percentile": all_of}


class Curve(Frozen):
    """Values along an axis, such as the block or the share of energy; ``low`` and ``high`` bound them where known."""

    axis: str
    x: list[float]
    y: list[Number]
    low: list[Number] | None = None
    high: list[Number] | None = None

    @classmethod
    def over_blocks(cls, values: Sequence[float | None] | Array) -> Self:
        """One value for each block, from block 0 on."""
        return cls(axis="block", x=list(range(len(values))), y=[None if v is None else float(v) for v in values])

    @classmethod
    def along(cls, axis: str, values: Mapping[float, float | None]) -> Self:
        """Values by their place on the axis."""
        return cls(axis=axis, x=list(values), y=[None if v is None else float(v) for v in values.values()])

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        if any(part is not None and len(part) != len(self.x) for part in (self.y, self.low, self.high)):
            raise ValueError("a curve has as many values as places")
        return self


class Units(Frozen):
    """What was resampled: prompts, topics, blocks, subjects …, and the value without each of them.

    ``ids`` are None in records of schema 1, which did not name them: values are in the order of the prompts.
    """

    kind: str
    ids: list[str] | None
    values: list[Number]

    @classmethod
    def of(cls, kind: str, ids: Sequence[str], values: Sequence[float | None] | Array) -> Self:
        """The values (units,) without each of the units."""
        return cls(kind=kind, ids=list(ids), values=[None if x is None else float(x) for x in values])

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.ids is not None and len(self.ids) != len(self.values):
            raise ValueError("every resampled unit has one id and one value")
        return self

    def paired(self, other: Units) -> tuple[Array, Array] | None:
        """The values of both, unit by unit; None where they are not of the same units or some are undefined."""
        named = self.ids is not None and other.ids is not None
        if len(self.values) != len(other.values) or (named and self.ids != other.ids):
            return None
        if None in self.values or None in other.values:
            return None
        return np.array(self.values, dtype=np.float64), np.array(other.values, dtype=np.float64)


class Packed(Frozen):
    """An array as text, so that it travels in a record like any number; files keep it in safetensors."""

    dtype: Literal["float16", "float32", "float64", "int32"]
    shape: tuple[int, ...]
    data: str = Field(repr=False, description="base64 of the bytes, in C order")

    @classmethod
    def of(cls, array: Any) -> Self:
        """Pack an array of one of the dtypes."""
        whole = np.ascontiguousarray(array)
        return cls(dtype=str(whole.dtype), shape=whole.shape, data=base64.b64encode(whole.data).decode())

    @property
    def array(self) -> Any:
        """The array, which must not be written to."""
        return np.frombuffer(base64.b64decode(self.data), dtype=self.dtype).reshape(self.shape)


class Sample(Frozen):
    """The prompts that are the rows of an estimate's arrays: two models that have read the same are compared row by row."""

    ids: list[str]
    classes: list[str]
    folds: list[int] = Field(description="what is left out together, numbered from 0")

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        if not len(self.ids) == len(self.classes) == len(self.folds):
            raise ValueError("every prompt of a sample has one id, one class and one fold")
        return self


class Estimate(Frozen):
    """One variant's value of one case."""

    value: Number
    error: Number = Field(None, description="standard error over the units, no smaller than that of a count")
    low: Number = Field(None, description="lower end of the 95 % interval")
    high: Number = Field(None, description="upper end of the 95 % interval")
    n: int = Field(description="number of units, or of what the value was taken over")
    units: Units | None = None
    block: int | None = Field(None, description="0-based block of the value; none where several blocks enter")
    curves: dict[str, Curve] = Field(default_factory=dict, description="by name; ``profile`` is the value over blocks")
    null: Null | None = None
    label: str | None = Field(None, description="a category that goes with the value, such as the closest pair")
    details: dict[str, Number] = Field(default_factory=dict, description="further numbers by name")
    sample: Sample | None = None
    arrays: dict[str, Packed] = Field(default_factory=dict, description="by name, what a later comparison needs")
    names: dict[str, str] = Field(
        default_factory=dict, description="what numbers in the arrays stand for: token -> text"
    )
    arithmetic: str = "float64"
    notes: list[str] = Field(default_factory=list)

    @classmethod
    def of(cls, value: float, interval: Interval | None, units: Units, **more: Any) -> Self:
        """A value with its interval over some units."""
        return cls(
            value=value,
            error=interval.error if interval else None,
            low=interval.low if interval else None,
            high=interval.high if interval else None,
            n=len(units.values),
            units=units,
            **more,
        )

    @property
    def profile(self) -> list[float | None] | None:
        """The value at every block, where it has one."""
        curve = self.curves.get("profile")
        return None if curve is None else curve.y
