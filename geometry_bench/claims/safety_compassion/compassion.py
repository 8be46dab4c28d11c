"""How the compassion claims of source A are measured: axes of contemplative traditions on the suffering messages."""

from __future__ import annotations

import numpy as np

from geometry_bench.claims.model import Case, Estimates
from geometry_bench.claims.safety_compassion.axes import (
    ARITHMETIC,
    PAIRS,
    SUFFERING,
    TRADITIONS,
    Axes,
    axis_estimate,
    both,
    control_groups,
    control_pairs,
    control_partner,
    final_figure,
    pair_statistic,
    pairs_of,
    split_details,
)
from geometry_bench.geometry.directions import Array, gram_cosines
from geometry_bench.labs.model import Lab, Rendering
from geometry_bench.published.subject import PublishedSubject
from geometry_bench.records.estimates import VARIANTS, Estimate


def cross_tradition(lab: Lab, case: Case) -> Estimates:
    """Cosine of two traditions' axes at the final block."""
    a, b = case.parameters

    def details(axes: Axes, layer: int) -> dict[str, float | None]:
        to_controls: dict[str, float | None] = {
            f"{k}_with_controls": float(np.mean(control_partner(k)(axes, layer))) for k in (a, b)
        }
        return to_controls | split_details(lab, SUFFERING, a, b)

    return both(
        lab,
        SUFFERING,
        pair_statistic(a, b),
        null=("pairs of unrelated system prompts", control_pairs),
        joint=control_groups(len(TRADITIONS), pairs_of),
        details=details,
        of=(a, b),
    )


def secular_divergence_profile(axes: Axes) -> Array:
    """Mean cosine among the traditions minus their mean cosine to ``secular``, per block."""
    within = np.mean([axes.cosine(a, b) for a, b in PAIRS], axis=0)
    apart = np.mean([axes.cosine(t, "secular") for t in TRADITIONS], axis=0)
    divergence: Array = within - apart
    return divergence


def _divergence_of_last(group: Array) -> float:
    cosines = gram_cosines(group)
    return float(pairs_of(group[:-1, :-1]).mean() - cosines[:-1, -1].mean())


def secular_divergence(lab: Lab, case: Case) -> Estimates:
    """Secular divergence at the final block."""
    return both(
        lab,
        SUFFERING,
        secular_divergence_profile,
        null=("one of five unrelated system prompts set apart", control_groups(5, _divergence_of_last)),
        details=lambda axes, layer: {f"{t}-secular": float(axes.cosine(t, "secular")[layer]) for t in TRADITIONS},
        correlation=False,
        of=(*TRADITIONS, "secular"),
    )


def figure_secular_divergence(published: PublishedSubject, case: Case) -> float | None:
    """The same of the source's cosines."""
    within = [final_figure(published, SUFFERING, a, b) for a, b in PAIRS]
    apart = [final_figure(published, SUFFERING, t, "secular") for t in TRADITIONS]
    if None in within or None in apart:
        return None
    return float(np.mean([x for x in within if x is not None]) - np.mean([x for x in apart if x is not None]))


def _pair_cosines_of(axes: Axes) -> Array:
    return np.stack([axes.cosine(a, b) for a, b in PAIRS])


def tightest_pair(lab: Lab, case: Case) -> Estimates:
    """Margin of the closest pair over the runner-up.

    The pair is the one that is closest on all messages; without a message its margin can turn negative, which is what makes
    the interval honest.
    """
    return {variant: _tightest(lab, variant) for variant in VARIANTS}


def _tightest(lab: Lab, rendering: Rendering) -> Estimate:
    axes = Axes(lab.states(SUFFERING, rendering), ARITHMETIC[rendering])
    best = int(np.nan_to_num(_pair_cosines_of(axes)[:, -1], nan=-np.inf).argmax())

    def margin(axes: Axes) -> Array:
        values = _pair_cosines_of(axes)
        lead: Array = values[best] - np.delete(values, best, axis=0).max(axis=0)
        return lead

    return axis_estimate(
        lab,
        rendering,
        SUFFERING,
        margin,
        null=("closest of six pairs of four unrelated system prompts", control_groups(4, _margin)),
        label="-".join(PAIRS[best]),
        correlation=False,
        of=TRADITIONS,
    )


def _margin(group: Array) -> float:
    ordered = np.sort(pairs_of(group))
    return float(ordered[-1] - ordered[-2])


def figure_tightest_pair(published: PublishedSubject, case: Case) -> float | None:
    """Margin of the source's two highest cosines."""
    values = sorted(v for a, b in PAIRS if (v := final_figure(published, SUFFERING, a, b)) is not None)
    return values[-1] - values[-2] if len(values) == len(PAIRS) else None


def _each_with_the_mean_of_others(group: Array) -> Array:
    count = len(group)
    weights = np.concatenate([np.eye(count), (1 - np.eye(count)) / (count - 1)])
    each: Array = np.diag(gram_cosines(weights @ group @ weights.T)[:count, count:])
    return each


def _first_with_the_mean_of_others(group: Array) -> float:
    return float(_each_with_the_mean_of_others(group)[0])


def unified_axis(lab: Lab, case: Case) -> Estimates:
    """Published: with the mean of all four, the tradition itself among them. Corrected: with the mean of the other three."""
    (tradition,) = case.parameters

    def full(axes: Axes) -> Array:
        return axes.arithmetic.cosine(axes[tradition], axes.mean(TRADITIONS))

    def others(axes: Axes) -> Array:
        return axes.arithmetic.cosine(axes[tradition], axes.mean([t for t in TRADITIONS if t != tradition]))

    return {
        "published": axis_estimate(lab, "published", SUFFERING, full),
        "corrected": axis_estimate(
            lab,
            "corrected",
            SUFFERING,
            others,
            null=(
                "an unrelated system prompt with the mean of three others",
                control_groups(4, _first_with_the_mean_of_others),
            ),
            joint=control_groups(len(TRADITIONS), _each_with_the_mean_of_others),
            details=lambda axes, layer: {"orthonormal_null": 0.0, "full_mean": float(full(axes)[layer])},
            of=TRADITIONS,
        ),
    }
