"""Contrasts of hundreds of prompts in a window of blocks, kept whole so that another model's can be held against them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geometry_bench.activations.pooling import LAST
from geometry_bench.claims.changes import HARMFUL, HARMLESS, SCALES, STATES
from geometry_bench.claims.model import Case, Estimates
from geometry_bench.claims.requests import SEED, Labelled
from geometry_bench.claims.safety_compassion.axes import REFERENCE, TRADITIONS
from geometry_bench.geometry.clusters import permuted_labels, split_halves
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.displacement import Folded, deal_folds, displacement, shared_part
from geometry_bench.geometry.held_out import auroc_null, held_out_auroc, held_out_values
from geometry_bench.geometry.resampling import jackknife_interval
from geometry_bench.geometry.scorers import projection_scorer
from geometry_bench.labs.group import block_at
from geometry_bench.labs.memo import remembered
from geometry_bench.labs.model import Lab
from geometry_bench.records.estimates import Curve, Estimate, Null, Packed, Sample, Units
from geometry_bench.records.measurement import Absence, NotApplicableError

WINDOW = (1 / 2, 2 / 3, 5 / 6, 1.0)
"""Relative depths that are read: refusal stands in the later half of the depth, on the last token of a chat."""

FOLDS = 20
FEWEST_FOLDS = 8
SPLITS = 4
DRAWS = 200
SAFETY = ("safety",)
CLASSES = (HARMLESS, HARMFUL)
"""The sets of requests, by role."""


def window(layers: int) -> list[int]:
    """The 0-based blocks that are read."""
    return sorted({block_at(depth, layers) for depth in WINDOW})


@dataclass(frozen=True)
class Contrast:
    """The states that a contrast is made of, in the window: (prompts, blocks, width), a row for each of the sample."""

    states: Array
    sample: Sample
    labels: NDArray[np.bool_]

    @property
    def folded(self) -> Folded:
        """The contrast in folds: of two classes where there are two, else of changes."""
        return Folded.of(self.states, self.labels, np.array(self.sample.folds))

    def kept(self) -> dict[str, Any]:
        """What an estimate keeps for a later comparison."""
        return {"sample": self.sample, "arrays": _packed(self.states)}


def refusal_contrast(lab: Lab) -> Contrast:
    """Harmful less harmless requests."""
    drawn = [lab.requests(name, rendering="chat", poolings=(LAST,)) for name in CLASSES]
    both = Labelled.of(*(one.requests for one in drawn))
    states = np.concatenate([one.states[LAST] for one in drawn])[:, window(lab.layers)]
    return Contrast(states, sample_of(both.ids, both.labels, both.topics), both.labels)


def prompt_contrast(lab: Lab, systems: tuple[str, ...]) -> Contrast:
    """Harmless requests under system prompts, met in turn, less the same under the generic one."""
    requests, blocks = lab.request_settings.load(HARMLESS), window(lab.layers)
    states = [lab.requests_under(HARMLESS, met)[:, blocks] for met in (systems, (REFERENCE,))]
    labels = np.zeros(len(requests), dtype=bool)
    sample = sample_of([one.id for one in requests.requests], labels, requests.topics)
    return Contrast(states[0] - states[1], sample, labels)


CONTRASTS: Mapping[str, Callable[[Lab], Contrast]] = {
    "refusal": refusal_contrast,
    "safety": lambda lab: prompt_contrast(lab, SAFETY),
    "compassion": lambda lab: prompt_contrast(lab, TRADITIONS),
}
"""The contrasts by name."""


def refusal(lab: Lab, case: Case) -> Estimates:
    """Held-out AUROC of the direction between harmful and harmless requests, over the whole window together."""
    return {"corrected": refusal_estimate(lab)}


@remembered
def refusal_estimate(lab: Lab) -> Estimate:
    """Held-out AUROC of the direction between harmful and harmless requests, over the whole window together.

    Blocks enter in units of their spread, so that the direction weighs them as the displacement does.
    """
    contrast, blocks = refusal_contrast(lab), window(lab.layers)
    both = Labelled.of(*(lab.request_settings.load(name) for name in CLASSES))
    folded, states, labels, topics = contrast.folded, contrast.states, both.labels, both.topics
    together = (states / folded.spread[:, None]).reshape(len(states), -1)
    held = held_out_auroc(projection_scorer(together, labels), labels, topics, splits=SPLITS, seed=SEED)
    halves = split_halves(labels, topics, splits=SPLITS, seed=SEED)
    permuted = permuted_labels(labels, both.exchangeable, draws=DRAWS, seed=SEED, halves=halves)
    chance = auroc_null(projection_scorer, together, labels, permuted, topics, splits=SPLITS, seed=SEED)
    scorers = [projection_scorer(states[:, place], labels) for place in range(len(blocks))]
    profile = [float(held_out_values(one, labels, topics, splits=SPLITS).mean()) for one in scorers]
    return Estimate.of(
        held.auroc,
        held.interval,
        both.without_each(held.leave_one_out),
        curves={"profile": Curve(axis="block", x=blocks, y=profile), "length": _length_curve(folded, blocks)},
        null=Null.of(f"labels {both.permutation}", chance, held.auroc),
        details={"in_sample": held.in_sample},
        **contrast.kept(),
    )


def prompted(lab: Lab, case: Case) -> Estimates:
    """Share of what system prompts change in the states of requests that is the same for all of them."""
    (name,) = case.parameters
    contrast, blocks = CONTRASTS[name](lab), window(lab.layers)
    folded = contrast.folded
    found, lengths = shared_part(folded), folded.lengths
    estimate = Estimate.of(
        found.value,
        jackknife_interval(found.value, found.left_out),
        Units.of("fold", [str(fold) for fold in range(len(found.left_out))], found.left_out),
        curves={
            "profile": Curve(axis="block", x=blocks, y=list(lengths / (lengths + 1))),
            "length": _length_curve(folded, blocks),
        },
        **contrast.kept(),
    )
    return {"corrected": estimate}


def ruler(lab: Lab, case: Case) -> Estimates:
    """δ of the model's own copies: how far rounding its weights, or ablating a random direction, moves a contrast."""
    from geometry_bench.behavior.rounding import COPIES, copied

    contrast_of = CONTRASTS[case.key]
    parent = contrast_of(lab).folded
    found: dict[str, float | None] = {}
    for copy in COPIES:
        with lab.changed(partial(copied, copy=copy)) as other:
            found[copy] = displacement(contrast_of(other).folded, parent).distance
    return {"corrected": Estimate(value=found["8 bits"], n=len(COPIES), details=found)}


def sample_of(ids: Sequence[str], labels: NDArray[np.bool_], topics: Sequence[str]) -> Sample:
    """The prompts as rows, in folds of whole topics.

    Raises:
        NotApplicableError: there are too few topics for an error.
    """
    folds = deal_folds(topics, labels, FOLDS)
    if folds.max() + 1 < FEWEST_FOLDS:
        raise NotApplicableError(
            Absence.TOO_FEW_TOPICS,
            f"the requests give {folds.max() + 1} groups of whole topics, and an error needs {FEWEST_FOLDS}; draw more with "
            "--requests, or give sets of more topics",
        )
    classes = [HARMFUL if flag else HARMLESS for flag in labels]
    return Sample(ids=list(ids), classes=classes, folds=folds.tolist())


def _packed(states: Array) -> dict[str, Packed]:
    """States (prompts, blocks, width) in half precision, each block in a unit that keeps its largest value in range."""
    largest = np.abs(states).max(axis=(0, 2))
    scales = 2.0 ** np.ceil(np.log2(np.maximum(largest, np.finfo(np.float32).tiny)) - 14)
    half = (states / scales[:, None]).astype(np.float16)
    return {STATES: Packed.of(half), SCALES: Packed.of(scales.astype(np.float64))}


def _length_curve(folded: Folded, blocks: Sequence[int]) -> Curve:
    """Length of the contrast over the spread of prompts, at each block; none where it cannot be told from noise."""
    return Curve(axis="block", x=list(blocks), y=[float(np.sqrt(x)) if x > 0 else None for x in folded.lengths])
