"""Source C's proposal: taking the direction of harm out, or putting it in, changes refusals."""

from __future__ import annotations

import numpy as np

from geometry_bench.activations.pooling import LAST
from geometry_bench.claims.model import Case, Estimates
from geometry_bench.claims.steered import Intervene, Sign, directions, effect, halves, plain_refusals, refusals
from geometry_bench.geometry.directions import Array
from geometry_bench.labs.answering import nats_per_token
from geometry_bench.labs.group import SWEPT, block_at
from geometry_bench.labs.model import Lab
from geometry_bench.prompts.names import NEUTRAL
from geometry_bench.records.estimates import Curve

ABLATE, ADD = Case("ablate"), Case("add")
CASES = (ABLATE, ADD)

STRENGTHS = {ABLATE: (0.25, 0.5, 0.75, 1.0), ADD: (0.25, 0.5, 1.0, 1.5)}
"""Share of the direction that is taken out of all that is written; how often the direction is added, at its own length."""


def refusal_vector(lab: Lab, case: Case) -> Estimates:
    """Fall of refusals of harmful requests under ablation, or rise of those of harmless ones when the direction is added.

    The block is the one whose direction does most in the half that it was fitted on: its AUROC cannot choose it.
    """
    harmful = case == ABLATE
    sign: Sign = -1 if harmful else 1
    block, effects = _chosen(lab, case, harmful=harmful, sign=sign)
    estimate = effect(
        lab,
        directions(lab, LAST).apart[block],
        _intervene(case, block),
        STRENGTHS[case],
        harmful=harmful,
        sign=sign,
        block=block,
        label=case.key,
        details={"effect_in_the_fitted_half": effects[block]},
    )
    chosen = Curve.along("block", dict(effects))
    return {
        "corrected": estimate.model_copy(update={"curves": {**estimate.curves, "effect_in_the_fitted_half": chosen}})
    }


def _intervene(case: Case, block: int) -> Intervene:
    from geometry_bench.behavior.interventions import Ablate, Intervention, Steer

    def ablate(direction: Array, strength: float) -> Intervention:
        return Ablate(direction, strength=strength)

    def add(direction: Array, strength: float) -> Intervention:
        return Steer(direction, strength, [block], scale="direction")

    return ablate if case == ABLATE else add


def _chosen(lab: Lab, case: Case, *, harmful: bool, sign: Sign) -> tuple[int, dict[float, float]]:
    """The block whose direction changes most refusals in the fitted half, and the change at each block tried.

    Of blocks that do the same, the one whose direction costs the fewest nats.
    """
    rows, before = halves(lab).rows(harmful=harmful, fitted=True), plain_refusals(lab, harmful, True)
    blocks = dict.fromkeys(block_at(depth, lab.layers) for depth in SWEPT)
    changes = {block: _intervene(case, block)(directions(lab, LAST).apart[block], 1.0) for block in blocks}
    effects: dict[float, float] = {}
    for block, change in changes.items():
        flags = refusals(lab, rows, change, label=f"{case.key}, choosing block {block}")
        effects[block] = sign * float(np.mean(flags) - np.mean(before))
    best = [block for block in changes if effects[block] == max(effects.values())]
    if len(best) == 1:
        return best[0], effects
    return min(best, key=lambda block: nats_per_token(lab, NEUTRAL, [changes[block]])), effects
