"""Estimates made of axes against the ``generic`` reference: the measurement that all of source A shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, Final, Literal

import numpy as np

from geometry_bench.geometry.directions import (
    BFLOAT16,
    CROSS_FITTED,
    Arithmetic,
    Array,
    cross_gram,
    gram_cosines,
    noise_ratio,
    split_reference_cosine,
)
from geometry_bench.geometry.resampling import jackknife_interval, random_subsets
from geometry_bench.labs.model import Lab, Rendering, States
from geometry_bench.published.subject import PublishedSubject
from geometry_bench.records.estimates import VARIANTS, Curve, Estimate, Null, Units

REFERENCE = "generic"
MessageSet = Literal["suffering", "benign"]
SUFFERING: Final = "suffering"
BENIGN: Final = "benign"
TRADITIONS = ("chenrezig", "tara", "agape", "rahma")
PAIRS = tuple(combinations(TRADITIONS, 2))
NULL_DRAWS = 2000
SEED = 0

ARITHMETIC: Mapping[Rendering, Arithmetic] = {"published": BFLOAT16, "corrected": CROSS_FITTED}
"""Source A computed means, differences and cosines in bfloat16; all its axes share the noise of one reference mean."""

NOISY = 0.2
"""Noise over length of an axis from which on a cosine of means alone misleads."""


class Axes:
    """mean(condition) − mean(generic) for every condition asked for, (layers, width) each, computed once.

    Cross-fitted they are kept by message, (layers, messages, width).

    ``without`` leaves one message out of both means. The source writes its safety axes the other way round
    (generic − safety); the cosine of two axes does not change when both are reversed.
    """

    def __init__(self, states: States, arithmetic: Arithmetic, without: int | None = None) -> None:
        self._states, self.arithmetic, self._without = states, arithmetic, without
        self._means: dict[str, Array] = {}

    def _mean(self, condition: str) -> Array:
        if condition not in self._means:
            states = self._states[condition]
            if self._without is not None:
                states = np.delete(states, self._without, axis=0)
            self._means[condition] = self.arithmetic.mean(states)
        return self._means[condition]

    def __getitem__(self, condition: str) -> Array:
        return self.arithmetic.subtract(self._mean(condition), self._mean(REFERENCE))

    def cosine(self, a: str, b: str) -> Array:
        """Profile (layers,) of the cosine of two conditions' axes."""
        return self.arithmetic.cosine(self[a], self[b])

    def mean(self, conditions: Sequence[str]) -> Array:
        """The unweighted mean of several axes, (layers, width)."""
        if self.arithmetic is BFLOAT16:
            return BFLOAT16.mean(np.stack([self[condition] for condition in conditions]))
        mean: Array = np.mean([self[condition] for condition in conditions], axis=0)
        return mean

    def stacked(self, prefix: str, layer: int) -> Array:
        """Axes of all conditions of a kind at one block: (conditions, width)."""
        return np.stack([self[name][layer] for name in self._states if name.startswith(prefix)])

    def noise(self, condition: str, layer: int) -> float:
        """Noise of an axis over its length at one block."""
        states, reference = (self._states[name][:, layer : layer + 1] for name in (condition, REFERENCE))
        return float(noise_ratio(states, reference)[0])


Statistic = Callable[[Axes], Array]
"""From axes to a profile (layers,)."""

Draws = Callable[[Axes, int], Array]
"""From axes and a block to draws of the null distribution at that block."""


def axis_estimate(
    lab: Lab,
    rendering: Rendering,
    messages: str,
    statistic: Statistic,
    *,
    null: tuple[str, Draws] | None = None,
    joint: Draws | None = None,
    reduce: Callable[[Array], float] | None = None,
    layer: int | None = -1,
    label: str | None = None,
    details: Callable[[Axes, int], dict[str, float | None]] | None = None,
    correlation: bool = True,
    of: Sequence[str] = (),
    arithmetic: Arithmetic | None = None,
) -> Estimate:
    """Value, jackknife over messages, profile and null of a statistic of axes, those of the conditions ``of``.

    Undefined where an axis is no longer than its noise, with all messages or without one. The value is the statistic at
    ``layer`` (negative counts from the end), or ``reduce`` of the whole profile. The null is drawn for the corrected variant
    alone: control prompts are not part of the source's procedure. ``joint`` draws all cases of the claim together, (draws,
    cases).
    """
    states = lab.states(messages, rendering)
    arithmetic = arithmetic or ARITHMETIC[rendering]
    block = None if layer is None else range(lab.layers)[layer]

    def value_of(profile: Array) -> float:
        return float(reduce(profile)) if reduce is not None else float(profile[block])

    axes = Axes(states, arithmetic)
    profile = np.asarray(statistic(axes), dtype=np.float64)
    value = value_of(profile)
    prompts = len(states[REFERENCE])
    left_out: list[float | None] = [
        value_of(np.asarray(statistic(Axes(states, arithmetic, i)))) for i in range(prompts)
    ]
    defined = np.isfinite(np.array([value, *left_out], dtype=np.float64)).all()
    shown = lab.layers - 1 if block is None else block
    more = dict(details(axes, shown)) if details and rendering == "corrected" else {}
    notes: list[str] = []
    if of and rendering == "corrected":
        more["noise_ratio"] = noise = max((axes.noise(name, shown) for name in of), default=np.nan)
        if not defined:
            notes.append("an axis is zero or no longer than the noise of its messages")
        elif noise > NOISY:
            notes.append(f"the noise of an axis is {noise:.2f} of its length: a cosine of plain means would mislead")
    return Estimate.of(
        value if defined or rendering == "published" else np.nan,
        jackknife_interval(value, np.array(left_out, dtype=np.float64), correlation=correlation) if defined else None,
        Units.of("message", [message.id for message in lab.pack.messages[messages]], left_out),
        block=block,
        curves={"profile": Curve.over_blocks(profile)},
        null=_null(null, joint, axes, shown, value) if null and rendering == "corrected" else None,
        label=label,
        details=more,
        notes=notes,
        arithmetic=arithmetic.name,
    )


def _null(null: tuple[str, Draws], joint: Draws | None, axes: Axes, layer: int, value: float) -> Null | None:
    return Null.of(null[0], null[1](axes, layer), value, joint(axes, layer) if joint is not None else None)


def both(lab: Lab, messages: str, statistic: Statistic, **options: Any) -> dict[Rendering, Estimate]:
    """The estimate in both variants; ``options`` as of :func:`axis_estimate`."""
    return {variant: axis_estimate(lab, variant, messages, statistic, **options) for variant in VARIANTS}


def pair_statistic(a: str, b: str) -> Statistic:
    """Profile of the cosine of two conditions' axes."""
    return lambda axes: axes.cosine(a, b)


def split_details(lab: Lab, messages: str, a: str, b: str) -> dict[str, float | None]:
    """The cosine of two axes at the final block when each has messages and reference of its own."""
    states = lab.states(messages, "corrected")
    mean, sd = split_reference_cosine(states[a][:, -1], states[b][:, -1], states[REFERENCE][:, -1])
    return {"split_reference": mean, "split_reference_sd": sd}


def final_figure(published: PublishedSubject, messages: MessageSet, a: str, b: str) -> float | None:
    """The source's cosine of two axes at its last published block."""
    profile = published.cosine(messages, a, b)
    return None if profile is None else profile[max(profile)]


# Null distributions, all of axes of unrelated system prompts against the same reference, as long as what they replace.

CONTROLS = "control:"
SAFETY_CONTROLS = "safety_control:"
"""Conditions of the length of the frameworks, and of that of the two safety prompts."""


def control_pairs(axes: Axes, layer: int) -> Array:
    """Cosines of all pairs of control axes."""
    return pairs_of(cross_gram(axes.stacked(CONTROLS, layer)))


def pairs_of(gram: Array) -> Array:
    """Cosines of all pairs i < j from inner products (axes, axes) -> (pairs,)."""
    pairs: Array = gram_cosines(gram)[np.triu_indices(len(gram), k=1)]
    return pairs


def control_partner(*kept: str, controls_of: str = CONTROLS) -> Draws:
    """Cosines of each control axis with the axes of the conditions that are kept: the other partner is replaced."""

    def draws(axes: Axes, layer: int) -> Array:
        controls = axes.stacked(controls_of, layer)
        return np.concatenate(
            [axes.arithmetic.cosine(controls, np.broadcast_to(axes[k][layer], controls.shape)) for k in kept]
        )

    return draws


def control_groups(size: int, statistic: Callable[[Array], float | Array]) -> Draws:
    """A statistic, or one for each case, of the inner products (size, size) of random ordered groups of control axes."""

    def draws(axes: Axes, layer: int) -> Array:
        gram = cross_gram(axes.stacked(CONTROLS, layer))
        groups = random_subsets(len(gram), size, NULL_DRAWS, SEED)
        return np.array([statistic(gram[np.ix_(group, group)]) for group in groups])

    return draws
