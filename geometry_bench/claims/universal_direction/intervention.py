"""Source B, whether its direction steers: refusals of harmful requests when it is added or subtracted.

Where a model is measured by itself there is no group, and the direction is its native one: as the source fits it, before any
map.
"""

from __future__ import annotations

from geometry_bench.claims.model import Case, Estimates
from geometry_bench.claims.steered import directions, effect
from geometry_bench.geometry.directions import Array
from geometry_bench.labs.group import block_at
from geometry_bench.labs.model import Lab
from geometry_bench.labs.requirements import MEAN_LAST_FIVE
from geometry_bench.subjects.groups import DEPTH

SUBTRACT, ADD = Case("subtract"), Case("add")
CASES = (SUBTRACT, ADD)
STRENGTHS = (0.25, 0.5, 1.0, 2.0)
"""How often the direction is added or subtracted, at its own length."""


def intervention(lab: Lab, case: Case) -> Estimates:
    """Fall of refusals of harmful requests when the unsafe direction is subtracted, or rise of them when it is added."""
    from geometry_bench.behavior.interventions import Intervention, Steer

    block = block_at(DEPTH, lab.layers)

    def steer(direction: Array, strength: float) -> Intervention:
        return Steer(direction, strength if case == ADD else -strength, [block], scale="direction")

    estimate = effect(
        lab,
        directions(lab, MEAN_LAST_FIVE).apart[block],
        steer,
        STRENGTHS,
        harmful=True,
        sign=1 if case == ADD else -1,
        block=block,
        label=case.key,
    )
    return {"corrected": estimate.model_copy(update={"notes": [*estimate.notes, "the model's native direction"]})}
