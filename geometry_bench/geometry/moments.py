"""Means and second moments of activations that arrive in batches, in memory that does not grow with prompts.

Batches are (prompts, layers, width). Sums are kept about the running mean (Welford; merged as in Chan, Golub & LeVeque
1983), so that a large common mean does not eat the digits of the variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.directions import Array

CHUNK = 128
"""Prompts converted to float64 at once."""


@dataclass(frozen=True)
class Moments:
    """Moments over prompts, float64: mean (layers, width) and Σ(x − mean)(x − mean)ᵀ (layers, width, width)."""

    count: int
    mean: Array
    cross: Array


def about_mean(states: Array) -> tuple[Array, Array]:
    """States (prompts, ...) less their mean over prompts, and the mean (...), float64.

    The first prompt is taken off beforehand: what is the same for every prompt then comes out as exactly zero and cannot
    pass for a spread at the level of rounding.
    """
    values = np.asarray(states, dtype=np.float64)
    shifted = values - values[:1]
    mean = shifted.mean(axis=0)
    return shifted - mean, values[0] + mean


class Accumulator:
    """Adds batches up in place."""

    def __init__(self, layers: int, width: int) -> None:
        self.count = 0
        self._mean = np.zeros((layers, width))
        self._cross = np.zeros((layers, width, width))

    def add(self, states: Array) -> None:
        """Add a batch (prompts, layers, width); GeometryBenchError for another shape, NaN or infinity."""
        if np.ndim(states) != 3 or np.shape(states)[1:] != self._mean.shape:
            raise GeometryBenchError(f"a batch of shape {np.shape(states)} does not fit (prompts, *{self._mean.shape})")
        for start in range(0, len(states), CHUNK):
            chunk = np.asarray(states[start : start + CHUNK], dtype=np.float64)
            if not np.isfinite(chunk).all():
                raise GeometryBenchError("activations hold NaN or infinity: check the model's weights and dtype")
            centred, mean = about_mean(chunk)
            total = self.count + len(chunk)
            shift = mean - self._mean
            for layer, cross in enumerate(self._cross):
                cross += centred[:, layer].T @ centred[:, layer]
                cross += self.count * len(chunk) / total * np.outer(shift[layer], shift[layer])
            self._mean += shift * (len(chunk) / total)
            self.count = total

    def moments(self) -> Moments:
        """The moments so far, copied; GeometryBenchError where nothing was added."""
        if self.count == 0:
            raise GeometryBenchError("there are no prompts to take moments of: the class is empty")
        return Moments(self.count, self._mean.copy(), self._cross.copy())


class Folding:
    """Prompts kept as they are while that takes less memory than their second moments, and summed up beyond.

    The second moments are those of every layer of the batches (prompts, layers, width).
    """

    def __init__(self, layers: int, width: int) -> None:
        self._sums = Accumulator(layers, width)
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
