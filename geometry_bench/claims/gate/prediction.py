"""Does the geometry tell which harmful requests a model refuses? Beside the first token, which tells it cheaply."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geometry_bench.activations.pooling import LAST
from geometry_bench.behavior.refusals import VERSION
from geometry_bench.claims.changes import HARMFUL
from geometry_bench.claims.gate.answers import NEW_TOKENS, opening_odds
from geometry_bench.claims.gate.contrasts import CLASSES, sample_of, window
from geometry_bench.claims.model import Case, Estimates
from geometry_bench.claims.requests import Labelled
from geometry_bench.geometry.auroc import Separation, auroc_jackknife
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.displacement import Folded
from geometry_bench.geometry.resampling import jackknife_interval
from geometry_bench.labs.answering import refused as refused_by
from geometry_bench.labs.memo import remembered
from geometry_bench.labs.model import Lab
from geometry_bench.records.estimates import Curve, Estimate, Units
from geometry_bench.records.measurement import Absence, NotApplicableError

FEWEST = 5
"""Harmful requests that a model must refuse, and that it must not, for an AUROC between them."""


@dataclass(frozen=True)
class _Harmful:
    """The harmful requests: whether the model refuses them, and their topics."""

    refused: NDArray[np.bool_]
    topics: tuple[str, ...]

    def separation(self, scores: Array) -> Separation:
        """How well scores tell the refused ones, with an interval over topics, or over requests where topics are few."""
        kinds = [set(np.array(self.topics)[self.refused == flag]) for flag in (True, False)]
        return auroc_jackknife(scores, self.refused, self.topics if min(map(len, kinds)) > 1 else None)


def predicts_refusal(lab: Lab, case: Case) -> Estimates:
    """AUROC, among harmful requests, of the projection or of the openings' log-odds for being refused."""
    harmful = _harmful(lab)
    scores = _projections(lab) if case.key == "projection" else _odds(lab)
    found = harmful.separation(scores)
    return {"corrected": _estimate(harmful, found.auroc, found.leave_one_out, found, scores)}


def beyond_openings(lab: Lab, case: Case) -> Estimates:
    """AUROC of the projection less that of the openings' log-odds, on the same requests."""
    harmful = _harmful(lab)
    ours, theirs = harmful.separation(_projections(lab)), harmful.separation(_odds(lab))
    left_out = ours.leave_one_out - theirs.leave_one_out
    return {"corrected": _estimate(harmful, ours.auroc - theirs.auroc, left_out)}


@remembered
def _harmful(lab: Lab) -> _Harmful:
    requests = lab.request_settings.load(HARMFUL)
    prompts = [prompt.ids for prompt in lab.encoded_requests(HARMFUL, "chat")]
    refused = refused_by(lab, prompts, NEW_TOKENS, label=f"answers to {HARMFUL}")
    if min(refused.sum(), (~refused).sum()) < FEWEST:
        raise NotApplicableError(
            Absence.TOO_FEW_PROMPTS,
            f"the model refuses {refused.sum()} of {len(refused)} harmful requests, and at least {FEWEST} of each kind are "
            "needed to tell them apart; draw more with --requests, or give others with --set unsafe=SET",
            refused=float(refused.sum()),
        )
    return _Harmful(refused, tuple(requests.topics))


@remembered
def _projections(lab: Lab) -> Array:
    """Projections (harmful requests,) on the direction between harmful and harmless requests of the other folds.

    Over the window of blocks together, in units of each block's spread, about the midpoint of the two means.
    """
    safe, harmful = (lab.requests(name, rendering="chat", poolings=(LAST,)) for name in CLASSES)
    both = Labelled.of(safe.requests, harmful.requests)
    states = np.concatenate([safe.states[LAST], harmful.states[LAST]])[:, window(lab.layers)]
    folds = np.array(sample_of(both.ids, both.labels, both.topics).folds)
    spread = Folded.of_classes(states, both.labels, folds).spread
    together = (states / spread[:, None]).reshape(len(states), -1)
    scores = np.empty(len(states))
    for fold in range(int(folds.max()) + 1):
        means = [together[(folds != fold) & (both.labels == flag)].mean(axis=0) for flag in (True, False)]
        direction = (means[0] - means[1]) / np.linalg.norm(means[0] - means[1])
        scores[folds == fold] = (together[folds == fold] - (means[0] + means[1]) / 2) @ direction
    return scores[both.labels]


def _odds(lab: Lab) -> Array:
    """Log-odds of the model's openings after the harmful requests."""
    odds, _ = opening_odds(lab)
    return odds[-len(lab.request_settings.load(HARMFUL)) :]


def _estimate(
    harmful: _Harmful, value: float, left_out: Array, found: Separation | None = None, scores: Array | None = None
) -> Estimate:
    named = len(left_out) == len(set(harmful.topics))
    ids = list(dict.fromkeys(harmful.topics)) if named else [str(number) for number in range(len(left_out))]
    curves = {}
    if scores is not None:
        curves["refused"] = Curve(axis="score", x=scores.tolist(), y=harmful.refused.astype(float).tolist())
    return Estimate.of(
        value,
        found.interval if found is not None else jackknife_interval(value, left_out),
        Units.of("topic" if named else "request", ids, left_out),
        curves=curves,
        details={"refused": float(harmful.refused.sum()), "requests": float(len(harmful.refused))},
        notes=[f"refusals judged by {VERSION}"],
    )
