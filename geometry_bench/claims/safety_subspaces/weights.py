"""Source D: *Safety Subspaces are Not Linearly Distinct*, its claims on weight updates.

A family's updates are Δ_A = aligned − base (or that of safety-tuned or DPO-tuned models) and the fine-tunes' Δ_T =
fine-tune − start. Subspaces are those of left singular vectors, matrix by matrix; every value is a mean over matrices.
Intervals leave out one block at a time (all tensors outside of blocks count as one more), since matrices of one block are
not independent.

The published variant takes k = max(1, round(ρ·min(M, N))) and three layers, and pools energies over all tensors, as the
source's procedure did: ‖PΔ‖² summed over ‖Δ‖² summed, a head that is the embedding counted twice. The corrected one takes
means over all matrices and compares energies with the k/rows that counting dimensions alone gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from geometry_bench.claims.model import Case, Estimates
from geometry_bench.claims.requests import SEED
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.resampling import jackknife_interval
from geometry_bench.geometry.subspaces import Rule
from geometry_bench.labs.family import ALIGNMENT, PAIRS, SHARES, TASKS, THRESHOLDS, FamilyLab, Reading
from geometry_bench.records.estimates import VARIANTS, Curve, Estimate, Null, Units, Variant
from geometry_bench.records.measurement import Absence, NotApplicableError
from geometry_bench.subjects.families import CONTROL

ALIKE = 0.05
"""Shares of energy that differ by less than this on average count as equal: the source shows curves, no numbers."""

_INNER = slice(1, -1)
"""ρ between the ends of the sweep."""

PERCENTILES = (0.70, 0.80, 0.85)
DRAWS = 400

Statistic = Callable[[Sequence[Reading]], float]


def readings(family: FamilyLab, start: str, *labels: str) -> tuple[Reading, ...]:
    """All matrices about a start; not applicable where the family lacks a member that one of these updates needs."""
    lacking = family.lacks(start, *labels)
    if lacking is not None:
        raise NotApplicableError(
            Absence.NO_MEMBER,
            f"{lacking.rstrip('.')}; name one in the manifest, or make it with `geometry-bench family build`",
        )
    return family.readings(start)


def _stand_in(family: FamilyLab, start: str) -> str | None:
    """Which model the fine-tunes start from where it is not the one whose update is the alignment."""
    if family.lacks(start) is not None:
        return None
    pairs = family.members(start)
    aligned = pairs[ALIGNMENT][1].name
    other = next((pairs[task][0].name for task in TASKS if task in pairs and pairs[task][0].name != aligned), None)
    return None if other is None else f"fine-tunes start from {other}, not from {aligned}"


def percentile_layers(layers: int) -> tuple[int, ...]:
    """Blocks at the 70th, 80th and 85th percentile of the depth (source D)."""
    return tuple(dict.fromkeys(min(int(share * layers), layers - 1) for share in PERCENTILES))


def _chosen(family: FamilyLab, start: str, variant: Variant, *labels: str) -> list[Reading]:
    every = readings(family, start, *labels)
    if variant == "corrected":
        return list(every)
    blocks = {one.layer for one in every if one.layer is not None}
    wanted = percentile_layers(1 + max(blocks, default=0))
    return [one for one in every if one.layer in wanted]


def _estimate(
    family: FamilyLab,
    start: str,
    chosen: Sequence[Reading],
    statistic: Statistic,
    null: Null | Callable[[float], Null | None] | None,
    details: dict[str, float | None],
    curves: Mapping[str, Curve],
    *,
    by_kind: bool = False,
) -> Estimate:
    """A statistic of matrices, with one block left out at a time, or one kind of matrix in all blocks."""
    units = [one.kind if by_kind else one.layer for one in chosen]
    names = list(dict.fromkeys(units))
    if len(names) < 2:
        raise NotApplicableError(
            Absence.NO_MATRIX, "there is one block or kind of matrix only: an interval needs two or more"
        )
    value = statistic(chosen)
    left_out = [statistic([one for one, unit in zip(chosen, units, strict=True) if unit != name]) for name in names]
    interval = jackknife_interval(value, np.array(left_out))
    blocks = sorted({one.layer for one in chosen if one.layer is not None})
    profile = {}
    if not by_kind and blocks:
        of_block = {block: statistic([one for one in chosen if one.layer == block]) for block in blocks}
        profile["profile"] = Curve.over_blocks([of_block.get(block) for block in range(blocks[-1] + 1)])
    stand_in = _stand_in(family, start)
    named = [
        name if isinstance(name, str) else "outside of blocks" if name is None else f"block {name}" for name in names
    ]
    return Estimate.of(
        value,
        interval,
        Units.of("kind of matrix" if by_kind else "block", named, left_out),
        curves={**curves, **profile},
        null=null(value) if callable(null) else null,
        details={**details, "matrices": float(len(chosen))},
        notes=[stand_in] if stand_in else [],
    )


# Energy


def energy_linear(family: FamilyLab, case: Case) -> Estimates:
    """Energy kept by Top-K: its largest distance from the two controls (published), its excess over k/rows (corrected).

    The excess is a mean over ρ from 0.25 to 0.75 and the blocks' matrices: at either end of the sweep all bases agree,
    and embeddings overlap because all updates touch the rows of the same tokens.
    """
    start, task = case.parameters
    return {variant: _energy(family, start, task, variant) for variant in VARIANTS}


def _energy(family: FamilyLab, start: str, task: str, variant: Variant) -> Estimate:
    every = list(readings(family, start, task))
    blocks = [one for one in every if one.layer is not None]
    outside = [one for one in every if one.layer is None]

    def excess(chosen: Sequence[Reading], basis: str = "top") -> Array:
        """Energy beyond k/rows, (..., shares): mean over matrices, or pooled as the source does."""
        curves = [one.energy[task, "round"] for one in chosen]
        weights = [one.uses * one.total[task] for one in chosen] if variant == "published" else None
        mean: Array = np.average([getattr(curve, basis) - curve.expected for curve in curves], axis=0, weights=weights)
        return mean

    def gap(chosen: Sequence[Reading]) -> float:
        bases = [excess(chosen), *(excess(chosen, basis).mean(axis=0) for basis in ("random_k", "random"))]
        return float(np.ptp(bases, axis=0).max())

    def inner(chosen: Sequence[Reading]) -> float:
        return float(excess(chosen)[_INNER].mean())

    def null(value: float) -> Null | None:
        drawn = excess(every if variant == "published" else blocks, "random")  # (draws, shares)
        draws = np.abs(drawn).max(axis=1) if variant == "published" else drawn[:, _INNER].mean(axis=1)
        return Null.of("random bases of equal dimension", draws, value)

    details = {
        "largest_gap": gap(every),
        "excess_outside_blocks": inner(outside) if outside else None,
        "vectors_energy": family.vector_energy(start, task),
        "control_excess": _control_excess(blocks),
        "alignment_rank": float(np.mean([one.rank for one in every])),
    }
    curves = _curves(every, task, variant)
    if variant == "published":
        return _estimate(family, start, every, gap, null, details, curves)
    if not blocks:
        raise NotApplicableError(Absence.NO_MATRIX, "no matrix of a decoder block is changed by all updates")
    return _estimate(family, start, blocks, inner, null, details, curves)


def _control_excess(blocks: Sequence[Reading]) -> float | None:
    """The same excess for an unrelated task's update; None where the family has none."""
    curves = [one.energy[CONTROL, "round"] for one in blocks if (CONTROL, "round") in one.energy]
    return float(np.mean([(curve.top - curve.expected)[_INNER] for curve in curves])) if curves else None


def _curves(readings: Sequence[Reading], task: str, variant: Variant) -> dict[str, Curve]:
    """Energy kept at each ρ by every basis, pooled or its mean, with k rounded and, marked so, rounded down."""
    weights = [one.uses * one.total[task] for one in readings] if variant == "published" else None
    found: dict[str, Curve] = {}
    marks: dict[Rule, str] = {"round": "", "floor": "_floor"}
    names = {"top": "top", "random_k": "random_k", "random": "random", "expected": "dimensions"}
    for rule, mark in marks.items():
        for basis, name in names.items():
            rows = [np.atleast_2d(getattr(one.energy[task, rule], basis)).mean(axis=0) for one in readings]
            means = np.average(rows, axis=0, weights=weights).tolist()
            found[f"{name}{mark}"] = Curve.along("share of rank", dict(zip(SHARES, means, strict=True)))
    return found


def layer_restricted(family: FamilyLab, case: Case) -> Estimates:
    """Energy that Top-K of one block keeps of the harmful less of the useful update: the largest over single blocks."""
    (start,) = case.parameters
    return {variant: _layer_restricted(family, start, variant) for variant in VARIANTS}


def _layer_restricted(family: FamilyLab, start: str, variant: Variant) -> Estimate:
    chosen = [one for one in _chosen(family, start, variant, *TASKS) if one.layer is not None]
    if not chosen:
        raise NotApplicableError(Absence.NO_MATRIX, "no matrix of a decoder block is changed by all updates")

    def by_block(matrices: Sequence[Reading], basis: str) -> dict[int, Array]:
        """Block -> energy kept of harmful less of useful, mean over ρ and the block's matrices, (draws,)."""
        rows: dict[int, list[Array]] = {}
        for one in matrices:
            harmful, useful = (
                np.atleast_2d(getattr(one.energy[task, "round"], basis)) for task in ("harmful", "useful")
            )
            rows.setdefault(int(one.layer or 0), []).append((harmful - useful).mean(axis=1))
        return {block: np.mean(values, axis=0) for block, values in rows.items()}

    def largest(matrices: Sequence[Reading]) -> float:
        return float(np.abs(list(by_block(matrices, "top").values())).max())

    random = np.array(list(by_block(chosen, "random").values()))
    null = Null.of("random bases of equal dimension", np.abs(random).max(axis=0), largest(chosen))
    differences = {float(block): float(value[0]) for block, value in sorted(by_block(chosen, "top").items())}
    curves = {"block": Curve.along("block", differences)}
    return _estimate(family, start, chosen, largest, null, {}, curves, by_kind=True)


# Overlap


def mso_above_random(family: FamilyLab, case: Case) -> Estimates:
    """MSO of two updates less its Haar expectation, mean over thresholds and matrices (published: three layers)."""
    start, *pair = case.parameters
    if start == "dpo" and ALIGNMENT not in pair and _stand_in(family, start):
        raise NotApplicableError(
            Absence.NO_MEMBER,
            "nothing was fine-tuned from the model tuned by DPO, so this pair has nothing to do with it; add useful and "
            "harmful members that start from it",
        )
    return {variant: _mso(family, start, (pair[0], pair[1]), variant) for variant in VARIANTS}


def _mso(family: FamilyLab, start: str, pair: tuple[str, str], variant: Variant) -> Estimate:
    chosen = _chosen(family, start, variant, *pair)

    def excess(matrices: Sequence[Reading]) -> float:
        return float(np.mean([one.overlap[pair].excess for one in matrices]))

    deviations = np.array([one.overlap[pair].haar_deviation.mean() for one in chosen])
    noise = np.random.default_rng(SEED).standard_normal((DRAWS, len(chosen)))

    def null(value: float) -> Null | None:
        return Null.of("uniformly random subspaces (analytic variance)", (noise * deviations).mean(axis=1), value)

    overlap, haar = (
        np.mean([getattr(one.overlap[pair], name) for one in chosen], axis=0) for name in ("overlap", "haar_mean")
    )
    details = {f"{update}_control": _with_control(chosen, update) for update in pair}
    curves = {"mso": _over_thresholds(overlap), "haar": _over_thresholds(haar)}
    return _estimate(family, start, chosen, excess, null, details, curves)


def _over_thresholds(values: Array) -> Curve:
    return Curve.along("share of energy", dict(zip(THRESHOLDS, values.tolist(), strict=True)))


def _with_control(chosen: Sequence[Reading], update: str) -> float | None:
    """Mean overlap above Haar of an update with that by an unrelated task; None where the family has none."""
    found = [one.overlap[update, CONTROL].excess for one in chosen if (update, CONTROL) in one.overlap]
    return float(np.mean(found)) if found else None


def mso_order(family: FamilyLab, case: Case) -> Estimates:
    """MSO of the harmful update with the alignment's less the higher of the other two pairs; corrected: above Haar."""
    (start,) = case.parameters
    return {variant: _order(family, start, variant) for variant in VARIANTS}


def _order(family: FamilyLab, start: str, variant: Variant) -> Estimate:
    chosen = _chosen(family, start, variant, *TASKS)
    measure = "overlap" if variant == "published" else "excess"

    def by_layer(matrices: Sequence[Reading]) -> Array:
        """The three pairs' overlaps (pairs, layers, thresholds), mean over each layer's matrices."""
        layers = list(dict.fromkeys(one.layer for one in matrices))
        return np.array(
            [
                [
                    np.mean([getattr(one.overlap[pair], measure) for one in matrices if one.layer == layer], axis=0)
                    for layer in layers
                ]
                for pair in PAIRS
            ]
        )

    def mean_lead(matrices: Sequence[Reading]) -> float:
        return float(_lead(by_layer(matrices)).mean())

    overlaps = by_layer(chosen)
    lead = _lead(overlaps)  # (layers, thresholds)
    generator = np.random.default_rng(SEED)
    drawn = generator.integers(len(lead), size=(DRAWS, len(lead)))
    low, high = np.quantile((lead > 0).mean(axis=1)[drawn].mean(axis=1), [0.025, 0.975])
    details: dict[str, float | None] = {
        "share_highest": float((lead > 0).mean()),
        "share_highest_low": float(low),
        "share_highest_high": float(high),
    }

    def null(value: float) -> Null | None:
        # Each layer's three pairs keep their values over the thresholds and exchange their names.
        orders = generator.permuted(np.tile(np.arange(3), (DRAWS, lead.shape[0], 1)), axis=2)
        rows = [
            _lead(np.stack([overlaps[order[:, place], range(len(order))] for place in range(3)])) for order in orders
        ]
        return Null.of("names of the three pairs exchanged, layer by layer", [row.mean() for row in rows], value)

    return _estimate(family, start, chosen, mean_lead, null, details, {"lead": _over_thresholds(lead.mean(axis=0))})


def _lead(overlaps: Array) -> Array:
    """How far the harmful update's overlap with the alignment's lies above the other pairs', (pairs, …) -> (…)."""
    place = PAIRS.index(("harmful", ALIGNMENT))
    lead: Array = overlaps[place] - np.delete(overlaps, place, axis=0).max(axis=0)
    return lead
