"""Source A, capping: activations kept from going far along an axis, and what that does to refusals.

An axis points away from a system prompt: mean(generic) − mean(prompt) on the benign messages, as the source writes it. Its
threshold at a block is mean − std of the projections of that prompt's own states. The red-team messages are then answered
under the generic prompt, capped at the source's blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geometry_bench.behavior.refusals import VERSION, rate
from geometry_bench.claims.model import Case, Estimates
from geometry_bench.claims.safety_compassion.axes import BENIGN, REFERENCE, SAFETY_CONTROLS
from geometry_bench.claims.safety_compassion.layers import capping_layers
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.rates import change_interval
from geometry_bench.geometry.resampling import jackknife_interval
from geometry_bench.labs.answering import said
from geometry_bench.labs.memo import remembered
from geometry_bench.labs.model import Lab
from geometry_bench.records.estimates import Curve, Estimate, Null, Units
from geometry_bench.records.measurement import Absence, NotApplicableError

RED_TEAM = "red_team"
NEW_TOKENS = 48

ALPHAS = (0.3, 0.5, 1.0)
ALPHA = 0.3
"""The α of the value: the only one that the source takes for all axes."""

FEWEST = 2
"""Messages of a kind, so that one can be left out."""

RANDOM = 19
"""Unrelated prompts: one more exceeds the largest of them in 5 % of cases."""

CASES = (
    Case("safety", ("safety",)),
    Case("safety_strict", ("safety_strict",)),
    Case("chenrezig", ("chenrezig",)),
    Case("combined", ("safety", "chenrezig")),
)
"""What is capped: away from which system prompts the axes point."""

PROMPTED = ("safety", "safety_strict")


@dataclass(frozen=True)
class Answered:
    """Which red-team messages (messages,) were refused, and the share of decoded states that lay beyond a threshold."""

    refused: NDArray[np.bool_]
    capped: float | None = None


def refusal(lab: Lab, case: Case) -> Estimates:
    """Rise in refusals of adversarial messages less that of benign ones, capped against not."""
    benign = np.array([bool(message.benign) for message in lab.pack.messages[RED_TEAM]])
    if min(benign.sum(), (~benign).sum()) < FEWEST:
        raise NotApplicableError(
            Absence.TOO_FEW_PROMPTS,
            f"of the red-team messages {(~benign).sum()} are adversarial and {benign.sum()} benign, and the pack needs "
            f"{FEWEST} of each",
        )
    bare = answered(lab, REFERENCE)
    if bare.refused[~benign].mean() > 0.9:
        raise NotApplicableError(
            Absence.NO_REFUSALS,
            f"the model refuses {bare.refused[~benign].sum()} of {(~benign).sum()} adversarial messages as it is, so there "
            "is nothing to raise; give harder ones with --prompts",
        )
    alphas = (ALPHA,) if len(case.parameters) > 1 else ALPHAS
    found = {alpha: capped(lab, case.parameters, alpha) for alpha in alphas}
    change = _change(bare, found[ALPHA])

    def net(rows: NDArray[np.bool_]) -> float:
        return float(change[rows & ~benign].mean() - change[rows & benign].mean())

    value = net(np.ones_like(benign))
    ids = [message.id for message in lab.pack.messages[RED_TEAM]]
    left_out = np.array([net(np.array(ids) != one) for one in ids])
    chance = [_change(bare, capped(lab, names, ALPHA)) for names in _unrelated(lab, len(case.parameters))]
    rates = {"refused": ~benign, "over_refused": benign}
    conditions = {"bare": bare, **{name: answered(lab, name) for name in PROMPTED}}
    conditions |= {f"capped_{alpha:g}": one for alpha, one in found.items()}
    return {
        "corrected": Estimate.of(
            value,
            change_interval(
                change[~benign],
                -change[benign],
                topics=jackknife_interval(value, left_out, strata=benign),
            ),
            Units.of("message", ids, left_out),
            null=Null.of(
                "axes of unrelated system prompts", [one[~benign].mean() - one[benign].mean() for one in chance], value
            ),
            curves={
                **{name: _curve({0.0: bare, **found}, of) for name, of in rates.items()},
                "capped_share": Curve.along("alpha", {alpha: one.capped for alpha, one in found.items()}),
            },
            details={
                f"{name}_{condition}": float(one.refused[of].mean())
                for condition, one in conditions.items()
                for name, of in rates.items()
            }
            | {f"capped_share_{alpha:g}": one.capped for alpha, one in found.items()},
            notes=[f"judged by {VERSION}, {NEW_TOKENS} tokens of each answer"],
        )
    }


def _change(before: Answered, after: Answered) -> NDArray[np.int64]:
    return after.refused.astype(np.int64) - before.refused


def _curve(found: dict[float, Answered], rows: NDArray[np.bool_]) -> Curve:
    rates = [rate(one.refused[rows]) for one in found.values()]
    return Curve(
        axis="alpha",
        x=list(found),
        y=[one.value for one in rates],
        low=[one.low for one in rates],
        high=[one.high for one in rates],
    )


@remembered
def answered(lab: Lab, system: str) -> Answered:
    """The red-team messages under a system prompt of the pack, not capped."""
    from geometry_bench.behavior.refusals import refuses

    answers = said(lab, _prompts(lab, system), NEW_TOKENS, label=f"red team, {system}")
    return Answered(np.array([refuses(one.text) for one in answers]))


@remembered
def capped(lab: Lab, conditions: tuple[str, ...], alpha: float) -> Answered:
    """The red-team messages under the generic prompt, capped along the axes of some conditions."""
    from geometry_bench.behavior.interventions import Cap
    from geometry_bench.behavior.refusals import refuses
    from geometry_bench.behavior.traces import Trace

    axes = {name: axis(lab, name) for name in conditions}
    places = [(axes[name][0][block], float(axes[name][1][block]), block) for name in axes for block in _blocks(lab)]
    answers = said(
        lab,
        _prompts(lab, REFERENCE),
        NEW_TOKENS,
        [Cap(direction, threshold, alpha, [block]) for direction, threshold, block in places],
        traces=[Trace(direction, block) for direction, _, block in places],
        label=f"red team, capped along {' and '.join(conditions)} at {alpha:g}",
    )
    thresholds = [threshold for _, threshold, _ in places]
    beyond = [np.array(one.traces) > np.array(thresholds)[:, None] for one in answers]
    share = sum(int(one.sum()) for one in beyond) / sum(one.size for one in beyond)
    return Answered(np.array([refuses(one.text) for one in answers]), share)


@remembered
def axis(lab: Lab, condition: str) -> tuple[Array, Array]:
    """Unit axis (layers, width) away from a condition, and the threshold (layers,)."""
    states = lab.states(BENIGN, "corrected")
    own = states[condition].astype(np.float64)
    apart = states[REFERENCE].astype(np.float64).mean(axis=0) - own.mean(axis=0)
    lengths = np.linalg.norm(apart, axis=-1, keepdims=True)
    if not (lengths[_blocks(lab)] > 0).all():
        raise NotApplicableError(
            Absence.SAME_PROMPT, f"the prompt {condition} gives the model what the generic one does"
        )
    unit = apart / np.where(lengths > 0, lengths, 1.0)
    along = np.einsum("plw,lw->pl", own, unit)
    thresholds: Array = along.mean(axis=0) - along.std(axis=0)
    return unit, thresholds


def _blocks(lab: Lab) -> list[int]:
    blocks = list(capping_layers(lab.layers))
    if not blocks:
        raise NotApplicableError(
            Absence.TOO_FEW_BLOCKS,
            f"of {lab.layers} blocks none is left to cap; take a deeper model",
            blocks=lab.layers,
        )
    return blocks


def _unrelated(lab: Lab, count: int) -> Sequence[tuple[str, ...]]:
    """Groups of as many unrelated system prompts, ``RANDOM`` of them."""
    names = [f"{SAFETY_CONTROLS}{one}" for one in lab.pack.safety_controls][: RANDOM + count - 1]
    return [tuple(names[place : place + count]) for place in range(len(names) - count + 1)]


@remembered
def _prompts(lab: Lab, system: str) -> list[tuple[int, ...]]:
    chat, text = lab.subject.chat, lab.pack.systems[system]
    return [tuple(chat.encode(text, message.text).ids) for message in lab.pack.messages[RED_TEAM]]
