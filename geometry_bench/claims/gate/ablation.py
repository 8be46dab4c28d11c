"""What ablating the parent's refusal direction, and the child's own, does to the child's first tokens."""

from __future__ import annotations

import numpy as np

from geometry_bench.claims.changes import ACROSS, HARMFUL, LOG_P, TOKENS, states_of
from geometry_bench.claims.gate.contrasts import window
from geometry_bench.claims.gate.transfer import READS
from geometry_bench.claims.model import Case, Estimates
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.openings import likeliest, log_odds
from geometry_bench.geometry.openings import openings as openings_of
from geometry_bench.geometry.resampling import jackknife_interval
from geometry_bench.labs.pair import Pair
from geometry_bench.records.estimates import Curve, Estimate, Null, Units
from geometry_bench.records.measurement import Absence, NotApplicableError

OPENINGS = "gate.openings_harmful"
DRAWS = 8


def ablation(pair: Pair, case: Case) -> Estimates:
    """Shift of the log-odds of refusal openings on harmful requests under ablation, as a share of the child's margin.

    ``frozen`` is the parent's direction, ``fresh`` the child's own, from the block of the window that lowers the openings
    most on every second fold; the value is taken on the other folds. Random directions are the null.
    """
    from geometry_bench.behavior.interventions import Ablate, applied

    new, old = pair.estimates(READS, across=ACROSS)
    openings, _ = pair.estimates(OPENINGS, across=ACROSS)
    sample = openings.sample
    if sample is None or new.sample != old.sample or new.sample != sample:
        raise NotApplicableError(Absence.UNPAIRED_SETS, "child and parent did not keep the states of the same prompts")
    lab, labels = pair.lab(), np.array(sample.classes) == HARMFUL
    ids, log_p = (openings.arrays[name].array for name in (TOKENS, LOG_P))
    tokens = openings_of(ids, log_p, labels)
    before = log_odds(ids, log_p, tokens)
    margin = float(before[labels].mean() - before[~labels].mean())

    def shift(direction: Array) -> Array:
        with applied(lab.subject, Ablate(direction)):
            after = log_odds(*likeliest(lab.first_tokens_now(HARMFUL)), tokens)
        moved: Array = (after - before[labels]) / margin
        return moved

    states = states_of(old if case.key == "frozen" else new)
    directions = states[labels].mean(axis=0) - states[~labels].mean(axis=0)
    found, folds = [shift(one) for one in directions], np.array(sample.folds)[labels]
    chosen, tested = folds % 2 == 0, np.unique(folds[folds % 2 == 1])
    place = int(np.argmin([one[chosen].mean() for one in found]))
    generator = np.random.default_rng(0)
    chance = [float(shift(generator.normal(size=lab.subject.width))[~chosen].mean()) for _ in range(DRAWS)]
    value = float(found[place][~chosen].mean())
    left_out = np.array([found[place][~chosen & (folds != fold)].mean() for fold in tested])
    blocks = window(lab.layers)
    estimate = Estimate.of(
        value,
        jackknife_interval(value, left_out),
        Units.of("fold", list(map(str, tested)), left_out),
        block=blocks[place],
        curves={"by_block": Curve(axis="block", x=blocks, y=[float(one[~chosen].mean()) for one in found])},
        null=Null.of("random directions ablated", chance, value),
        details={"margin_nats": margin, "log_odds": float(before[labels].mean())},
    )
    return {"corrected": estimate}
