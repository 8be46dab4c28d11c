"""The labs of a run: opened on the first question, one model held at a time."""

from __future__ import annotations

from pathlib import Path

from geometry_bench.errors import GeometryBenchError
from geometry_bench.labs.family import FamilyLab
from geometry_bench.labs.group import GroupLab
from geometry_bench.labs.model import CaptureSettings, Lab
from geometry_bench.prompts.pack import Pack
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.run.roster import PinnedFamily, PinnedGroup, Roster
from geometry_bench.subjects.groups import DEPTH


class SubjectFailedError(GeometryBenchError):
    """A further case of a subject that could not be loaded."""


class Labs:
    """The lab of each subject of a roster.

    Without ``cache`` nothing is kept on disk; ``cache_dir`` None is the usual place.
    """

    def __init__(
        self,
        roster: Roster,
        pack: Pack,
        *,
        capture: CaptureSettings,
        requests: RequestSettings,
        depth: float = DEPTH,
        cache: bool = True,
        cache_dir: Path | None = None,
    ) -> None:
        self._roster, self._pack = roster, pack
        self._capture, self._requests, self._depth = capture, requests, depth
        self._cache, self._cache_dir = cache, cache_dir
        self._held: Lab | None = None
        self._groups: dict[str, GroupLab] = {}
        self._families: dict[str, FamilyLab] = {}
        self._failed: set[str] = set()

    def model(self, subject: str) -> Lab:
        """The lab of a model by its id, loaded; the one held before is closed.

        Raises:
            GeometryBenchError: it cannot be loaded; a :class:`SubjectFailedError` from the second time on.
        """
        if subject in self._failed:
            raise SubjectFailedError(f"not measured: {subject} could not be loaded, see its first case")
        spec, identity = self._roster.known[subject]
        if self._held is not None and self._held.identity != identity:
            self.close()
        if self._held is None:
            from geometry_bench.activations.cache import Cache

            cache = Cache(self._cache_dir) if self._cache else None
            lab = Lab(spec, identity, self._pack, self._capture, cache, requests=self._requests)
            try:
                _ = lab.subject
            except GeometryBenchError:
                self._failed.add(subject)
                raise
            self._held = lab
        return self._held

    def group(self, group: PinnedGroup) -> GroupLab:
        """The lab of a group, whose members are loaded when it is first asked for states."""
        if group.id not in self._groups:
            self._groups[group.id] = GroupLab(
                tuple(group.members),
                group.reference,
                lambda member: self.model(group.members[member]),
                self._requests,
                self._depth,
            )
        return self._groups[group.id]

    def family(self, family: PinnedFamily) -> FamilyLab:
        """The lab of a family's weights."""
        if family.id not in self._families:
            from geometry_bench.updates.store import Store

            store = Store(self._cache_dir) if self._cache else None
            self._families[family.id] = FamilyLab(family.family, store, progress=self._capture.progress)
        return self._families[family.id]

    def close(self) -> None:
        """Let the loaded model go."""
        if self._held is not None:
            self._held.close()
            self._held = None
