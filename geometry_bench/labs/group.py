"""A group's measured quantities: the same requests in several models, at the same relative depths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.directions import Array
from geometry_bench.labs.memo import Memo
from geometry_bench.labs.model import MEAN_LAST_FIVE, Lab
from geometry_bench.prompts.roles import ALIGNMENT, RequestSettings
from geometry_bench.prompts.sets import RequestSet
from geometry_bench.storage import digest_lines
from geometry_bench.subjects.groups import DEPTH

CLASSES = ("safe", "unsafe")
GROUP_SETS = (*CLASSES, ALIGNMENT)
"""The sets that a group is measured on."""

SWEPT = (1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1.0)
"""Relative depths at which values are recorded beside the declared one."""


def block_at(depth: float, layers: int) -> int:
    """The 0-based block at a relative depth, which is the share of blocks passed: 1 is after the last, 0 after the first."""
    return max(0, round(depth * layers) - 1)


@dataclass(frozen=True)
class MemberStates:
    """What one member made of the requests: (role, depth) -> (prompts, width), float32; with its facts and inputs."""

    states: Mapping[tuple[str, float], Array]
    facts: Mapping[str, Any]
    inputs: Mapping[str, Any]
    vocabulary: frozenset[str]


class GroupLab(Memo):
    """What claims may ask of a group. Its models are loaded one after another on the first question, and let go.

    ``open_member`` gives the lab of a member by its name in the group; opening the next may close it.
    """

    def __init__(
        self,
        members: Sequence[str],
        reference: str,
        open_member: Callable[[str], Lab],
        requests: RequestSettings | None = None,
        depth: float = DEPTH,
    ) -> None:
        super().__init__()
        self.members, self.reference, self.depth = tuple(members), reference, depth
        self.request_settings = requests or RequestSettings()
        self._open = open_member

    @property
    def depths(self) -> tuple[float, ...]:
        """All relative depths measured, the declared one among them."""
        return tuple(sorted({*SWEPT, self.depth}))

    @property
    def place(self) -> int:
        """Position of the reference among the members."""
        return self.members.index(self.reference)

    def requests(self, role: str) -> RequestSet:
        """The requests drawn for a role."""
        return self.request_settings.load(role)

    def states(self, member: str, role: str, depth: float | None = None) -> Array:
        """Mean of the last five tokens' block outputs at a relative depth (the declared one if None), (prompts, width)."""
        return self._measured[member].states[role, self.depth if depth is None else depth]

    def facts(self, member: str) -> Mapping[str, Any]:
        """What a record says of a member's checkpoint."""
        return self._measured[member].facts

    @cached_property
    def _measured(self) -> Mapping[str, MemberStates]:
        measured = {member: self._measure(member) for member in self.members}
        for member, found in measured.items():
            if not found.vocabulary & measured[self.reference].vocabulary:
                raise GeometryBenchError(
                    f"The tokenizers of {member} and of the reference {self.reference} have no token in common, not even a "
                    "letter: one of them was saved with a tokenizer that is not its own."
                )
        return measured

    def _measure(self, member: str) -> MemberStates:
        lab = self._open(member)
        blocks = {depth: block_at(depth, lab.layers) for depth in self.depths}
        states = {}
        for role in GROUP_SETS:
            pooled = lab.requests(role, rendering="chat").states[MEAN_LAST_FIVE]
            for depth, block in blocks.items():
                states[role, depth] = pooled[:, block].copy()
                if (pooled[:, block] == pooled[0, block]).all():
                    raise GeometryBenchError(
                        f"{member} gives the same activations for every request of {role} at relative depth {depth:.2f}, so "
                        "nothing can be mapped: check its weights, or choose another --depth."
                    )
        return MemberStates(
            states,
            {**lab.subject.facts(), "alignment": lab.spec.alignment, "block": blocks[self.depth]},
            lab.inputs((), GROUP_SETS, "chat", (MEAN_LAST_FIVE,)),
            frozenset(lab.subject.tokenizer.get_vocab()),
        )

    def inputs(self) -> dict[str, Any]:
        """What a record says of the prompts: those of all members, whose templates and tokens are hashed together."""
        inputs = [self._measured[member].inputs for member in self.members]

        def together(name: str) -> str:
            return digest_lines(str(facts[name]) for facts in inputs)

        return {
            **inputs[0],
            "pack_hash": self.pack_hash(),
            "tokens_hash": together("tokens_hash"),
            "template": ", ".join(dict.fromkeys(str(facts["template"]) for facts in inputs)),
            "template_hash": together("template_hash"),
            "system_policy": ", ".join(dict.fromkeys(str(facts["system_policy"]) for facts in inputs)),
            "injected_text": None,
            "truncated_prompts": sum(facts["truncated_prompts"] for facts in inputs),
            "depth": self.depth,
        }

    def pack_hash(self) -> str:
        """Content hash of all that a value is measured on, known before any model is loaded."""
        parts = [f"{role} {self.requests(role).hash}" for role in GROUP_SETS] + [f"depth {self.depth:.6f}"]
        return digest_lines(parts)
