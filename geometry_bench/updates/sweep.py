"""Several updates of a family at once, one tensor after another, and all numbers about their subspaces."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.subspaces import (
    OverlapSweep,
    Spectrum,
    energy_by_direction,
    needs_own_frames,
    overlap_sweep,
    random_energy,
    random_frame,
)
from geometry_bench.storage import digest_bytes
from geometry_bench.updates.decompositions import factorise_kept, overlap
from geometry_bench.updates.store import Store
from geometry_bench.updates.update import Update


@dataclass(frozen=True)
class Overlap:
    """How the left singular vectors V of one update of a matrix relate to those, W, of another: (VᵀW)², (rank, rank)."""

    squared: Array
    v: Spectrum
    w: Spectrum

    @cached_property
    def shares(self) -> Array:
        """Share of W's energy along each direction of V, (rank of V,)."""
        return energy_by_direction(self.squared, self.w)

    def energy_kept(self) -> Array:
        """E_k of W under Top-K of V, for k = 1 … rank of V."""
        kept: Array = np.cumsum(self.shares)
        return kept

    def energy_kept_random_k(self, draws: int, seed: int) -> Array:
        """E_k of W under Random-K of V, several nested draws: (draws, rank of V)."""
        generator = np.random.default_rng(seed)
        kept: Array = np.cumsum([generator.permutation(self.shares) for _ in range(draws)], axis=1)
        return kept

    def mso(self, thresholds: Sequence[float]) -> OverlapSweep:
        """MSO for every η, with its Haar expectation."""
        return overlap_sweep(self.squared, self.v, self.w, thresholds)

    def transposed(self) -> Overlap:
        """The same with V and W exchanged."""
        return Overlap(self.squared.T, self.w, self.v)


@dataclass(frozen=True)
class TensorSweep:
    """One matrix: the spectrum of its update in each of several updates, and the overlaps of the pairs asked for.

    An update that leaves the matrix unchanged has a spectrum of rank 0; pairs with such a one are left out.
    """

    name: str
    spectra: Mapping[str, Spectrum]
    overlaps: Mapping[tuple[str, str], Overlap]
    frames: dict[tuple[int, int, int], Any] = field(default_factory=dict, repr=False)
    """Random frames that the matrices of one sweep share, by rows, vectors and seed."""

    def energy_kept_random(self, label: str, draws: int, seed: int) -> Array:
        """E_k of an update under Random, several nested draws: (draws, min(rows, columns))."""
        update = self.spectra[label]
        frame = None
        if not needs_own_frames(update):
            key = (update.rows, min(update.rows, update.columns), seed)
            if key not in self.frames:
                self.frames[key] = random_frame(*key)
            frame = self.frames[key]
        return random_energy(update, draws=draws, seed=tensor_seed(f"{self.name} {label}", seed), frame=frame)


def tensor_seed(name: str, seed: int) -> int:
    """A seed of a tensor's own, so that random bases of equal shape differ between tensors."""
    return int(digest_bytes([json.dumps({"seed": seed, "tensor": name}).encode()])[:16], 16)


def common_names(updates: Mapping[str, Update], *, dimensions: int | None = None) -> tuple[str, ...]:
    """Tensors that all of the updates can compare in equal shape, in natural order; of so many dimensions, if given."""
    first, *rest = updates.values()
    return tuple(
        name
        for name in first.names
        if not first.pairs[name].place.part
        and dimensions in (None, len(first.pairs[name].shape or ()))
        and all(name in one.pairs and one.pairs[name].shape == first.pairs[name].shape for one in rest)
    )


def sweep(
    updates: Mapping[str, Update],
    pairs: Sequence[tuple[str, str]],
    names: Iterable[str] | None = None,
    *,
    store: Store | None = None,
) -> Iterator[TensorSweep]:
    """Matrix by matrix, one decomposition in each update and one product for each pair of labels.

    ``names`` are the matrices to go through, None for all that every update can compare.

    Raises:
        GeometryBenchError: a pair names an update that is not there; a tensor holds NaN or infinity.
    """
    for label in (label for pair in pairs for label in pair):
        if label not in updates:
            raise GeometryBenchError(f"There is no update {label!r}; there are {', '.join(updates)}.")
    frames: dict[tuple[int, int, int], Any] = {}
    for name in common_names(updates, dimensions=2) if names is None else names:
        matrices = {label: update.sliced(name) for label, update in updates.items()}
        keys = [update.key(name) if store is not None else {} for update in updates.values()]
        made = factorise_kept(list(matrices.values()), keys, store)
        factors = dict(zip(updates, made, strict=True))
        overlaps = {}
        for v, w in pairs:
            if factors[v].spectrum.rank and factors[w].spectrum.rank:
                squared = overlap(factors[v], factors[w], matrices[v], matrices[w])
                np.square(squared, out=squared)
                overlaps[v, w] = Overlap(squared, factors[v].spectrum, factors[w].spectrum)
        yield TensorSweep(name, {label: one.spectrum for label, one in factors.items()}, overlaps, frames)
