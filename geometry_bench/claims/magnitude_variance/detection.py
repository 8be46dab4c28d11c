"""Early detection (source C's proposal): from which block on three rules separate harmful from safe requests.

The fit and the score never share a topic in the corrected variant. Jailbreak-wrapped requests are scored by what was fitted
on plain ones, so that the framing itself cannot be what is detected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from geometry_bench.claims.model import Case, Estimates
from geometry_bench.claims.requests import SEED, WRAPPED, Classes, classes, sets_of
from geometry_bench.geometry.auroc import auroc, auroc_jackknife
from geometry_bench.geometry.clusters import permuted_labels, split_halves
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.held_out import auroc_null, earliest_within, held_out_auroc, held_out_values
from geometry_bench.geometry.scorers import Rule, Scorer, closeness_scorer, outlier_scorer, projection_scorer
from geometry_bench.labs.memo import remembered
from geometry_bench.labs.model import Lab
from geometry_bench.records.estimates import VARIANTS, Curve, Estimate, Null, Variant
from geometry_bench.records.measurement import Absence, NotApplicableError

SPLITS = 4
DRAWS = 100

TOLERANCE = 0.02
EARLY = 3
"""The value is taken at block ⌊layers / 3⌋."""

RULES: Mapping[str, Rule] = {
    "projection": projection_scorer,
    "closeness": closeness_scorer,
    "outlier": outlier_scorer,
}
TESTS = ("plain", "jailbreak")
CASES = tuple(Case(f"{rule}-{test}", (rule, test)) for test in TESTS for rule in RULES)
SETS = tuple(dict.fromkeys([*sets_of("published"), *sets_of("corrected"), *WRAPPED]))


def early(lab: Lab, case: Case) -> Estimates:
    """AUROC at a third of the depth, with its curve over all blocks; published: in sample, corrected: held out by topic."""
    rule, test = case.parameters
    return {variant: _early(lab, variant, rule, test) for variant in VARIANTS}


def early_block(layers: int) -> int:
    """The block at which the value is taken."""
    return layers // EARLY


def held_out_early(lab: Lab, rule: str, test: str) -> Estimate:
    """The corrected variant of one case alone."""
    return _early(lab, "corrected", rule, test)


def _early(lab: Lab, variant: Variant, rule: str, test: str) -> Estimate:
    both, block = classes(lab, variant), early_block(lab.layers)
    wrapped = classes(lab, variant, sets=WRAPPED) if test == "jailbreak" else None
    if wrapped is not None:
        _need_same_requests(both, wrapped)

    others = None if wrapped is None else wrapped.states
    scorer = _scorers(lab, variant, rule, test)
    details: dict[str, float | None]
    if variant == "published":
        scores = [scorer(layer)(np.ones((1, len(both.labels))))[0] for layer in range(lab.layers)]
        curve = auroc(np.stack(scores), both.labels)
        found = auroc_jackknife(scores[block], both.labels, both.topics)
        value, interval, left_out, details = found.auroc, found.interval, found.leave_one_out, {}
    else:
        curve = _curve(lab, rule, test)
        held = held_out_auroc(scorer(block), both.labels, both.topics, splits=SPLITS, seed=SEED)
        value, interval, left_out = held.auroc, held.interval, held.leave_one_out
        details = {"in_sample": held.in_sample}
    halves = None if variant == "published" else split_halves(both.labels, both.topics, splits=SPLITS, seed=SEED)
    chance = auroc_null(
        RULES[rule],
        both.states[:, block],
        both.labels,
        permuted_labels(both.labels, both.exchangeable, draws=DRAWS, seed=SEED, halves=halves),
        both.topics,
        scored=None if others is None else others[:, block],
        splits=None if variant == "published" else SPLITS,
        seed=SEED,
    )
    null = Null.of(f"labels {both.permutation}", chance, value)
    # The best of so many blocks lies above 95 % of one block's chance rather often.
    separates = curve.max() > np.nanquantile(chance, 1 - 0.05 / lab.layers)
    onset = earliest_within(curve, TOLERANCE) if separates else None
    details |= {
        "best": float(curve.max()),
        "best_block": float(curve.argmax()),
        "onset_block": None if onset is None else float(onset),
        "onset_depth": None if onset is None else onset / lab.layers,
    }
    return Estimate.of(
        value,
        interval,
        both.without_each(left_out),
        block=block,
        curves={"profile": Curve.over_blocks(curve)},
        null=null,
        details={**details, **(both if wrapped is None else wrapped).facts()},
    )


def _scorers(lab: Lab, variant: Variant, rule: str, test: str) -> Callable[[int], Scorer]:
    """Block -> scores of the prompts of a test there."""
    both = classes(lab, variant)
    others = classes(lab, variant, sets=WRAPPED).states if test == "jailbreak" else None
    return lambda block: _scorer(
        RULES[rule], both.states[:, block], both.labels, None if others is None else others[:, block]
    )


@remembered
def _curve(lab: Lab, rule: str, test: str) -> Array:
    """Held-out AUROC at every block (layers,)."""
    both, scorer = classes(lab, "corrected"), _scorers(lab, "corrected", rule, test)
    rows = [
        held_out_values(scorer(layer), both.labels, both.topics, splits=SPLITS, seed=SEED).mean()
        for layer in range(lab.layers)
    ]
    return np.array(rows)


def _scorer(rule: Rule, plain: Array, labels: Array, wrapped: Array | None = None) -> Scorer:
    """Scores of the plain prompts, or of their wrapped forms by what was fitted on the plain ones; (prompts, width)."""
    if wrapped is None:
        return rule(plain, labels)
    together = rule(np.concatenate([plain, wrapped]), np.concatenate([labels, labels]), scored=slice(len(labels), None))

    def score(weights: Array) -> Array:
        fitted = np.atleast_2d(weights)
        return together(np.concatenate([fitted, np.zeros_like(fitted)], axis=1))

    return score


def _need_same_requests(plain: Classes, wrapped: Classes) -> None:
    """Row i of the wrapped prompts must be of row i's topic and class, or a held-out topic could be fitted on."""
    if plain.topics != wrapped.topics or not np.array_equal(plain.labels, wrapped.labels):
        raise NotApplicableError(
            Absence.UNPAIRED_SETS,
            "the jailbreak-wrapped requests are not those of the plain sets; use sets that pair off",
        )
