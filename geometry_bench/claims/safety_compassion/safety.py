"""How the safety claims of source A are measured: safety axes on the benign messages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geometry_bench.claims.criteria import Above
from geometry_bench.claims.model import Case, Estimates
from geometry_bench.claims.safety_compassion.axes import (
    BENIGN,
    CONTROLS,
    PAIRS,
    SAFETY_CONTROLS,
    SEED,
    SUFFERING,
    TRADITIONS,
    Axes,
    Draws,
    Statistic,
    axis_estimate,
    both,
    control_partner,
    pair_statistic,
    pairs_of,
    split_details,
)
from geometry_bench.claims.safety_compassion.compassion import secular_divergence_profile
from geometry_bench.claims.safety_compassion.layers import analysis_layers, first_analysis_layer
from geometry_bench.geometry.directions import CROSS_FITTED, FLOAT64, Array, cross_cosine, cross_gram
from geometry_bench.geometry.dispersion import participation_ratio, spectrum
from geometry_bench.labs.model import Lab
from geometry_bench.published.subject import PublishedSubject
from geometry_bench.records.estimates import Estimate
from geometry_bench.records.judgement import Answer, ClaimVerdict, Reason
from geometry_bench.records.measurement import Absence, NotApplicableError


def safety_replaced(*kept: str) -> Draws:
    """Cosines with the axes that are kept when an unrelated prompt of its length stands in for the safety prompt."""
    return control_partner(*kept, controls_of=SAFETY_CONTROLS)


def compassion_alignment(lab: Lab, case: Case) -> Estimates:
    """Cosine of the safety axis with the compassion axis, which the source takes from ``chenrezig``."""
    return both(
        lab,
        BENIGN,
        pair_statistic("safety", "chenrezig"),
        null=("chenrezig with unrelated system prompts", safety_replaced("chenrezig")),
        details=lambda axes, layer: split_details(lab, BENIGN, "safety", "chenrezig"),
        of=("safety", "chenrezig"),
    )


def tradition_alignment(lab: Lab, case: Case) -> Estimates:
    """Cosine of the safety axis with another tradition's axis, or with the mean of all four."""
    (tradition,) = case.parameters
    if tradition != "unified":
        statistic = pair_statistic("safety", tradition)
        null = (f"{tradition} with unrelated system prompts", safety_replaced(tradition))
    else:

        def statistic(axes: Axes) -> Array:
            return axes.arithmetic.cosine(axes["safety"], axes.mean(TRADITIONS))

        def unified_with_controls(axes: Axes, layer: int) -> Array:
            return cross_cosine(axes.stacked(SAFETY_CONTROLS, layer), axes.mean(TRADITIONS)[layer])

        null = ("the unified axis with unrelated system prompts", unified_with_controls)
    others = TRADITIONS if tradition == "unified" else (tradition,)
    return both(lab, BENIGN, statistic, null=null, joint=_each_tradition_with_controls, of=("safety", *others))


def _each_tradition_with_controls(axes: Axes, layer: int) -> Array:
    """Cosines (controls, cases) of unrelated prompts of the safety prompt's length with each tradition but the first, and
    with the mean of all.
    """
    controls = axes.stacked(SAFETY_CONTROLS, layer)
    others = [*(axes[name][layer] for name in TRADITIONS[1:]), axes.mean(TRADITIONS)[layer]]
    return np.stack([cross_cosine(controls, other) for other in others], axis=1)


def _require_distinct_empty(lab: Lab) -> None:
    if lab.same_prompt("empty", "generic", BENIGN):
        raise NotApplicableError(
            Absence.SAME_PROMPT,
            "without a system message the template renders the generic prompt itself, so the safety-baseline axis is zero; "
            "supply another generic prompt with --prompts",
        )


def baseline_sign(lab: Lab, case: Case) -> Estimates:
    """Cosine of the safety axis with the axis of no system message."""
    _require_distinct_empty(lab)
    return both(
        lab,
        BENIGN,
        pair_statistic("safety", "empty"),
        null=("the baseline with unrelated system prompts", safety_replaced("empty")),
        details=lambda axes, layer: split_details(lab, BENIGN, "safety", "empty"),
        of=("safety", "empty"),
    )


def strict_agreement(lab: Lab, case: Case) -> Estimates:
    """Cosine of the two safety prompts' axes."""
    return both(
        lab,
        BENIGN,
        pair_statistic("safety", "safety_strict"),
        null=("either safety prompt with unrelated system prompts", safety_replaced("safety", "safety_strict")),
        details=lambda axes, layer: (
            {"control_pairs": float(pairs_of(cross_gram(axes.stacked(SAFETY_CONTROLS, layer))).mean())}
            | split_details(lab, BENIGN, "safety", "safety_strict")
        ),
        of=("safety", "safety_strict"),
    )


def weakest_agreement(profile: Array, layers: int) -> float:
    """The smallest value over the analysed blocks, signed so that their mean is positive: > 0 where no sign changes."""
    window = profile[list(analysis_layers(layers))]
    return float((np.sign(window.mean()) * window).min())


def last_jump_excess(profile: Array, layers: int) -> float:
    """|last step| minus the largest earlier step between neighbouring analysis layers."""
    steps = np.abs(np.diff(profile[list(analysis_layers(layers))]))
    return float(steps[-1] - steps[:-1].max())


REDUCTIONS = {"sign_agreement": weakest_agreement, "last_block_jump": last_jump_excess}
_FEWEST = {"sign_agreement": 2, "last_block_jump": 3}


def layer_profile(lab: Lab, case: Case) -> Estimates:
    """A reduction of the safety-baseline profile over the analysis layers."""
    _require_distinct_empty(lab)
    (kind,) = case.parameters
    analysed = len(analysis_layers(lab.layers))
    if analysed < _FEWEST[kind]:
        raise NotApplicableError(
            Absence.TOO_FEW_BLOCKS,
            f"{lab.layers} blocks leave {analysed} analysis layers from block {first_analysis_layer(lab.layers)} on, too "
            f"few for {kind.replace('_', ' ')}, which takes {_FEWEST[kind]}",
            blocks=lab.layers,
        )
    reduction = REDUCTIONS[kind]

    def control_profiles(axes: Axes, layer: int) -> Array:
        names = [name for name in lab.conditions(BENIGN) if name.startswith(SAFETY_CONTROLS)]
        return np.array([reduction(axes.cosine(name, "empty"), lab.layers) for name in names])

    return both(
        lab,
        BENIGN,
        pair_statistic("safety", "empty"),
        reduce=lambda profile: reduction(profile, lab.layers),
        layer=None,
        null=("the same of unrelated system prompts' profiles", control_profiles),
        details=lambda axes, layer: {
            "jump": float(np.diff(axes.cosine("safety", "empty")[-2:])[0]),
            "analysis_layers_agreeing": float(
                np.mean(
                    np.sign(axes.cosine("safety", "empty")[list(analysis_layers(lab.layers))])
                    == np.sign(axes.cosine("safety", "empty")[-1])
                )
            ),
        },
        correlation=False,
        of=("safety", "empty"),
    )


def figure_layer_profile(published: PublishedSubject, case: Case) -> float | None:
    """The same of the source's profile."""
    profile = published.cosine(BENIGN, "safety", "empty")
    if profile is None or set(analysis_layers(published.layers)) - set(profile):
        return None
    values = np.array([profile.get(layer, np.nan) for layer in range(published.layers)])
    return REDUCTIONS[case.key](values, published.layers)


def _first_share(vectors: Array) -> float:
    return float(spectrum(vectors)[0])


def dimensionality(lab: Lab, case: Case) -> Estimates:
    """Share of the first principal direction of the axes of many safety prompts, all axes with equal weight."""

    def profile(axes: Axes) -> Array:
        return np.array([_first_share(axes.stacked("topic:", layer)) for layer in range(lab.layers)])

    def permuted(axes: Axes, layer: int) -> Array:
        topics, controls = axes.stacked("topic:", layer), axes.stacked(CONTROLS, layer)
        pool, generator = np.concatenate([topics, controls]), np.random.default_rng(SEED)
        return np.array([_first_share(pool[generator.permutation(len(pool))[: len(topics)]]) for _ in range(500)])

    def details(axes: Axes, layer: int) -> dict[str, float | None]:
        topics, controls = axes.stacked("topic:", layer), axes.stacked(CONTROLS, layer)
        centred = topics - topics.mean(axis=0)
        return {
            "participation_ratio": participation_ratio(spectrum(topics)),
            "participation_ratio_centred": participation_ratio(spectrum(centred, normalise=False)),
            "controls_first_share": _first_share(controls),
            "safety_prompts": float(len(topics)),
        }

    return {
        "corrected": axis_estimate(
            lab,
            "corrected",
            BENIGN,
            profile,
            null=("labels permuted between safety prompts and unrelated ones", permuted),
            details=details,
            correlation=False,
            arithmetic=FLOAT64,
        )
    }


SENSITIVE: dict[str, tuple[str, Statistic]] = {
    **{f"{a}-{b}": (SUFFERING, pair_statistic(a, b)) for a, b in PAIRS},
    "secular_divergence": (SUFFERING, secular_divergence_profile),
    "safety-compassion": (BENIGN, pair_statistic("safety", "chenrezig")),
    **{f"safety-{t}": (BENIGN, pair_statistic("safety", t)) for t in TRADITIONS[1:]},
    "safety-baseline": (BENIGN, pair_statistic("safety", "empty")),
    "safety-strict": (BENIGN, pair_statistic("safety", "safety_strict")),
}


@dataclass(frozen=True)
class KeepsItsSign(Above):
    """Above zero in every recomputation, of a value that has a sign: one that cannot be told from zero has none to keep."""

    beyond_null: bool = False

    def judge(self, estimate: Estimate, method: str | None = None) -> Answer[ClaimVerdict]:
        """By the interval of the value itself, then by the smallest recomputation."""
        value, low, high = (estimate.details.get(name) for name in ("figure", "figure_low", "figure_high"))
        if value is not None and low is not None and high is not None and low <= 0 <= high:
            facts = {"value": value, "low": low, "high": high}
            return Answer(ClaimVerdict.INCONCLUSIVE, Reason.NO_SIGN, facts)
        return super().judge(estimate, method)


def prompt_sensitivity(lab: Lab, case: Case) -> Estimates:
    """Smallest value over all recomputations, signed so that the value itself is positive: > 0 where it is stable."""
    (figure,) = case.parameters
    messages, statistic = SENSITIVE[figure]
    other = BENIGN if messages == SUFFERING else SUFFERING
    if figure == "safety-baseline":
        _require_distinct_empty(lab)
    base = axis_estimate(lab, "corrected", messages, statistic)
    swapped = axis_estimate(lab, "corrected", other, statistic)
    bare_states = dict(lab.states(messages, "corrected"))
    bare_states |= {k: bare_states[f"bare:{k}"] for k in lab.pack.openings}
    bare = float(statistic(Axes(bare_states, CROSS_FITTED))[-1]) if lab.pack.openings else None
    assert base.units is not None
    recomputed = [*base.units.values, swapped.value, *([bare] if bare is not None else [])]
    if base.value is None or any(x is None for x in recomputed):
        raise NotApplicableError(
            Absence.UNDEFINED, "an axis is zero, so the value is undefined on some of the recomputations"
        )
    values = [x for x in recomputed if x is not None]
    sign = float(np.sign(base.value))
    return {
        "corrected": Estimate(
            value=min(sign * x for x in values),
            n=len(values),
            block=lab.layers - 1,
            details={
                "figure": base.value,
                "figure_low": base.low,
                "figure_high": base.high,
                "leave_one_out_min": min(values[: base.n]),
                "leave_one_out_max": max(values[: base.n]),
                "other_messages": swapped.value,
                **({"without_opening": bare} if bare is not None else {}),
                "spread": max([*values, base.value]) - min([*values, base.value]),
            },
            notes=[] if lab.pack.openings else ["the pack declares no opening formulas to leave out"],
        )
    }
