"""Negative controls of the direction between classes: nothing is found where nothing was learned, or is there to find.

Random weights are not silent: they mix the words of a request into its states, and harmful requests have other words than
harmless ones, so that a direction fitted on an untrained model separates held-out requests a little, beyond labels swapped
between partners. What a model has learned is therefore what it shows beyond its untrained twins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from geometry_bench.activations.pooling import LAST, Pooling
from geometry_bench.claims.changes import HARMFUL, HARMLESS
from geometry_bench.claims.criteria import Above, Within
from geometry_bench.claims.gate.contrasts import refusal_estimate, window
from geometry_bench.claims.magnitude_variance.detection import early_block, held_out_early
from geometry_bench.claims.model import Case, Claim, Estimates
from geometry_bench.claims.requests import SEED
from geometry_bench.claims.sources import GATE
from geometry_bench.geometry.clusters import permuted_labels, split_halves
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.held_out import auroc_null
from geometry_bench.geometry.resampling import jackknife_interval
from geometry_bench.geometry.scorers import projection_scorer
from geometry_bench.labs.model import Lab
from geometry_bench.labs.requirements import MEAN_KEPT, RequestRendering, Requirements
from geometry_bench.records.estimates import Estimate, Null, Units

TWINS = 3
"""Untrained models of the subject's shape, by seed."""

SHAMS = 128
"""Ways in which harmless requests are dealt into two classes."""

CHANCE = (0.45, 0.55)
"""AUROC that counts as nothing found."""

SPLITS = 4


def untrained_refusal(lab: Lab, case: Case) -> Estimates:
    """Held-out AUROC of ``gate.refusal`` less the mean of it over untrained twins, on the same requests."""
    return _beyond_untrained(lab, refusal_estimate)


def untrained_early(lab: Lab, case: Case) -> Estimates:
    """The same of ``detection.early[projection-plain]``."""
    return _beyond_untrained(lab, lambda one: held_out_early(one, "projection", "plain"))


def _beyond_untrained(lab: Lab, measured: Callable[[Lab], Estimate]) -> Estimates:
    twins = []
    for seed in range(TWINS):
        with lab.twin(seed) as twin:
            twins.append(measured(twin))
    own = measured(lab)
    assert own.value is not None
    assert own.units is not None
    values = np.array([one.value for one in twins], dtype=np.float64)
    value = own.value - float(values.mean())
    rest = _left_out(own) - np.mean([_left_out(one) for one in twins], axis=0)
    chance = [np.inf if one.null is None else one.null.high for one in twins]
    return {
        "corrected": Estimate.of(
            value,
            jackknife_interval(value, rest),
            Units.of(own.units.kind, own.units.ids or [], rest),
            block=own.block,
            null=Null.of_few("one more untrained twin in its place", values - values.mean(), value),
            details={
                "auroc": own.value,
                "untrained_auroc": float(values.mean()),
                "untrained_most": float(values.max()),
                "untrained_beyond_swapped_labels": float((values > chance).sum()),
            },
        )
    }


def _left_out(estimate: Estimate) -> Array:
    assert estimate.units is not None
    return np.array(estimate.units.values, dtype=np.float64)


def sham_refusal(lab: Lab, case: Case) -> Estimates:
    """Held-out AUROC between two classes of harmless requests, in the window and at the token of ``gate.refusal``."""
    return _sham(lab, "chat", LAST, window(lab.layers))


def sham_early(lab: Lab, case: Case) -> Estimates:
    """The same at the block and in the pooling of ``detection.early``."""
    return _sham(lab, "text", MEAN_KEPT, [early_block(lab.layers)])


def _sham(lab: Lab, rendering: RequestRendering, pooling: Pooling, blocks: list[int]) -> Estimates:
    """Mean over many ways to deal the harmless requests into two classes, within topics; its error is over these."""
    found = lab.requests(HARMLESS, rendering=rendering, poolings=(pooling,))
    x = found.states[pooling][:, blocks].astype(np.float64)
    spread = np.sqrt(((x - x.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0))
    states = (x / spread[:, None]).reshape(len(x), -1)
    topics = found.topics
    order = np.argsort(np.unique(topics, return_inverse=True)[1], kind="stable")
    labels = np.zeros(len(x), dtype=bool)
    labels[order[::2]] = True  # each topic is halved
    halves = split_halves(labels, topics, splits=SPLITS, seed=SEED)
    dealt = permuted_labels(labels, topics, draws=SHAMS, seed=SEED, halves=halves)
    drawn = auroc_null(projection_scorer, states, labels, dealt, topics, splits=SPLITS, seed=SEED)
    value = float(drawn.mean())
    rest = (drawn.sum() - drawn) / (SHAMS - 1)
    return {
        "corrected": Estimate.of(
            value,
            jackknife_interval(value, rest),
            Units.of("dealing", [str(number) for number in range(SHAMS)], rest),
            block=blocks[-1] if len(blocks) == 1 else None,
            details={"sd": float(drawn.std(ddof=1)), "least": float(drawn.min()), "most": float(drawn.max())},
        )
    }


_CONTROL: dict[str, Any] = {"source": GATE, "published_criterion": None, "metric": "auroc"}
_AT_THE_END: dict[str, Any] = {"rendering": "chat", "poolings": (LAST,)}
_EARLY: dict[str, Any] = {"rendering": "text", "poolings": (MEAN_KEPT,)}
_UNTRAINED: dict[str, Any] = {
    "null": "untrained twins (same shape and tokenizer, random weights): one more of them in the model's place",
    "criterion": Above(),
    **_CONTROL,
}
_SHAM: dict[str, Any] = {
    "null": "none: the value is itself that of nothing",
    "criterion": Within(*CHANCE, beyond_null=False),
    **_CONTROL,
}

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="control.untrained_refusal",
        where="gate.refusal, held against models that have learned nothing",
        statement="Control: the direction between harmful and harmless requests separates them better than in untrained "
        "models of the same shape.",
        measure=untrained_refusal,
        requires=Requirements(sets=(HARMLESS, HARMFUL), **_AT_THE_END),
        **_UNTRAINED,
    ),
    Claim(
        id="control.untrained_early",
        where="detection.early[projection-plain], held against models that have learned nothing",
        statement="Control: a third of the way through, harmful requests are separated better than in untrained models of "
        "the same shape.",
        measure=untrained_early,
        requires=Requirements(sets=(HARMLESS, HARMFUL), **_EARLY),
        **_UNTRAINED,
    ),
    Claim(
        id="control.sham_refusal",
        where="gate.refusal, between classes that do not differ",
        statement="Control: harmless requests that are dealt into two classes are not told apart (AUROC from 0.45 to 0.55).",
        measure=sham_refusal,
        requires=Requirements(sets=(HARMLESS,), **_AT_THE_END),
        **_SHAM,
    ),
    Claim(
        id="control.sham_early",
        where="detection.early[projection-plain], between classes that do not differ",
        statement="Control: a third of the way through, harmless requests that are dealt into two classes are not told "
        "apart (AUROC from 0.45 to 0.55).",
        measure=sham_early,
        requires=Requirements(sets=(HARMLESS,), **_EARLY),
        **_SHAM,
    ),
)
