"""What decides a measurement: what a run that is resumed takes over has the same key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from geometry_bench.published.alignment import alignment_group_of
from geometry_bench.records.facts import GroupFacts, ModelFacts, Requested, judge_name
from geometry_bench.records.measurement import Measurement


@dataclass(frozen=True)
class Key:
    """All that decides a measurement and is known before anything is loaded."""

    claim: str
    version: int
    case: str
    subject: str
    revision: str
    inputs: str
    adapter: str | None = None
    requested: Requested | None = None
    alignment: tuple[str, ...] = ()
    """Groups of alignment methods by member, where the measurement itself depends on them."""
    judge: str = ""

    @classmethod
    def of(cls, one: Measurement) -> Key:
        """The key of what was measured before."""
        facts = one.subject
        declared: dict[str, Any] = {}
        if isinstance(facts, ModelFacts):
            declared = {"adapter": facts.adapter_hash, "requested": facts.requested}
        elif isinstance(facts, GroupFacts):
            methods = {name: member.alignment for name, member in facts.members.items()}
            declared = {"requested": facts.requested, "alignment": alignments(methods)}
        inputs, judge = (one.inputs.hash, one.inputs.judge) if one.inputs is not None else ("", None)
        declared["judge"] = judge_name(judge)
        return cls(one.claim, one.claim_version, one.case, facts.id, facts.revision, inputs, **declared)


def alignments(methods: Mapping[str, str | None]) -> tuple[str, ...]:
    """Groups of alignment methods by member."""
    groups = ((name, alignment_group_of(method) if method else "unknown") for name, method in methods.items())
    return tuple(f"{name}: {group}" for name, group in groups)
