"""What a run is asked for: subjects, claims, and how to measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from geometry_bench.behavior.judges.choice import RULES, JudgeChoice
from geometry_bench.claims.model import Claim, Option
from geometry_bench.claims.registry import CLAIMS, find_claim
from geometry_bench.labs.model import CaptureSettings
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.subjects.families import Family
from geometry_bench.subjects.groups import DEPTH, Group
from geometry_bench.subjects.spec import SubjectSpec

if TYPE_CHECKING:
    from geometry_bench.run.targets import Target
    from geometry_bench.subjects.subject import Subject


@dataclass(frozen=True)
class Settings:
    """How to measure: prompts, requests, capture, caches; ``asked`` are options that ask for claims which cost much.

    ``judge`` grades answers where a claim is about harm.
    """

    prompts: Path | None = None
    requests: RequestSettings = field(default_factory=RequestSettings)
    depth: float = DEPTH
    capture: CaptureSettings = field(default_factory=CaptureSettings)
    cache: bool = True
    cache_dir: Path | None = None
    asked: frozenset[Option] = frozenset()
    judge: JudgeChoice = RULES


@dataclass(frozen=True)
class Request:
    """Everything that decides which cases are measured on what.

    ``specs`` are models, ``live`` models in memory, ``publications`` ids of sources whose statements are audited,
    ``trajectories`` checkpoints of training runs by step, which are among the ``specs`` too, ``targets`` subjects of further
    kinds.
    """

    specs: tuple[SubjectSpec, ...] = ()
    live: tuple[Subject, ...] = ()
    groups: tuple[Group, ...] = ()
    families: tuple[Family, ...] = ()
    publications: tuple[str, ...] = ()
    trajectories: Mapping[str, Mapping[float, SubjectSpec]] = field(default_factory=dict)
    targets: tuple[Target, ...] = ()
    claims: Mapping[str, Claim] = field(default_factory=lambda: CLAIMS)
    settings: Settings = field(default_factory=Settings)


def chosen_claims(patterns: tuple[str, ...], among: Mapping[str, Claim] = CLAIMS) -> dict[str, Claim]:
    """The claims whose ids match one of the patterns (``safety.*``); all without patterns.

    Raises:
        GeometryBenchError: a pattern matches none.
    """
    if not patterns:
        return dict(among)
    chosen: dict[str, Claim] = {}
    for pattern in patterns:
        found = {id: claim for id, claim in among.items() if fnmatchcase(id, pattern)}
        chosen |= found or {pattern: find_claim(pattern, among)}
    return {id: claim for id, claim in among.items() if id in chosen}
