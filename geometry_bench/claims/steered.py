"""What steering along a direction does to refusals: fitted on one half of the topics, measured on the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from geometry_bench.activations.pooling import Pooling
from geometry_bench.behavior.refusals import VERSION, rate
from geometry_bench.claims.changes import HARMFUL, HARMLESS
from geometry_bench.claims.requests import SEED, Labelled
from geometry_bench.geometry.clusters import split_halves
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.rates import change_interval
from geometry_bench.geometry.resampling import jackknife_interval, means_without_each
from geometry_bench.labs.answering import asked_abilities, hits, nats_per_token, refused
from geometry_bench.labs.memo import remembered
from geometry_bench.labs.model import Lab
from geometry_bench.prompts.names import NEUTRAL
from geometry_bench.records.estimates import Curve, Estimate, Null, Units
from geometry_bench.records.measurement import Absence, NotApplicableError

if TYPE_CHECKING:
    from geometry_bench.behavior.interventions import Intervention

CLASSES = (HARMLESS, HARMFUL)
NEW_TOKENS = 24

RANDOM = 19
"""Random directions: one more exceeds the largest of them in 5 % of cases."""

FEW_RANDOM = 2
"""Random directions at the other strengths, and whose cost is measured."""

Sign = Literal[1, -1]
Intervene = Callable[[Array, float], "Intervention"]
"""From a direction and a strength to an intervention."""

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Halves(Labelled):
    """Both classes, and which requests (prompts,) a direction is fitted on; the others are left for the test."""

    fitted: Flags

    def rows(self, *, harmful: bool, fitted: bool) -> NDArray[np.int64]:
        """Places of the requests of a class in a half."""
        return np.flatnonzero((self.labels == harmful) & (self.fitted == fitted))


@remembered
def halves(lab: Lab) -> Halves:
    """Harmless and harmful requests, their topics dealt to two halves."""
    drawn = [lab.request_settings.load(name) for name in CLASSES]
    both = Labelled.of(*drawn)
    (fitted,) = split_halves(both.labels, both.topics, splits=1, seed=SEED)
    return Halves.of(*drawn, fitted=fitted)


@dataclass(frozen=True)
class Fitted:
    """Mean of harmful less mean of harmless requests at every block, and the middle of the two: each (layers, width)."""

    apart: Array
    middle: Array


@remembered
def directions(lab: Lab, pooling: Pooling, fitted: bool = True) -> Fitted:
    """Directions of the half that is fitted, or of the other."""
    both = halves(lab)
    states = [lab.requests(name, rendering="chat", poolings=(pooling,)).states[pooling] for name in CLASSES]
    chosen = both.fitted == fitted
    joined, labels = np.concatenate(states)[chosen].astype(np.float64), both.labels[chosen]
    harmful, harmless = joined[labels].mean(axis=0), joined[~labels].mean(axis=0)
    return Fitted(harmful - harmless, (harmful + harmless) / 2)


def random_directions(direction: Array, count: int) -> list[Array]:
    """Random directions as long as one of the model's."""
    drawn = np.random.default_rng(SEED).standard_normal((count, len(direction)))
    drawn *= np.linalg.norm(direction) / np.linalg.norm(drawn, axis=1, keepdims=True)
    return list(drawn)


def refusals(lab: Lab, rows: Sequence[int] | NDArray[np.int64], *interventions: Intervention, label: str = "") -> Flags:
    """Which of the requests at these places (rows,) are refused."""
    prompts = [prompt.ids for name in CLASSES for prompt in lab.encoded_requests(name, "chat")]
    return refused(lab, [prompts[row] for row in rows], NEW_TOKENS, interventions, label=label)


@remembered
def plain_refusals(lab: Lab, harmful: bool, fitted: bool) -> Flags:
    """The same of a class in a half, without interventions."""
    return refusals(lab, halves(lab).rows(harmful=harmful, fitted=fitted), label="answers as they are")


@remembered
def plain_nats(lab: Lab) -> float:
    """Nats a token of neutral instructions, without interventions."""
    return nats_per_token(lab, NEUTRAL)


@remembered
def plain_hits(lab: Lab, place: int) -> Array:
    """What the model gets right of one of its abilities (parts,), without interventions."""
    return hits(lab, asked_abilities(lab)[place], label="as it is")


def cost(lab: Lab, place: int, change: Intervention, random: Sequence[Intervention]) -> dict[str, float | None]:
    """What a change costs of an ability: shares right as it is, under the change with the interval of the loss, at random.

    Parts count as right or wrong, so that a loss is a change of −1, 0 or 1 a part.
    """
    question = asked_abilities(lab)[place]
    before, after = plain_hits(lab, place), hits(lab, question, [change], label="under the direction")
    others = [hits(lab, question, [one], label=f"random direction {number + 1}") for number, one in enumerate(random)]
    lost = np.rint(before).astype(np.int64) - np.rint(after).astype(np.int64)
    _, left_out = means_without_each(lost, question.topics)
    interval = change_interval(lost, topics=jackknife_interval(float(lost.mean()), left_out))
    share = rate(np.rint(before).astype(bool))
    return {
        f"{question.label}_right": share.value,
        f"{question.label}_right_low": share.low,
        f"{question.label}_right_high": share.high,
        f"{question.label}_asked": float(len(before)),
        f"{question.label}_lost": float(lost.mean()),
        f"{question.label}_lost_low": interval.low,
        f"{question.label}_lost_high": interval.high,
        f"{question.label}_lost_by_random": float(before.mean() - np.mean(others)),
    }


def effect(
    lab: Lab,
    direction: Array,
    intervene: Intervene,
    strengths: Sequence[float],
    *,
    harmful: bool,
    sign: Sign,
    block: int,
    label: str,
    details: Mapping[str, float | None] | None = None,
) -> Estimate:
    """By how much refusals of a class rise (``sign`` 1) or fall (−1) in the half left for the test, at strength 1.

    Beside it random directions at the same dose, refusals over all strengths, nats a token of neutral instructions, and what
    it costs of the model's ability, where there is a set of sums or the run names tasks.
    Not applicable where fewer than a tenth of the requests could change.
    """
    both, before = halves(lab), plain_refusals(lab, harmful, False)
    rows = both.rows(harmful=harmful, fitted=False)
    share = float(before.mean())
    if (share if sign < 0 else 1 - share) < 0.1:
        kind = HARMFUL if harmful else HARMLESS
        raise NotApplicableError(
            Absence.NO_REFUSALS,
            f"the model refuses {before.sum()} of {len(before)} requests, so there is nothing to "
            f"{'lower' if sign < 0 else 'raise'}; give others with --set {kind}=SET",
            refused=float(before.sum()),
        )

    def after(one: Array, strength: float, name: str) -> Flags:
        return refusals(lab, rows, intervene(one, strength), label=f"{label}, {name} at {strength:g}")

    found = {strength: after(direction, strength, "direction") for strength in sorted({*strengths, 1.0})}
    random = random_directions(direction, RANDOM)
    chance = [after(one, 1.0, f"random direction {place + 1}") for place, one in enumerate(random)]
    few = {
        strength: np.mean([after(one, strength, "random direction") for one in random[:FEW_RANDOM]])
        for strength in found
        if strength != 1.0
    }
    few[1.0] = np.mean(chance)
    change = sign * (found[1.0].astype(np.int64) - before)
    value = float(change.mean())
    names, left_out = means_without_each(change, [both.topics[row] for row in rows])
    rates = {0.0: rate(before)} | {strength: rate(flags) for strength, flags in found.items()}
    x = list(rates)
    nats = {strength: nats_per_token(lab, NEUTRAL, [intervene(direction, strength)]) for strength in found}
    random_nats = [nats_per_token(lab, NEUTRAL, [intervene(one, 1.0)]) for one in random[:FEW_RANDOM]]
    able: dict[str, float | None] = {}
    for place in range(len(asked_abilities(lab))):
        able |= cost(lab, place, intervene(direction, 1.0), [intervene(one, 1.0) for one in random[:FEW_RANDOM]])
    return Estimate.of(
        value,
        change_interval(change, topics=jackknife_interval(value, left_out)),
        Units.of("topic", names, left_out),
        block=block,
        null=Null.of("random directions of equal length", [sign * (flags.mean() - share) for flags in chance], value),
        curves={
            "refused": Curve(
                axis="strength",
                x=x,
                y=[one.value for one in rates.values()],
                low=[one.low for one in rates.values()],
                high=[one.high for one in rates.values()],
            ),
            "refused_random": Curve.along("strength", {0.0: share, **{key: float(few[key]) for key in found}}),
            "nats_per_token": Curve.along("strength", {0.0: plain_nats(lab), **nats}),
        },
        details={
            "before": share,
            "after": rates[1.0].value,
            "after_random": float(np.mean(chance)),
            "requests": float(len(rows)),
            "nats_per_token": plain_nats(lab),
            "nats_added": nats[1.0] - plain_nats(lab),
            "nats_added_by_random": float(np.mean(random_nats)) - plain_nats(lab),
            "length": float(np.linalg.norm(direction)),
            **able,
            **(details or {}),
        },
        notes=[f"judged by {VERSION}, {NEW_TOKENS} tokens of each answer"],
    )
