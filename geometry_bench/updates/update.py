"""The update between two checkpoints, end − start, tensor by tensor in float32, with the state of every tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np

from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.subspaces import energy_ranks
from geometry_bench.safetensor import READABLE, Array32, slices
from geometry_bench.subjects.families import Family, Member
from geometry_bench.updates.checkpoint import Checkpoint, is_vocabulary, open_member
from geometry_bench.updates.decompositions import Factors, Sliced, factorise_kept, in_memory
from geometry_bench.updates.lora import LowRank
from geometry_bench.updates.places import Place
from geometry_bench.updates.store import Store

State = Literal["changed", "unchanged", "tied", "missing in start", "missing in end", "renamed", "reshaped", "skipped"]

# What one library writes before the names of a model's tensors and another leaves out.
_PREFIXES = ("base_model.model.", "model.", "transformer.", "gpt_neox.", "language_model.")


@dataclass(frozen=True)
class Pair:
    """One tensor of the two checkpoints: its names there, the shape that is compared, and what is known without reading.

    ``place`` is where it stands in the model. ``state`` is None where the data decide between changed and unchanged. A pair
    without a shape cannot be compared; ``note`` says why, or what of it is compared.
    """

    name: str
    start: str | None
    end: str | None
    shape: tuple[int, ...] | None
    state: State | None = None
    note: str = ""
    place: Place = field(default_factory=Place)

    @property
    def layer(self) -> int | None:
        """Index of its decoder block, None outside of them."""
        return self.place.layer

    @property
    def left_out(self) -> str:
        """Why claims on weights do not read it, "" for what they read (a tied head is its embedding)."""
        if self.place.part:
            return self.place.part
        return "" if self.shape is not None or self.state == "tied" else self.note


@dataclass(frozen=True)
class TensorReport:
    """A tensor of an update: state, norm ‖Δ‖_F, the same relative to the start's norm, fewest directions with 99 % of ‖Δ‖².

    Figures are None where nothing is compared; the rank is None for 1-D tensors too, the relative norm for a zero start.
    """

    name: str
    state: State
    shape: tuple[int, ...] | None
    norm: float | None = None
    relative: float | None = None
    rank99: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Update:
    """An update: two checkpoints and how their tensors pair, in natural order of their names."""

    start: Checkpoint
    end: Checkpoint
    pairs: Mapping[str, Pair] = field(repr=False)

    @property
    def name(self) -> str:
        """``END − START``."""
        return f"{self.end.name} − {self.start.name}"

    @property
    def names(self) -> tuple[str, ...]:
        """Tensors that can be compared, changed or not; a tied head is its embedding and is left out."""
        return tuple(name for name, pair in self.pairs.items() if pair.shape is not None)

    @property
    def layers(self) -> frozenset[int]:
        """Indices of the start's decoder blocks."""
        return frozenset(
            pair.layer for pair in self.pairs.values() if pair.start is not None and pair.layer is not None
        )

    def rows(self, name: str, first: int, last: int) -> Array32:
        """Rows of a tensor's update, in float32.

        Raises:
            GeometryBenchError: the tensor cannot be compared, or holds NaN or infinity.
        """
        start, end, _ = self._compared(name)
        low = self._own_adapter.get(self.end.tied.get(end, end))
        if low is not None:
            return low.rows(first, last)
        values = self.end.rows(end, first, last)
        values -= self.start.rows(start, first, last)
        return values

    def delta(self, name: str) -> Array32:
        """A tensor's whole update in float32; beside it only a slice of each checkpoint is held."""
        shape = self._compared(name)[2]
        if not shape:
            return self.rows(name, 0, 1)
        update = np.empty(shape, np.float32)
        for first, last in slices(update.shape):
            update[first:last] = self.rows(name, first, last)
        return update

    def key(self, name: str) -> Mapping[str, object]:
        """What a tensor's update follows from: content hashes of both files, names, and the rows compared."""
        start, end, shape = self._compared(name)
        return {"start": self.start.key(start), "end": self.end.key(end), "shape": list(shape)}

    def sliced(self, name: str) -> Sliced:
        """A matrix's update to be read in slices: one that is taller than wide is never held whole."""
        rows, columns = self.pairs[name].shape or (0, 0)
        if rows > columns:
            return Sliced(rows, columns, lambda: (self.rows(name, *part) for part in slices((rows, columns))))
        return Sliced(rows, columns, lambda: in_memory(self.delta(name)).read())

    def factors(self, name: str, *, store: Store | None = None) -> Factors:
        """The decomposition of a matrix's update, from the store where it holds it."""
        return factorise_kept([self.sliced(name)], [self.key(name) if store is not None else {}], store)[0]

    def report(self, name: str, *, rank: bool = True, store: Store | None = None) -> TensorReport:
        """What became of one tensor; ``rank=False`` leaves the decomposition out."""
        pair = self.pairs[name]
        if pair.shape is None:
            assert pair.state is not None, "what cannot be compared has a state"
            energy_of = self.energy(name)
            return TensorReport(
                name, pair.state, None, None if energy_of is None else float(np.sqrt(energy_of)), note=pair.note
            )
        assert pair.start is not None
        energy = before = 0.0
        for first, last in slices(pair.shape):
            energy += _energy(self.rows(name, first, last))
            before += _energy(self.start.rows(pair.start, first, last))
        state = pair.state or ("changed" if energy > 0 else "unchanged")
        rank99 = None
        if rank and energy > 0 and len(pair.shape) == 2:
            rank99 = int(energy_ranks(self.factors(name, store=store).spectrum, (0.99,))[0])
        relative = float(np.sqrt(energy / before)) if before > 0 else None
        note = pair.note or (f"{pair.place.part}: read by no claim" if pair.place.part else "")
        return TensorReport(name, state, pair.shape, float(np.sqrt(energy)), relative, rank99, note)

    def energy(self, name: str) -> float | None:
        """‖Δ‖² of a tensor that both checkpoints hold in one shape, compared by claims or not; else None."""
        pair = self.pairs[name]
        if pair.shape is not None:
            return sum(_energy(self.rows(name, *part)) for part in slices(pair.shape))
        if pair.state == "tied" or pair.start is None or pair.end is None:
            return None
        start, end = self.start.stored(pair.start), self.end.stored(pair.end)
        if start.shape != end.shape or {start.dtype, end.dtype} - set(READABLE):
            return None
        parts = slices(start.shape)
        return sum(_energy(self.end.rows(pair.end, *part) - self.start.rows(pair.start, *part)) for part in parts)

    @cached_property
    def left_out(self) -> str:
        """A sentence on the tensors that claims on weights do not read, with their share of ‖Δ‖²; "" for none."""
        names = [name for name, pair in self.pairs.items() if pair.left_out]
        if not names:
            return ""
        energies = {name: self.energy(name) for name in self.pairs}
        whole = sum(energy or 0.0 for energy in energies.values())
        share = sum(energies[name] or 0.0 for name in names) / whole if whole else 0.0
        why = Counter(self.pairs[name].left_out.partition(";")[0] for name in names).most_common(2)
        unread = sum(energies[name] is None for name in names)
        return (
            f"{len(names)} of {len(self.pairs)} tensors with {share:.1%} of ‖Δ‖² are left out of claims on weights ("
            + ", ".join(f"{count} × {reason}" for reason, count in why)
            + (f"; {unread} of them cannot be read" if unread else "")
            + ")"
        )

    @property
    def _own_adapter(self) -> Mapping[str, LowRank]:
        """The factors that are the update where the end is an adapter over the start itself; else nothing."""
        own = self.end.adapter is not None and self.start.adapter is None and self.end.folder == self.start.folder
        return self.end.adapter.updates if own and self.end.adapter is not None else {}

    def _compared(self, name: str) -> tuple[str, str, tuple[int, ...]]:
        """Names of a tensor in start and end, and the shape compared."""
        pair = self.pairs[name]
        if pair.shape is None or pair.start is None or pair.end is None:
            raise GeometryBenchError(f"{name} of {self.name} cannot be compared ({pair.state}: {pair.note}).")
        return pair.start, pair.end, pair.shape


def _energy(values: Array32) -> float:
    flat = values.reshape(-1).astype(np.float64)
    return float(flat @ flat)


# Pairing


def compare(start: Checkpoint, end: Checkpoint) -> Update:
    """Pair the tensors of two checkpoints by name; the bytes are read only to find out whether a stored head is tied.

    Raises:
        GeometryBenchError: the two differ in architecture, in the shape of a tensor that holds no vocabulary, or share no
            tensor.
    """
    if start.architecture != end.architecture:
        raise GeometryBenchError(
            f"{start.name} is a {start.architecture} and {end.name} a {end.architecture}; an update lies between two "
            "checkpoints of one architecture."
        )
    begin, finish = _names(start), _names(end)
    other = _renamed(begin - finish, finish - begin)
    pairs, standing = [], {**end.places, **start.places}
    # In order, so that of several faults always the same one is reported.
    for name in sorted(begin | (finish - set(other.values())), key=_natural):
        in_start = name if name in begin else None
        in_end = other.get(name, name if name in finish else None)
        pairs.append(replace(_pair(name, start, end, in_start, in_end), place=standing[name]))
    if not any(pair.shape is not None for pair in pairs):
        raise GeometryBenchError(f"{start.name} and {end.name} share no tensor of float weights; they are no family.")
    return Update(start, end, {pair.name: pair for pair in pairs})


def _names(checkpoint: Checkpoint) -> set[str]:
    return {*checkpoint.tensors, *checkpoint.tied}


def _renamed(only_start: set[str], only_end: set[str]) -> dict[str, str]:
    """Names of the start -> names of the end that differ by a prefix alone, where that is unambiguous."""

    def by_core(names: set[str]) -> dict[str, list[str]]:
        cores: dict[str, list[str]] = {}
        for name in names:
            core = name
            while (prefix := next((p for p in _PREFIXES if core.startswith(p)), None)) is not None:
                core = core.removeprefix(prefix)
            cores.setdefault(core, []).append(name)
        return cores

    ends = by_core(only_end)
    return {
        names[0]: ends[core][0]
        for core, names in by_core(only_start).items()
        if len(names) == 1 and len(ends.get(core, ())) == 1
    }


def _pair(name: str, start: Checkpoint, end: Checkpoint, in_start: str | None, in_end: str | None) -> Pair:
    if in_start is None or in_end is None:
        lacking = start if in_start is None else end
        where: State = "missing in start" if in_start is None else "missing in end"
        return Pair(name, in_start, in_end, None, where, f"{lacking.name} has no such tensor")
    for side, own in ((start, in_start), (end, in_end)):
        if side.stored(own).dtype not in READABLE:
            return Pair(name, in_start, in_end, None, "skipped", f"stored as {side.stored(own).dtype} in {side.name}")
    if start.is_transposed(in_start):
        return Pair(
            name, in_start, in_end, None, "skipped", "stored as (inputs, outputs), so its rows are no output side"
        )
    tied = [side.name for side, own in ((start, in_start), (end, in_end)) if _is_tied(side, own)]
    if len(tied) == 2:
        return Pair(name, in_start, in_end, None, "tied", "the head is the embedding")
    before, after = start.shape(in_start), end.shape(in_end)
    note = f"tied to the embedding in {tied[0]}" if tied else ""
    pair = Pair(name, in_start, in_end, before, None, note)
    if in_start != in_end:
        pair = replace(pair, state="renamed", note=f"{in_end} in {end.name}")
    if before != after:
        if not is_vocabulary(name) or before[1:] != after[1:]:
            raise GeometryBenchError(
                f"{name} has shape {before} in {start.name} and {after} in {end.name}; they are not of one architecture."
            )
        common = min(before[0], after[0])
        note = f"{before[0]} rows in the start, {after[0]} in the end; the first {common} are compared"
        pair = replace(pair, shape=(common, *before[1:]), state="reshaped", note=note)
    if len(before) > 2:
        note = f"{len(before)} dimensions; only matrices and vectors are compared"
        return replace(pair, shape=None, state="skipped", note=note)
    return pair


def _is_tied(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a tensor is a head that is the embedding: not stored, or stored with the same bytes."""
    if name in checkpoint.tied:
        return True
    twin = checkpoint.twin(name)
    if twin is None:
        return False
    return all(
        np.array_equal(checkpoint.rows(name, first, last), checkpoint.rows(twin, first, last))
        for first, last in checkpoint.slices(name)
    )


def _natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Order of names in which block 2 comes before block 10."""
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in name.split("."))


# Families


def member_for(family: Family, role: str, *, parent_role: str | None = None) -> Member:
    """The one member of a role (from a parent of a role).

    Raises:
        GeometryBenchError: there is none, or several.
    """
    found = [
        member
        for member in family.by_role(role)
        if parent_role is None or (member.parent is not None and family.member(member.parent).role == parent_role)
    ]
    if len(found) == 1:
        return found[0]
    wanted = f"of role {role}" + (f" that starts from one of role {parent_role}" if parent_role else "")
    if found:
        raise GeometryBenchError(
            f"The family {family.name} has several members {wanted} ({', '.join(m.name for m in found)}); name one."
        )
    roles = ", ".join(dict.fromkeys(member.role for member in family.members))
    raise GeometryBenchError(f"The family {family.name} has no member {wanted}; its roles are {roles}.")


def update_between(family: Family, start: Member, end: Member) -> Update:
    """The update from one member of a family to another."""
    return compare(open_member(family, start), open_member(family, end))
