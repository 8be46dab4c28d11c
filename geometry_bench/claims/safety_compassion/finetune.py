"""What fine-tuning does to source A's values: from a parent to its child, and along a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from geometry_bench.claims.changes import ContrastDisplacement, UntestableError
from geometry_bench.claims.criteria import Above
from geometry_bench.claims.model import Case, Claim, Estimates
from geometry_bench.claims.safety_compassion.axes import BENIGN, SUFFERING, MessageSet, final_figure
from geometry_bench.claims.safety_compassion.compassion import figure_secular_divergence
from geometry_bench.claims.sources import SAFETY_COMPASSION
from geometry_bench.geometry.resampling import jackknife_interval, permutation_p
from geometry_bench.labs.pair import Pair, Trajectory
from geometry_bench.published.subject import PublishedSubject
from geometry_bench.records.estimates import VARIANTS, Curve, Estimate, Null, Units, Variant
from geometry_bench.records.judgement import Answer, ClaimVerdict
from geometry_bench.records.measurement import Absence, Measurement, NotApplicableError

READ = {
    "chenrezig-tara": "compassion.cross_tradition_cosine[chenrezig-tara]",
    "chenrezig-agape": "compassion.cross_tradition_cosine[chenrezig-agape]",
    "agape-rahma": "compassion.cross_tradition_cosine[agape-rahma]",
    "secular_divergence": "compassion.secular_divergence",
    "safety-compassion": "safety.compassion_alignment",
    "safety-baseline": "safety.baseline_sign",
}
"""The six values that the source compares, by what they are called here."""

DIRECTION: dict[str, Literal[1, -1]] = {name: -1 if name == "safety-baseline" else 1 for name in READ}
"""The side on which the source found the child of its parent."""

_AXES = {"safety-compassion": ("safety", "chenrezig"), "safety-baseline": ("safety", "empty")}

CONTRASTS = ("gate.refusal", "gate.safety", "gate.compassion")
FEWEST_STEPS = 4


@dataclass(frozen=True)
class AsTheSource(Above):
    """A change to the side that the source found it on, which the estimate's ``direction`` says."""

    beyond_null: bool = False

    def __str__(self) -> str:
        return "on the source's side of 0, interval clear of it"

    def judge(self, estimate: Estimate, method: str | None = None) -> Answer[ClaimVerdict]:
        """By value and interval on that side."""
        if estimate.details.get("direction") == -1:
            low, high = (None if end is None else -end for end in (estimate.high, estimate.low))
            value = None if estimate.value is None else -estimate.value
            estimate = estimate.model_copy(update={"value": value, "low": low, "high": high})
        return super().judge(estimate, method)


def figure(published: PublishedSubject, case: Case) -> float | None:
    """The source's value of which the change is reported."""
    if case.key == "secular_divergence":
        return figure_secular_divergence(published, case)
    messages: MessageSet = BENIGN if case.key.startswith("safety-") else SUFFERING
    a, b = _AXES.get(case.key, tuple(case.key.split("-")))
    return final_figure(published, messages, a, b)


def delta(pair: Pair, case: Case) -> Estimates:
    """The child's value less its parent's, on the same messages; the interval is the paired jackknife over messages."""
    claim, _, key = READ[case.key].partition("[")
    child, parent = pair.measured(claim, key.removesuffix("]"))
    found = {variant: _delta(child, parent, variant, DIRECTION[case.key]) for variant in VARIANTS}
    return {variant: one for variant, one in found.items() if one is not None}


def _delta(child: Measurement, parent: Measurement, variant: Variant, direction: int) -> Estimate | None:
    new, old = child.estimates.get(variant), parent.estimates.get(variant)
    if new is None or old is None or new.value is None or old.value is None:
        return None
    paired = new.units.paired(old.units) if new.units is not None and old.units is not None else None
    if paired is None or new.units is None:
        raise NotApplicableError(Absence.UNDEFINED, "child and parent were not resampled by the same messages")
    left_out, value = paired[0] - paired[1], new.value - old.value
    return Estimate.of(
        value,
        jackknife_interval(value, left_out),
        Units.of(new.units.kind, new.units.ids or [], left_out),
        block=new.block,
        details={"child": new.value, "parent": old.value, "direction": float(direction)},
    )


def trajectory(run: Trajectory, case: Case) -> Estimates:
    """Rank correlation of a value with the step, without its sign: 1 where it only rises or only falls.

    Of a contrast, the value at each step is its displacement δ from the first.
    """
    steps = list(run.steps)
    if len(steps) < FEWEST_STEPS:
        raise NotApplicableError(
            Absence.TOO_FEW_SUBJECTS,
            f"an order of {len(steps)} checkpoints says nothing: give at least {FEWEST_STEPS}",
            checkpoints=len(steps),
        )
    values, low, high = zip(*(_at(run, step, case.key) for step in steps), strict=True)
    order = np.array(values)
    if np.ptp(order) == 0:
        raise NotApplicableError(Absence.UNDEFINED, "the value is the same at all checkpoints")

    def steadiness(places: np.ndarray) -> float:
        return abs(float(stats.spearmanr(np.arange(len(order)), order[places]).statistic))

    value = steadiness(np.arange(len(order)))
    p, draws = permutation_p(steadiness, np.arange(len(order)))
    curve = Curve(axis="step", x=steps, y=list(values), low=list(low), high=list(high))
    return {
        "corrected": Estimate(
            value=value,
            n=len(steps),
            curves={"by_step": curve},
            null=Null.of("checkpoints permuted", draws, value),
            details={"permutation_p": p, "first": values[0], "last": values[-1]},
        )
    }


def _at(run: Trajectory, step: float, name: str) -> tuple[float, float | None, float | None]:
    """A value at a step with the ends of its interval."""
    pair = run.pair(step)
    if name in CONTRASTS:
        try:
            compared = ContrastDisplacement().between(*pair.estimates(name), margin=0.0)
        except UntestableError as reason:
            raise NotApplicableError(Absence.UNDEFINED, f"{name} of the checkpoints: {reason}") from None
        return tuple(compared.facts[one] for one in ("delta", "delta_low", "delta_high"))  # type: ignore[return-value]
    claim, _, key = READ[name].partition("[")
    estimate, _ = pair.estimates(claim, key.removesuffix("]"))
    assert estimate.value is not None
    return estimate.value, estimate.low, estimate.high


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="finetune.delta",
        source=SAFETY_COMPASSION,
        where="README, section on KE v9 and its parent",
        statement="Fine-tuning (in the source: on ethical data) draws the contemplative traditions together, away from the "
        "secular framing, and moves safety toward compassion and away from the default.",
        measure=delta,
        null="none: 0 is no change, child and parent read the same messages",
        scope="pair",
        cases=tuple(map(Case, READ)),
        criterion=AsTheSource(),
        published_criterion=AsTheSource(),
        reported=figure,
        smallest_change=0.1,
        reads=tuple(READ.values()),
    ),
    Claim(
        id="finetune.trajectory",
        source=SAFETY_COMPASSION,
        where="open question: the shift along training checkpoints",
        statement="Along training a value moves to one side only.",
        measure=trajectory,
        null="checkpoints permuted",
        scope="trajectory",
        cases=tuple(map(Case, (*READ, *CONTRASTS))),
        criterion=Above(0.5),
        published_criterion=None,
        metric="correlation",
        smallest_change=0.2,
        reads=(*READ.values(), *CONTRASTS),
        open_question=True,
    ),
)
