"""Source B, drift: the projection on the unsafe direction token by token, while the model speaks.

A request moves what follows it whatever is said. The control puts the same words after every request, and reads as many of
them as the model said itself; the corrected variant is what lies beyond it. The direction is fitted on the other half of the
topics. Projections are in units of the distance between the class means of requests, 0 halfway between them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geometry_bench.claims.model import Case, Estimates
from geometry_bench.claims.requests import SEED
from geometry_bench.claims.steered import CLASSES, NEW_TOKENS, directions, halves
from geometry_bench.geometry.clusters import permuted_labels
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.resampling import jackknife_interval
from geometry_bench.labs.answering import said, said_for
from geometry_bench.labs.group import block_at
from geometry_bench.labs.memo import remembered
from geometry_bench.labs.model import Lab
from geometry_bench.labs.requirements import MEAN_LAST_FIVE
from geometry_bench.records.estimates import Curve, Estimate, Null, Variant
from geometry_bench.records.measurement import Absence, NotApplicableError
from geometry_bench.subjects.groups import DEPTH

SLOPE, MEAN = Case("slope"), Case("mean")
CASES = (SLOPE, MEAN)

FEWEST = 50
"""Requests of a class below which a note says that they are few."""

FEWEST_TOKENS = 3
"""Answers of fewer tokens have no slope and are left out."""

DRAWS = 1000


@dataclass(frozen=True)
class Steps:
    """Projections (requests, tokens) at the words said, NaN from where an answer ended: the model's own, and given ones.

    What is read at the end of the request, before any word, is left out.
    """

    own: Array
    given: Array


@remembered
def steps(lab: Lab) -> Steps:
    """Both, harmless requests first. Given words are an answer to a harmless and one to a harmful request, on average."""
    from geometry_bench.behavior.traces import Trace

    both, block = halves(lab), block_at(DEPTH, lab.layers)
    prompts = [prompt.ids for name in CLASSES for prompt in lab.encoded_requests(name, "chat")]
    own = np.full((len(prompts), NEW_TOKENS - 1), np.nan)
    traces: dict[bool, tuple[Trace, float, float]] = {}
    words: dict[bool, tuple[int, ...]] = {}
    for half in (True, False):
        found = directions(lab, MEAN_LAST_FIVE, not half)
        direction, gap = found.apart[block], float(np.linalg.norm(found.apart[block]))
        traces[half] = (Trace(direction, block), float(found.middle[block] @ direction) / gap, gap)
        rows = np.flatnonzero(both.fitted == half)
        answers = said(lab, [prompts[row] for row in rows], NEW_TOKENS, traces=[traces[half][0]], label="drift")
        for row, answer in zip(rows, answers, strict=True):
            own[row, : len(answer.ids) - 1] = (np.array(answer.traces[0][1:]) - traces[half][1]) / gap
            kind = bool(both.labels[row])
            words[kind] = max(words.get(kind, ()), answer.ids, key=len)
    given = np.full((len(words), *own.shape), np.nan)
    for place, one in enumerate(words.values()):
        for half, (trace, middle, gap) in traces.items():
            rows = np.flatnonzero(both.fitted == half)
            read = said_for(lab, [prompts[row] for row in rows], one, [trace])[:, 0, 1:]
            given[place, rows, : len(one) - 1] = (read - middle) / gap
    mean = given.mean(axis=0)
    return Steps(own, np.where(np.isfinite(own), mean, np.nan))


def slopes(projections: Array) -> Array:
    """Least-squares slope over the tokens of each row (rows, tokens), NaN left out, times the number of columns: (rows,)."""
    seen = np.isfinite(projections)
    at = np.where(seen, np.arange(projections.shape[1], dtype=np.float64), np.nan)
    at = at - np.nanmean(at, axis=1, keepdims=True)
    found: Array = np.nansum(at * projections, axis=1) / np.nansum(at**2, axis=1) * projections.shape[1]
    return found


def generation_drift(lab: Lab, case: Case) -> Estimates:
    """Slope, or mean, of the projection of answers to unsafe requests less that of answers to safe ones."""
    both, found = halves(lab), steps(lab)
    kept = np.isfinite(found.own).sum(axis=1) >= FEWEST_TOKENS
    if min(np.sum(kept & both.labels), np.sum(kept & ~both.labels)) < FEWEST_TOKENS:
        raise NotApplicableError(
            Absence.UNDEFINED,
            f"the model says fewer than {FEWEST_TOKENS} tokens to most requests, so nothing can drift",
        )
    own, given = (_of_each(one[kept], case) for one in (found.own, found.given))
    return {
        "published": _estimate(lab, case, own, kept, "published"),
        "corrected": _estimate(lab, case, own - given, kept, "corrected", own=own, given=given),
    }


def _of_each(projections: Array, case: Case) -> Array:
    """The case's number of each request, (requests,)."""
    if case == SLOPE:
        return slopes(projections)
    mean: Array = np.nanmean(projections, axis=1)
    return mean


def _apart(values: Array, labels: NDArray[np.bool_]) -> float:
    return float(values[labels].mean() - values[~labels].mean())


def _estimate(
    lab: Lab, case: Case, values: Array, kept: NDArray[np.bool_], variant: Variant, **parts: Array
) -> Estimate:
    both, found = halves(lab), steps(lab)
    labels, topics = both.labels[kept], np.array(both.topics)[kept]
    value = _apart(values, labels)
    without = {name: topics != name for name in dict.fromkeys(both.topics)}
    left_out = np.array([_apart(values[rest], labels[rest]) for rest in without.values()])
    null = None
    if variant == "corrected":
        strata = np.array(both.exchangeable)[kept].tolist()
        drawn = permuted_labels(labels, strata, draws=DRAWS, seed=SEED)
        null = Null.of(f"labels {both.permutation}", [_apart(values, one) for one in drawn], value)
    few = min(int(labels.sum()), int((~labels).sum()))
    notes = [f"{few} requests in a class, fewer than {FEWEST}"] if few < FEWEST else []
    notes += [f"{(~kept).sum()} answers of fewer than {FEWEST_TOKENS} tokens left out"] if not kept.all() else []
    kinds = {"unsafe": kept & both.labels, "safe": kept & ~both.labels}
    ways = {"own": found.own, "given": found.given}
    return Estimate.of(
        value,
        jackknife_interval(value, left_out),
        both.without_each(left_out),
        block=block_at(DEPTH, lab.layers),
        null=null,
        curves={
            f"{kind}_{way}_words": Curve.along("token", dict(enumerate(_mean_by_token(rows[of]).tolist())))
            for kind, of in kinds.items()
            for way, rows in ways.items()
        },
        details={
            **{f"{name}_words": _apart(part, labels) for name, part in parts.items()},
            **{kind: float(values[labels == (kind == "unsafe")].mean()) for kind in kinds},
            "requests": float(len(values)),
        },
        notes=notes,
    )


def _mean_by_token(projections: Array) -> Array:
    """Mean over the answers that are still being said, NaN where none is."""
    seen = np.isfinite(projections)
    total, count = np.where(seen, projections, 0.0).sum(axis=0), seen.sum(axis=0)
    mean: Array = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean
