"""The record of one measured case, as it stands in result and baseline files.

Numbers are plain floats; a quantity that is not defined is ``None``, never 0 or NaN.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.resampling import Interval

SCHEMA = 1
"""Version of everything below. Older records are migrated when read, newer ones refused."""

Model = TypeVar("Model", bound=BaseModel)
Variant = Literal["published", "corrected"]


class ClaimVerdict(StrEnum):
    """Does the claim hold on this subject?"""

    HOLDS = "HOLDS"
    FAILS = "FAILS"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_APPLICABLE = "NOT_APPLICABLE"


class PublishedVerdict(StrEnum):
    """Does the value agree with the published figure for this subject?"""

    REPRODUCED = "REPRODUCED"
    DIFFERS = "DIFFERS"
    NO_FIGURE = "NO_FIGURE"


class BaselineVerdict(StrEnum):
    """Has the value moved from the stored baseline?"""

    MATCH = "MATCH"
    DRIFT = "DRIFT"
    REGRESSION = "REGRESSION"
    NO_BASELINE = "NO_BASELINE"
    STALE = "STALE"
    INCOMPARABLE = "INCOMPARABLE"


def _undefined_as_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_undefined_as_none)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Null(_Frozen):
    """The distribution that a value would come from if the claim were empty: ``name`` says how it was made."""

    name: str
    draws: int = Field(description="number of draws")
    mean: float
    sd: float
    low: float = Field(description="5 % quantile")
    high: float = Field(description="95 % quantile")
    percentile: float = Field(description="share of draws below the value, 0 to 100")

    @classmethod
    def of(cls, name: str, draws: Any, value: float) -> Null:
        """Summarise draws (draws,) of a null distribution and place ``value`` in it; undefined draws are left out."""
        draws = np.asarray(draws, dtype=np.float64)
        draws = draws[np.isfinite(draws)]
        low, high = np.quantile(draws, [0.05, 0.95])
        return cls(
            name=name,
            draws=len(draws),
            mean=float(draws.mean()),
            sd=float(draws.std(ddof=1)),
            low=float(low),
            high=float(high),
            percentile=100 * float((draws < value).mean()),
        )


class Estimate(_Frozen):
    """One variant's value of one case, with everything needed to judge it and to compare it in pairs later."""

    value: Number
    error: Number = Field(None, description="jackknife standard error over prompts")
    low: Number = Field(None, description="lower end of the 95 % interval")
    high: Number = Field(None, description="upper end of the 95 % interval")
    n: int = Field(
        description="number of prompts resampled (topics, where prompts come in topics; subjects, for a panel)"
    )
    leave_one_out: list[Number] | None = Field(
        None, description="the value without prompt or topic i, in the pack's order"
    )
    layer: int | None = Field(None, description="0-based block of the value; none where several blocks enter")
    profile: list[Number] | None = Field(None, description="the value at every block")
    null: Null | None = None
    label: str | None = Field(None, description="a category that goes with the value, such as the closest pair")
    details: dict[str, Number] = Field(default_factory=dict, description="further numbers by name")
    arithmetic: str = "float64"
    notes: list[str] = Field(default_factory=list)

    @classmethod
    def of(cls, value: float, interval: Interval | None, left_out: Sequence[float] | Array, **more: Any) -> Self:
        """A value with its interval and the values (n,) without one unit each: prompts, topics, subjects, blocks."""
        return cls(
            value=value,
            error=interval.error if interval else None,
            low=interval.low if interval else None,
            high=interval.high if interval else None,
            n=len(left_out),
            leave_one_out=[float(x) for x in left_out],
            **more,
        )


class Verdicts(_Frozen):
    """The three answers, each with its sentence."""

    claim: ClaimVerdict
    claim_reason: str
    published: PublishedVerdict
    published_reason: str
    published_figure: Number = None
    baseline: BaselineVerdict
    baseline_reason: str
    baseline_value: Number = None
    baseline_claim: ClaimVerdict | None = None
    baseline_note: str | None = Field(None, description="the reason given when the baseline was stored")
    p_value: Number = Field(None, description="of the paired difference from the baseline")


class Record(_Frozen):
    """One case of one claim on one subject (or panel)."""

    schema_version: int = SCHEMA
    claim: str
    claim_version: int
    case: str
    subject: dict[str, Any]
    inputs: dict[str, Any]
    estimates: dict[Variant, Estimate]
    criterion_published: ClaimVerdict | None = Field(None, description="the source's own criterion on its own variant")
    verdicts: Verdicts
    environment: dict[str, Any]

    @property
    def key(self) -> str:
        """``claim[case]``, or the claim alone where it has one case only."""
        return case_key(self.claim, self.case)

    @property
    def subject_name(self) -> str:
        """The subject as it stands in test ids."""
        return str(self.subject["id"])

    @property
    def estimate(self) -> Estimate | None:
        """The variant on which verdicts are taken: corrected where there is one."""
        return self.estimates.get("corrected") or self.estimates.get("published")


class BaselineCase(_Frozen):
    """What a baseline file keeps of one case."""

    claim_version: int
    inputs: dict[str, Any]
    estimates: dict[Variant, Estimate]
    claim: ClaimVerdict
    claim_reason: str
    reason: str
    environment: dict[str, Any]


class Baseline(_Frozen):
    """One subject's stored values under one setting of dtype and attention kernel."""

    schema_version: int = SCHEMA
    subject: dict[str, Any]
    cases: dict[str, BaselineCase]


def case_key(claim: str, case: str) -> str:
    """The one spelling of a case: ``compassion.cross_tradition_cosine[chenrezig-tara]``."""
    return f"{claim}[{case}]" if case else claim


_MIGRATIONS: Mapping[int, Any] = {}
"""``{n: function from the dict of version n to that of version n + 1}``: empty while there has been one version only."""


def parse(model: type[Model], text: str, where: str) -> Model:
    """Read one JSON document of any supported schema version.

    Raises:
        GeometryBenchError: it is not JSON, of a newer schema, or lacks what the schema asks for.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise GeometryBenchError(
            f"{where} is not valid JSON ({error}): restore it from version control or delete it."
        ) from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(version, int):
        raise GeometryBenchError(
            f"{where} has no schema_version: it was not written by geometry-bench; restore or delete it."
        )
    if version > SCHEMA:
        raise GeometryBenchError(
            f"{where} has schema {version}, newer than this geometry-bench understands ({SCHEMA}): upgrade geometry-bench."
        )
    for step in range(version, SCHEMA):
        data = _MIGRATIONS[step](data)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise GeometryBenchError(
            f"{where} is damaged at '{place}' ({first['msg']}): restore it from version control or delete it."
        ) from None
