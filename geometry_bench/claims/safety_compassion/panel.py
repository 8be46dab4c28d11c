"""Claims about several subjects together: source A's split by alignment method."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from geometry_bench.claims.model import Case, Claim, Estimates
from geometry_bench.claims.sources import SAFETY_COMPASSION
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.resampling import jackknife_interval, permutation_p
from geometry_bench.labs.panel import Panel
from geometry_bench.labs.requirements import Requirements
from geometry_bench.published.alignment import alignment_group_of
from geometry_bench.records.estimates import VARIANTS, Estimate, Null, Units, Variant
from geometry_bench.records.facts import ModelFacts
from geometry_bench.records.measurement import Absence, Measurement, NotApplicableError

BASELINE, COMPASSION = "safety.baseline_sign", "safety.compassion_alignment"
MIN_MEMBERS = 4
BLOCKS = {"final": -1, "penultimate": -2}


def pearson(x: Array, y: Array) -> float:
    """Pearson correlation of (subjects,) with (subjects,); NaN where one of them is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _values(panel: Panel, claim: str, variant: Variant, block: int) -> Array:
    profiles = [_profile(member[claim], variant) for member in panel.members.values()]
    return np.array([profile[block] for profile in profiles], dtype=np.float64)


def _profile(measured: Measurement, variant: Variant) -> Sequence[float | None]:
    estimate = measured.estimates.get(variant)
    if estimate is None or not estimate.profile:
        why = measured.missing.sentence if measured.missing is not None else "it has no profile"
        raise NotApplicableError(Absence.NO_MEMBER, f"{measured.subject.id} has no value for {measured.key}: {why}")
    return estimate.profile


def correlation(panel: Panel, case: Case) -> Estimates:
    """Pearson correlation over subjects of safety-compassion with safety-baseline at one block, leave-one-subject-out."""
    members = len(panel.members)
    if members < MIN_MEMBERS:
        raise NotApplicableError(
            Absence.TOO_FEW_SUBJECTS,
            f"a correlation over {members} subjects says nothing: give at least {MIN_MEMBERS} --model",
            subjects=members,
        )
    return {variant: _correlation(panel, variant, BLOCKS[case.parameters[0]]) for variant in VARIANTS}


def _correlation(panel: Panel, variant: Variant, block: int) -> Estimate:
    x, y = _values(panel, COMPASSION, variant, block), _values(panel, BASELINE, variant, block)
    value = pearson(x, y)
    if not np.isfinite(value):
        raise NotApplicableError(Absence.UNDEFINED, "a value is undefined or the same on all subjects")
    p, draws = permutation_p(lambda order: pearson(x, y[order]), np.arange(len(y)))
    left_out = [pearson(np.delete(x, i), np.delete(y, i)) for i in range(len(x))]
    defined = np.isfinite(left_out).all()
    return Estimate.of(
        value,
        jackknife_interval(value, np.array(left_out), correlation=True) if defined else None,
        Units.of("subject", list(panel.members), left_out),
        null=Null.of("subjects permuted", draws, value),
        details={
            "spearman": float(stats.spearmanr(x, y).statistic),
            "permutation_p": p,
            "leave_one_out_min": min(left_out),
        },
    )


def group_gap(panel: Panel, case: Case) -> Estimates:
    """Mean safety-baseline of subjects aligned by supervision alone minus that of subjects trained on preferences."""
    subjects = [member[BASELINE].subject for member in panel.members.values()]
    methods = [subject.alignment if isinstance(subject, ModelFacts) else None for subject in subjects]
    groups = [alignment_group_of(method) if method else "undisclosed" for method in methods]
    supervised = np.array([group in ("sft", "distilled") for group in groups])
    preference = np.array([group == "preference" for group in groups])
    if supervised.sum() < 2 or preference.sum() < 2:
        raise NotApplicableError(
            Absence.TOO_FEW_SUBJECTS,
            f"the panel has {supervised.sum()} subjects aligned by supervision alone and {preference.sum()} trained on "
            "preferences: at least two of each are needed, declared with --alignment MODEL=METHOD",
            supervised=int(supervised.sum()),
            preference=int(preference.sum()),
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


def alignment_method(panel: Panel, case: Case) -> Estimates:
    """Dispatch on the case: the gap between groups, or a correlation at a block."""
    return group_gap(panel, case) if case.key == "group_gap" else correlation(panel, case)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="panel.alignment_method",
        version=2,  # 1 read cosines of means that share the reference's noise
        source=SAFETY_COMPASSION,
        where="discussion of alignment methods",
        statement="Subjects trained by DPO or RLHF lie below supervised ones on safety-baseline, and high safety-compassion "
        "goes with non-negative safety-baseline.",
        measure=alignment_method,
        null="subjects or their alignment methods permuted",
        scope="panel",
        requires=Requirements(system_role=True, messages=("benign",), conditions=("systems", "safety_controls")),
        cases=(
            Case("group_gap"),
            Case("correlation_final", ("final",)),
            Case("correlation_penultimate", ("penultimate",)),
        ),
        metric="correlation",
        smallest_change=0.2,
        reads=(BASELINE, COMPASSION),
    ),
)
