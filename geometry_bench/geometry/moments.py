"""Means, variances and second moments of activations that arrive in batches, in memory that does not grow with prompts.

Batches are (prompts, layers, width). Sums are kept about the running mean (Welford; merged as in Chan, Golub & LeVeque
1983), so that a large common mean does not eat the digits of the variance.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.directions import Array

CHUNK = 128
"""Prompts turned into float64 at once."""


@dataclass(frozen=True)
class Moments:
    """Moments of one class over prompts, float64.

    ``mean`` and ``scatter`` = Σ(x − mean)² are (layers, width); ``norm_mean`` and ``norm_scatter`` the same of ‖x‖,
    (layers,); ``cross`` = Σ(x − mean)(x − mean)ᵀ (width, width) for each layer it was asked for.
    """

    count: int
    mean: Array
    scatter: Array
    norm_mean: Array
    norm_scatter: Array
    cross: Mapping[int, Array] = field(default_factory=dict)

    @property
    def sum(self) -> Array:
        """Σx, (layers, width)."""
        total: Array = self.count * self.mean
        return total

    @property
    def sum_of_squares(self) -> Array:
        """Σx², (layers, width)."""
        squares: Array = self.scatter + self.count * self.mean**2
        return squares

    def variance(self, ddof: int = 1) -> Array:
        """Variance per dimension, (layers, width); GeometryBenchError where there are no more than ``ddof`` prompts."""
        if self.count <= ddof:
            raise GeometryBenchError(
                f"a variance needs at least {ddof + 1} prompts, but there are {self.count}: add prompts"
            )
        variance: Array = self.scatter / (self.count - ddof)
        return variance

    def second(self, layer: int, *, centred: bool) -> Array:
        """Second moment Σxxᵀ of one layer, (width, width), about the mean where ``centred``, else about the origin."""
        if layer not in self.cross:
            raise GeometryBenchError(
                f"second moments were not accumulated for layer {layer}, only for {sorted(self.cross)}"
            )
        cross = self.cross[layer]
        return cross if centred else cross + self.count * np.outer(self.mean[layer], self.mean[layer])


def about_mean(states: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """States (prompts, ...) less their mean over prompts, and the mean (...), float64; weights (prompts,) if any.

    The first prompt is taken off beforehand: what is the same for every prompt then comes out as exactly zero and cannot
    pass for a spread at the level of rounding.
    """
    values = np.asarray(states, dtype=np.float64)
    shifted = values - values[:1]
    mean = shifted.mean(axis=0) if weights is None else np.tensordot(weights, shifted, axes=1) / np.sum(weights)
    return shifted - mean, values[0] + mean


class Accumulator:
    """Adds batches up in place. ``second`` names the layers whose (width, width) second moments are kept too."""

    def __init__(self, layers: int, width: int, *, second: Sequence[int] = ()) -> None:
        if layers < 1 or width < 1:
            raise GeometryBenchError(f"moments need at least one layer and one dimension, not {layers} and {width}")
        for layer in second:
            if not 0 <= layer < layers:
                raise GeometryBenchError(f"layer {layer} does not exist: there are {layers}, counted from 0")
        self.count = 0
        self._mean = np.zeros((layers, width))
        self._scatter = np.zeros((layers, width))
        self._norm_mean = np.zeros(layers)
        self._norm_scatter = np.zeros(layers)
        self._cross = {layer: np.zeros((width, width)) for layer in sorted(set(second))}

    def add(self, states: Array) -> None:
        """Add a batch (prompts, layers, width); GeometryBenchError for another shape, NaN or infinity."""
        if np.ndim(states) != 3 or np.shape(states)[1:] != self._mean.shape:
            raise GeometryBenchError(f"a batch of shape {np.shape(states)} does not fit (prompts, *{self._mean.shape})")
        for start in range(0, len(states), CHUNK):
            chunk = np.asarray(states[start : start + CHUNK], dtype=np.float64)
            if not np.isfinite(chunk).all():
                raise GeometryBenchError("activations hold NaN or infinity: check the model's weights and dtype")
            centred, mean = about_mean(chunk)
            cross = {layer: centred[:, layer].T @ centred[:, layer] for layer in self._cross}
            norms, norm_mean = about_mean(np.linalg.norm(chunk, axis=-1))
            norm_scatter = (norms**2).sum(axis=0)
            self.merge(Moments(len(chunk), mean, (centred**2).sum(axis=0), norm_mean, norm_scatter, cross))

    def merge(self, other: Moments | Accumulator) -> None:
        """Add the moments of other prompts of the same shape and layers."""
        more = other._view() if isinstance(other, Accumulator) else other
        if more.mean.shape != self._mean.shape or set(more.cross) != set(self._cross):
            raise GeometryBenchError("moments of different layers or widths cannot be merged: capture them alike")
        if more.count == 0:
            return
        total = self.count + more.count
        share = self.count * more.count / total
        shift, norm_shift = more.mean - self._mean, more.norm_mean - self._norm_mean
        self._scatter += more.scatter + share * shift**2
        self._norm_scatter += more.norm_scatter + share * norm_shift**2
        for layer, cross in self._cross.items():
            cross += more.cross[layer]
            cross += share * np.outer(shift[layer], shift[layer])
        self._mean += shift * (more.count / total)
        self._norm_mean += norm_shift * (more.count / total)
        self.count = total

    def moments(self) -> Moments:
        """The moments so far, copied; GeometryBenchError where nothing was added."""
        if self.count == 0:
            raise GeometryBenchError("there are no prompts to take moments of: the class is empty")
        return copy.deepcopy(self._view())

    def _view(self) -> Moments:
        return Moments(self.count, self._mean, self._scatter, self._norm_mean, self._norm_scatter, self._cross)


def moments_of(states: Array, *, second: Sequence[int] = ()) -> Moments:
    """Moments of states (prompts, layers, width) that are at hand."""
    if np.ndim(states) != 3:
        raise GeometryBenchError(f"states must be (prompts, layers, width), but have shape {np.shape(states)}")
    accumulator = Accumulator(np.shape(states)[1], np.shape(states)[2], second=second)
    accumulator.add(states)
    return accumulator.moments()


class Folding:
    """Prompts kept as they are while that takes less memory than their second moments, and summed up beyond.

    The second moments are those of every layer of the batches (prompts, layers, width).
    """

    def __init__(self, layers: int, width: int) -> None:
        self._sums = Accumulator(layers, width, second=range(layers))
        self._rows: list[Array] = []
        # As many float32 rows as take the room of one float64 (width, width).
        self._most = 2 * width

    @staticmethod
    def size(prompts: int, layers: int, width: int) -> int:
        """Bytes that so many prompts take at most."""
        return layers * width * min(4 * prompts, 8 * width)

    def add(self, states: Array) -> None:
        """Add a batch; GeometryBenchError for another shape, NaN or infinity."""
        if len(states) == 0:
            return
        self._rows.append(np.asarray(states, dtype=np.float32))
        waiting = sum(map(len, self._rows))
        if self._sums.count + waiting > self._most and (self._sums.count == 0 or waiting >= CHUNK):
            self._fold()

    def result(self) -> Array | Moments:
        """The prompts (prompts, layers, width), in the order of their arrival, or their moments."""
        if self._sums.count == 0:
            if not self._rows:
                raise GeometryBenchError("there are no prompts to take moments of: the group is empty")
            return np.concatenate(self._rows)
        self._fold()
        return self._sums.moments()

    def _fold(self) -> None:
        if self._rows:
            self._sums.add(np.concatenate(self._rows))
            self._rows = []
