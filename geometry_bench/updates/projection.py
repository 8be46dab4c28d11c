"""Projected checkpoints: a fine-tune's update kept only inside a subspace, or only outside of it (source D).

parallel: W_start + P_kΔ_T; orthogonal: W_start + (I − P_k)Δ_T, with Δ_T = fine-tuned − start and P_k on k directions of the
output side of another update, Δ_A = aligned − base or Δ_S = safety-tuned − base. Slice by slice: beside a slice of each
checkpoint, what is held of a tensor is one product of the subspace and the update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import linalg

from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.subspaces import Rule, Scheme, project_vector, random_basis, rank_of_share
from geometry_bench.safetensor import Array32, slices
from geometry_bench.updates.store import Store
from geometry_bench.updates.sweep import tensor_seed
from geometry_bench.updates.update import Update

Basis = Literal["top-k", "random-k", "random"]
Outcome = Literal["projected", "whole", "without basis", "left as it was"]


@dataclass(frozen=True)
class Projection:
    """What to project: a share ρ of the directions of each tensor's smaller side, and how they are chosen.

    ``top-k`` takes the first left singular vectors of the other update, ``random-k`` some at random, ``random`` a subspace
    of its own. With ``layers`` only tensors of those blocks are projected; all others get the whole update.

    Raises:
        GeometryBenchError: a share outside [0, 1], or a negative layer.
    """

    scheme: Scheme
    basis: Basis
    share: float
    rule: Rule = "round"
    seed: int = 0
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        rank_of_share(self.share, 1, 1)
        if self.layers is not None and (not self.layers or min(self.layers) < 0):
            raise GeometryBenchError("Layers to project are block indices from 0; name at least one.")


@dataclass
class TensorOutcome:
    """What became of one tensor: outcome, dimensions of the subspace, share of ‖Δ_T‖² that the projected update has."""

    outcome: Outcome
    k: int | None = None
    energy_kept: float | None = None
    note: str = ""


@dataclass(frozen=True)
class _Span:
    """k vectors that span the subspace, as rows of (rows, k); ``gram`` is Σ LᵀL, None where they are orthonormal."""

    k: int
    rows: Callable[[int, int], Array]
    gram: Array | None


def projected(
    task: Update, source: Update, name: str, plan: Projection, *, store: Store | None = None
) -> tuple[TensorOutcome, Iterator[Array32]]:
    """One tensor of the projected checkpoint: what becomes of it, and its rows in float32 in the start's shape.

    ``name`` is the tensor's name in the start. The energy kept is filled in once all rows are read. A tensor that cannot be
    compared stays as in the start. Where the source has no direction (it leaves the tensor unchanged, or lacks it), P is
    zero: in parallel the start's tensor, orthogonally the fine-tune's.

    Raises:
        GeometryBenchError: NaN or infinity, an update that is too close to a lower rank.
    """
    pair = task.pairs[name]
    if pair.shape is None:
        outcome = TensorOutcome("left as it was", note=f"{pair.state}: {pair.note}")
        return outcome, (task.start.rows(name, *part) for part in task.start.slices(name))
    outcome = TensorOutcome("projected", note=pair.note)
    if plan.layers is not None and pair.layer not in plan.layers:
        outcome.outcome = "whole"
        change: Callable[[int, int], Array] = lambda first, last: task.rows(name, first, last).astype(np.float64)  # noqa: E731
    elif len(pair.shape) < 2:
        change = _vector(task, source, name, plan, outcome)
    else:
        change = _matrix(task, source, name, plan, outcome, store)
    return outcome, _added(task, name, change, outcome)


def _added(task: Update, name: str, change: Callable[[int, int], Array], outcome: TensorOutcome) -> Iterator[Array32]:
    """Rows of the start plus the change, in the start's shape: rows that the end lacks stay as they are."""
    shape = task.pairs[name].shape or ()
    compared = shape[0] if shape else 1
    kept = whole = 0.0
    for first, last in slices(shape):
        update = change(first, last)
        delta = task.rows(name, first, last).astype(np.float64)
        kept, whole = kept + float((update**2).sum()), whole + float((delta**2).sum())
        yield (task.start.rows(name, first, last) + update).astype(np.float32)
    if task.start.stored(name).rows > compared:
        yield task.start.rows(name, compared)
    outcome.energy_kept = kept / whole if whole > 0 else None


def _empty(
    task: Update, name: str, plan: Projection, outcome: TensorOutcome, *, wanted: bool
) -> Callable[[int, int], Array]:
    """The projection on a subspace of no dimensions: ``wanted`` by the share, or for want of a direction."""
    outcome.outcome, outcome.k = "projected" if wanted else "without basis", 0
    keep = 0.0 if plan.scheme == "parallel" else 1.0
    return lambda first, last: keep * task.rows(name, first, last).astype(np.float64)


def _comparable(source: Update, name: str, shape: tuple[int, ...]) -> bool:
    return name in source.pairs and source.pairs[name].shape == shape


def _vector(
    task: Update, source: Update, name: str, plan: Projection, outcome: TensorOutcome
) -> Callable[[int, int], Array]:
    """A bias or a gain: the scalar projection on one axis, whatever the share; on none where the share keeps nothing."""
    delta = task.delta(name).astype(np.float64).reshape(-1)
    if plan.basis == "random":
        axis = np.random.default_rng(tensor_seed(name, plan.seed)).standard_normal(delta.size)
    elif _comparable(source, name, task.pairs[name].shape or ()):
        axis = source.delta(name).astype(np.float64).reshape(-1)
    else:
        axis = np.zeros(delta.size)
    wanted = plan.rule == "floor" and plan.share == 0
    if wanted or not axis.any():
        return _empty(task, name, plan, outcome, wanted=wanted)
    outcome.k = 1
    change = project_vector(axis, delta, plan.scheme).reshape(task.pairs[name].shape or ())
    return lambda first, last: change[first:last] if change.ndim else change


def _matrix(
    task: Update, source: Update, name: str, plan: Projection, outcome: TensorOutcome, store: Store | None
) -> Callable[[int, int], Array]:
    rows, columns = task.pairs[name].shape or (0, 0)
    k = rank_of_share(plan.share, rows, columns, plan.rule)
    span = None
    if k == 0:
        return _empty(task, name, plan, outcome, wanted=True)
    if plan.basis == "random":
        span = _random_span(rows, columns, k, tensor_seed(name, plan.seed))
    elif _comparable(source, name, (rows, columns)):
        span = _source_span(source, name, k, plan, store)
    if span is None or span.k == 0:
        return _empty(task, name, plan, outcome, wanted=False)
    outcome.k = span.k
    coordinates = np.zeros((span.k, columns))
    for first, last in slices((rows, columns)):
        coordinates += span.rows(first, last).T @ task.rows(name, first, last)
    if span.gram is not None:
        coordinates = linalg.solve(span.gram, coordinates, assume_a="pos", overwrite_b=True, check_finite=False)

    def change(first: int, last: int) -> Array:
        inside: Array = span.rows(first, last) @ coordinates
        return inside if plan.scheme == "parallel" else task.rows(name, first, last) - inside

    return change


def _random_span(rows: int, columns: int, k: int, seed: int) -> _Span:
    vectors = random_basis(rows, columns, seed, k=k)
    return _Span(k, lambda first, last: vectors[first:last], None)


def _source_span(source: Update, name: str, k: int, plan: Projection, store: Store | None) -> _Span:
    factors = source.factors(name, store=store)
    chosen = np.arange(factors.spectrum.rank)
    if plan.basis == "random-k":
        chosen = np.random.default_rng(tensor_seed(name, plan.seed)).permutation(chosen)
    chosen = chosen[:k]
    vectors = factors.vectors[:, chosen]
    if factors.wide:
        return _Span(len(chosen), lambda first, last: vectors[first:last], None)
    # Left vectors of a tall matrix, ΔV/σ, as they are wanted; the Gram matrix makes up for lost right angles.
    turn = vectors / np.sqrt(factors.spectrum.energies[chosen])
    gram = np.zeros((len(chosen),) * 2)

    def left(first: int, last: int) -> Array:
        made: Array = source.rows(name, first, last) @ turn
        return made

    for first, last in slices((factors.spectrum.rows, factors.spectrum.columns)):
        part = left(first, last)
        gram += part.T @ part
    return _Span(len(chosen), left, gram)
