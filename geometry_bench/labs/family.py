"""A family's measured quantities in weight space: energies and overlaps of its updates, matrix by matrix (source D)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geometry_bench.behavior.judges.verdict import Judge, Rules
from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.subspaces import OverlapSweep, Rule, energy_of_vector, rank_of_share
from geometry_bench.labs.memo import Memo, remembered
from geometry_bench.labs.questions import SUMS, Sums, TaskOf, abilities
from geometry_bench.labs.requirements import Requirements
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.prompts.sets import RequestSet
from geometry_bench.records.facts import RequestFacts, TaskFacts, WeightInputs
from geometry_bench.storage import digest_lines
from geometry_bench.subjects.families import CONTROL, Family, Member
from geometry_bench.updates.store import Store
from geometry_bench.updates.sweep import TensorSweep, common_names, sweep
from geometry_bench.updates.update import Update, member_for, update_between

if TYPE_CHECKING:
    from geometry_bench.labs.projections import Projections

SHARES = (0.01, 0.25, 0.5, 0.75, 0.99)
"""ρ: directions kept, as a share of a matrix's smaller side."""

THRESHOLDS = (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
"""η: share of an update's energy that a subspace holds."""

DRAWS = 20
"""Random bases of each kind."""

ALIGNMENT = "alignment"
"""Label of the update that made the start from the base; the tasks' updates go by their roles."""

TASKS: tuple[str, str] = ("useful", "harmful")
PAIRS: tuple[tuple[str, str], ...] = (TASKS, ("useful", ALIGNMENT), ("harmful", ALIGNMENT))

STARTS: Mapping[str, str] = {"aligned": "aligned", "safety": "safety_tuned", "dpo": "safety_dpo"}
"""What fine-tunes start from, by the role whose update is the alignment."""


def family_inputs(
    members: Iterable[str], required: Requirements, settings: RequestSettings, notes: Iterable[str] = ()
) -> WeightInputs:
    """What a record says of updates: which members they are between, the grids, what is left out; and the sets of requests
    and the tasks that claims on answers ask."""
    able = abilities(settings) if required.abilities else ()
    sums = [SUMS] if any(isinstance(one, Sums) for one in able) else []
    sets = [settings.load(name) for name in (*required.sets, *sums)]
    tasks = [one for one in able if isinstance(one, TaskOf)]
    lines = [f"{SHARES} {THRESHOLDS} {sorted(members)}", *(drawn.hash for drawn in sets), *(one.hash for one in tasks)]
    return WeightInputs(
        hash=digest_lines(lines),
        notes=list(notes),
        requests=[RequestFacts(**drawn.facts()) for drawn in sets],
        tasks=[TaskFacts(**one.described) for one in tasks],
    )


@dataclass(frozen=True)
class Curves:
    """Shares of one update's energy kept at each ρ, for one matrix and one rule of rounding k.

    ``top`` and ``expected`` = k/rows are (shares,), ``random_k`` and ``random`` (draws, shares). Where the alignment's
    update has fewer directions than k, all of them are compared with as many random ones.
    """

    top: Array
    random_k: Array
    random: Array
    expected: Array


@dataclass(frozen=True)
class Reading:
    """One matrix: its block (None outside of them), energies by task and rule, overlaps by pair of updates.

    The control is among tasks and in pairs, last, where the family has one that changes the matrix.
    """

    name: str
    layer: int | None
    rank: int
    """Of the alignment's update."""
    energy: Mapping[tuple[str, Rule], Curves]
    overlap: Mapping[tuple[str, str], OverlapSweep]
    total: Mapping[str, float]
    """‖Δ‖² by task."""
    uses: int = 1
    """2 for an embedding that is the head too."""

    @property
    def kind(self) -> str:
        """The name without the block's number: what the same matrices of all blocks have in common."""
        return self.name if self.layer is None else self.name.replace(f".{self.layer}.", ".*.", 1)


@dataclass(frozen=True)
class FineTune:
    """A fine-tune, what it started from, and (start, end) of the alignment's update whose directions it is projected on."""

    start: Member
    end: Member
    aligned: tuple[Member, Member]


class FamilyLab(Memo):
    """What claims may ask of a family's weights. Checkpoints are read tensor by tensor, none is ever held whole.

    ``judge`` opens the judge of harm.
    """

    def __init__(
        self,
        family: Family,
        store: Store | None = None,
        *,
        progress: bool = True,
        requests: RequestSettings | None = None,
        points: Path | None = None,
        judge: Callable[[], Judge] = Rules,
    ) -> None:
        super().__init__()
        self.family = family
        self._store, self._progress = store, progress
        self._requests, self._points, self._judge = requests or RequestSettings(), points, judge

    @cached_property
    def projections(self) -> Projections:
        """What models with projected updates answer; ``points`` is the folder where that is kept, None for nowhere."""
        from geometry_bench.labs.projections import Projections

        return Projections(self, self._store, self._points, self._judge, progress=self._progress)

    @property
    def abilities(self) -> tuple[Sums | TaskOf, ...]:
        """What stands for the ability of the family's models."""
        return abilities(self._requests)

    def requests(self, name: str) -> RequestSet:
        """The requests drawn of a set."""
        return self._requests.load(name)

    def inputs(self, members: Iterable[str], required: Requirements) -> WeightInputs:
        """What a record says of the updates between some members, and of what their models are asked."""
        return family_inputs(members, required, self._requests, self.notes())

    def members(self, start: str) -> dict[str, tuple[Member, Member]]:
        """Label -> (start, end) of the updates about one of ``STARTS``: the alignment's and those of tasks that there are.

        The alignment's update starts from the base; that of tuning by DPO from what it was tuned from, which is rarely the
        base. Where nothing was fine-tuned from the model tuned by DPO, the fine-tunes of its parent stand in.

        Raises:
            GeometryBenchError: the family has no base or no such start, or several.
        """
        (first, aligned), parent = self._start(start)
        tasks = {task: self._task(task, parent) for task in (*TASKS, CONTROL) if self._lacking(task, parent) is None}
        return {ALIGNMENT: (first, aligned)} | {task: (self._parent(one), one) for task, one in tasks.items()}

    def _start(self, start: str) -> tuple[tuple[Member, Member], str]:
        """The members of the alignment's update, and the role that fine-tunes start from."""
        role = STARTS[start]
        base, aligned = member_for(self.family, "base"), member_for(self.family, role)
        first, parent = base, role
        if start == "dpo":
            first = self._parent(aligned)
            if not [m for m in self.family.members if m.role in TASKS and m.parent == aligned.name]:
                parent = first.role
        return (first, aligned), parent

    def _task(self, task: str, parent: str) -> Member:
        return member_for(self.family, task, parent_role=parent)

    def _lacking(self, task: str, parent: str) -> str | None:
        try:
            self._task(task, parent)
        except GeometryBenchError as reason:
            return str(reason)
        return None

    def _parent(self, member: Member) -> Member:
        assert member.parent is not None, "a fine-tune has a parent"
        return self.family.member(member.parent)

    @remembered
    def fine_tune(self, start: str, task: str) -> FineTune:
        """A fine-tune of a role about a start.

        Raises:
            GeometryBenchError: the family lacks one of the members, or has several.
        """
        aligned, parent = self._start(start)
        member = self._task(task, parent)
        return FineTune(self._parent(member), member, aligned)

    def lacks(self, start: str, *labels: str) -> str | None:
        """Why some updates about a start cannot be measured; None where the members for all of them are there."""
        try:
            _, parent = self._start(start)
        except GeometryBenchError as reason:
            return str(reason)
        return next((lack for task in labels if task != ALIGNMENT and (lack := self._lacking(task, parent))), None)

    @remembered
    def updates(self, start: str) -> Mapping[str, Update]:
        """The updates about a start, by label."""
        return {label: update_between(self.family, *pair) for label, pair in self.members(start).items()}

    @remembered
    def notes(self) -> tuple[str, ...]:
        """What claims on weights leave out of each update, with its share of ‖Δ‖²."""
        found: dict[str, None] = {}
        for start in STARTS:
            with suppress(GeometryBenchError):  # told by the claims about that start
                found |= {
                    f"{update.name}: {update.left_out}": None
                    for update in self.updates(start).values()
                    if update.left_out
                }
        return tuple(found)

    @remembered
    def readings(self, start: str) -> tuple[Reading, ...]:
        """Every matrix that all updates about a start change.

        Raises:
            GeometryBenchError: an update changes no matrix at all, checkpoints do not fit each other or cannot be read.
        """
        updates = self.updates(start)
        names = common_names(updates, dimensions=2)
        tasks = [task for task in TASKS if task in updates]
        pairs = [*((ALIGNMENT, task) for task in tasks), *([TASKS] if len(tasks) == len(TASKS) else [])]
        controls = [(label, CONTROL) for label in (ALIGNMENT, *tasks)] if CONTROL in updates else []
        swept = sweep(
            updates, [*pairs, *controls], self._watched(names, f"{self.family.name}: {start}"), store=self._store
        )
        moved: set[str] = set()
        readings = []
        for one in swept:
            moved |= {label for label, spectrum in one.spectra.items() if spectrum.rank}
            if all(pair in one.overlaps for pair in pairs):
                heads = list(updates[ALIGNMENT].end.tied.values())
                readings.append(_reading(one, updates[ALIGNMENT].pairs[one.name].layer, 1 + heads.count(one.name)))
        for label, (first, last) in self.members(start).items():
            if label not in moved:
                raise GeometryBenchError(
                    f"{last.name} and {first.name} of the family {self.family.name} have the same matrices, so their update "
                    "is zero and spans nothing: check which checkpoints the manifest names."
                )
        if not readings:
            raise GeometryBenchError(
                f"No matrix of the family {self.family.name} is changed by all of {', '.join(updates)}: their subspaces "
                "cannot be compared."
            )
        return tuple(readings)

    @remembered
    def vector_energy(self, start: str, task: str) -> float | None:
        """Mean share of energy that the scalar projection on the alignment's update keeps of a task's, over 1-D tensors."""
        updates = self.updates(start)
        shares = []
        for name in common_names(updates, dimensions=1):
            axis, delta = (updates[label].delta(name) for label in (ALIGNMENT, task))
            if axis.any() and delta.any():
                shares.append(energy_of_vector(axis, delta))
        return float(np.mean(shares)) if shares else None

    def _watched(self, names: tuple[str, ...], label: str) -> Iterable[str]:
        from tqdm import tqdm

        shown = self._progress and sys.stderr.isatty()
        return tqdm(names, desc=label, unit="matrix", file=sys.stderr, disable=not shown, leave=False)


def _reading(one: TensorSweep, layer: int | None, uses: int) -> Reading:
    energy: dict[tuple[str, Rule], Curves] = {}
    rules: tuple[Rule, ...] = ("round", "floor")
    controlled = (ALIGNMENT, CONTROL) in one.overlaps
    tasks = [task for task in TASKS if (ALIGNMENT, task) in one.overlaps]
    for task in (*tasks, *([CONTROL] if controlled else [])):
        overlap, spectrum = one.overlaps[ALIGNMENT, task], one.spectra[task]
        curves = (
            overlap.energy_kept()[None],
            overlap.energy_kept_random_k(DRAWS, seed=0),
            one.energy_kept_random(task, DRAWS, seed=0),
        )
        for rule in rules:
            ranks = [
                min(rank_of_share(share, spectrum.rows, spectrum.columns, rule), one.spectra[ALIGNMENT].rank)
                for share in SHARES
            ]
            top, random_k, random = (_at(curve, ranks) for curve in curves)
            energy[task, rule] = Curves(top[0], random_k, random, np.array(ranks) / spectrum.rows)
    about = {pair: one.overlaps[pair[1], pair[0]].transposed() for pair in PAIRS if pair[1::-1] in one.overlaps}
    about |= {pair: overlap for pair, overlap in one.overlaps.items() if pair == TASKS or CONTROL in pair}
    return Reading(
        one.name,
        layer,
        one.spectra[ALIGNMENT].rank,
        energy,
        {pair: overlap.mso(THRESHOLDS) for pair, overlap in about.items()},
        {task: one.spectra[task].total for task, _ in energy},
        uses,
    )


def _at(curves: Array, ranks: list[int]) -> Array:
    """Curves (draws, k = 1 …) at some ranks, (draws, ranks): nothing at rank 0, and no more beyond the last direction."""
    padded = np.concatenate([np.zeros((len(curves), 1)), curves], axis=1)
    return padded[:, np.minimum(ranks, curves.shape[1])]
