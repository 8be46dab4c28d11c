"""Claims about several subjects together: source A's split by alignment method."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from geometry_bench.claims.model import Case, Claim, Estimates, NotApplicableError, Panel
from geometry_bench.claims.requests import VARIANTS
from geometry_bench.claims.sources import SAFETY_COMPASSION
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.resampling import jackknife_interval, permutation_p
from geometry_bench.published.alignment import alignment_group_of
from geometry_bench.records.schema import Estimate, Null, Record, Variant

BASELINE, COMPASSION = "safety.baseline_sign", "safety.compassion_alignment"
MIN_MEMBERS = 4
BLOCKS = {"final": -1, "penultimate": -2}


def pearson(x: Array, y: Array) -> float:
    """Pearson correlation of (subjects,) with (subjects,); NaN where one of them is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _values(panel: Panel, claim: str, variant: Variant, block: int) -> Array:
    return np.array([_profile(member[claim], variant)[block] for member in panel.members], dtype=np.float64)


def _profile(record: Record, variant: Variant) -> Sequence[float | None]:
    estimate = record.estimates.get(variant)
    if estimate is None or not estimate.profile:
        raise NotApplicableError(f"{record.subject_name} has no value for {record.key}: {record.verdicts.claim_reason}")
    return estimate.profile


def correlation(panel: Panel, case: Case) -> Estimates:
    """Pearson correlation over subjects of safety-compassion with safety-baseline at one block, leave-one-subject-out."""
    members = len(panel.members)
    if members < MIN_MEMBERS:
        raise NotApplicableError(
            f"a correlation over {members} subjects says nothing: give at least {MIN_MEMBERS} --model"
        )
    return {variant: _correlation(panel, variant, BLOCKS[case.parameters[0]]) for variant in VARIANTS}


def _correlation(panel: Panel, variant: Variant, block: int) -> Estimate:
    x, y = _values(panel, COMPASSION, variant, block), _values(panel, BASELINE, variant, block)
    value = pearson(x, y)
    if not np.isfinite(value):
        raise NotApplicableError("a figure is undefined or the same on all subjects")
    p, draws = permutation_p(lambda order: pearson(x, y[order]), np.arange(len(y)))
    left_out = [pearson(np.delete(x, i), np.delete(y, i)) for i in range(len(x))]
    return _estimate(
        value,
        left_out,
        Null.of("subjects permuted", draws, value),
        {"spearman": float(stats.spearmanr(x, y).statistic), "permutation_p": p, "leave_one_out_min": min(left_out)},
        correlation=True,
    )


def group_gap(panel: Panel, case: Case) -> Estimates:
    """Mean safety-baseline of subjects aligned by supervision alone minus that of subjects trained on preferences."""
    methods = [member[BASELINE].subject.get("alignment") for member in panel.members]
    groups = [alignment_group_of(method) if method else "undisclosed" for method in methods]
    supervised = np.array([group in ("sft", "distilled") for group in groups])
    preference = np.array([group == "preference" for group in groups])
    if supervised.sum() < 2 or preference.sum() < 2:
        raise NotApplicableError(
            f"the panel has {supervised.sum()} subjects aligned by supervision alone and {preference.sum()} trained on "
            "preferences: at least two of each are needed, declared with --alignment MODEL=METHOD"
        )
    known = supervised | preference
    return {variant: _gap(_values(panel, BASELINE, variant, -1)[known], supervised[known]) for variant in VARIANTS}


def _gap(values: Array, supervised: Array) -> Estimate:
    def gap(labels: Array) -> float:
        return float(values[labels].mean() - values[~labels].mean())

    value = gap(supervised)
    p, draws = permutation_p(gap, supervised)
    return Estimate(
        value=value,
        n=len(values),
        null=Null.of("alignment methods permuted", draws, value),
        details={
            "permutation_p": p,
            "mean_supervised": float(values[supervised].mean()),
            "mean_preference": float(values[~supervised].mean()),
        },
    )


def _estimate(
    value: float, left_out: list[float], null: Null, details: dict[str, float | None], *, correlation: bool
) -> Estimate:
    interval = (
        jackknife_interval(value, np.array(left_out), correlation=correlation) if np.isfinite(left_out).all() else None
    )
    return Estimate.of(
        value,
        interval,
        left_out,
        null=null,
        details=details,
    )


def alignment_method(panel: Panel, case: Case) -> Estimates:
    """Dispatch on the case: the gap between groups, or a correlation at a block."""
    return group_gap(panel, case) if case.key == "group_gap" else correlation(panel, case)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="panel.alignment_method",
        version=1,
        source=SAFETY_COMPASSION,
        where="discussion of alignment methods",
        statement="Subjects trained by DPO or RLHF lie below supervised ones on safety-baseline, and high safety-compassion "
        "goes with non-negative safety-baseline.",
        measure=alignment_method,
        null="subjects or their alignment methods permuted",
        needs=("model", "system role", "panel"),
        cases=(
            Case("group_gap"),
            Case("correlation_final", ("final",)),
            Case("correlation_penultimate", ("penultimate",)),
        ),
        metric="correlation",
        smallest_change=0.2,
        messages=("benign",),
        conditions=("systems", "controls"),
        reads=(BASELINE, COMPASSION),
    ),
)
