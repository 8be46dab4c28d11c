"""A group's measured quantities: the same requests in several models, at the same relative depths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from geometry_bench.activations.pooling import Pooling
from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.directions import Array
from geometry_bench.labs.answering import refused
from geometry_bench.labs.memo import Memo, remembered
from geometry_bench.labs.model import Lab
from geometry_bench.labs.prompt_inputs import prompt_inputs
from geometry_bench.labs.requirements import Requirements
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.prompts.sets import RequestSet
from geometry_bench.records.facts import ModelFacts, PromptInputs
from geometry_bench.records.measurement import NotApplicableError
from geometry_bench.storage import digest_lines
from geometry_bench.subjects.groups import DEPTH

SWEPT = (1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1.0)
"""Relative depths at which values are recorded beside the declared one."""


def block_at(depth: float, layers: int) -> int:
    """The 0-based block at a relative depth, which is the share of blocks passed: 1 is after the last, 0 after the first."""
    return max(0, round(depth * layers) - 1)


def group_hash(required: Requirements, settings: RequestSettings, depth: float) -> str:
    """Content hash of all that a value about a group is measured on, known before any model is loaded."""
    return digest_lines([*(f"{role} {settings.load(role).hash}" for role in required.sets), f"depth {depth:.6f}"])


FEWEST_TWINS = 4
"""Untrained models that a group is held against: a twin of each member, of fewer members several."""

States = Mapping[tuple[str, Pooling, float], Array]
"""(role, pooling, relative depth) -> (prompts, width), float32."""


@dataclass(frozen=True)
class MemberStates:
    """What one member made of the requests, with its facts; and what its untrained twins made of them, by name.

    ``notes`` say which twins could not be measured.
    """

    states: States
    facts: ModelFacts
    block: int
    inputs: PromptInputs
    vocabulary: frozenset[str]
    twins: Mapping[str, States]
    notes: tuple[str, ...]


class GroupLab(Memo):
    """What claims may ask of a group. Its models are loaded one after another on the first question, and let go.

    ``open_member`` gives the lab of a member by its name in the group; opening the next may close it. ``requires`` names the
    sets and poolings that are read, ``ids`` what the run calls each member.
    """

    def __init__(
        self,
        members: Sequence[str],
        reference: str,
        open_member: Callable[[str], Lab],
        requires: Requirements,
        requests: RequestSettings | None = None,
        depth: float = DEPTH,
        ids: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.members, self.reference, self.requires, self.depth = tuple(members), reference, requires, depth
        self.request_settings = requests or RequestSettings()
        self._open, self._ids = open_member, ids or {}

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

    def states(self, member: str, role: str, depth: float | None = None, pooling: Pooling | None = None) -> Array:
        """Block outputs at a relative depth (the declared one if None), pooled (by the first pooling if None).

        (prompts, width), float32. Those of an untrained twin are known at the declared depth alone.
        """
        place = (role, pooling or self.requires.poolings[0], self.depth if depth is None else depth)
        return self._states[member][place]

    @property
    def twins(self) -> tuple[str, ...]:
        """Names of the untrained twins of all members, under which they have states."""
        return tuple(name for name in self._states if name not in self.members)

    @cached_property
    def _states(self) -> Mapping[str, States]:
        members = {name: found.states for name, found in self._measured.items()}
        return members | {name: states for found in self._measured.values() for name, states in found.twins.items()}

    @remembered
    def refused(self, member: str, role: str, new_tokens: int) -> NDArray[np.bool_]:
        """Which of the requests of a role (prompts,) a member refuses, by rules; the member is loaded again for it."""
        lab = self._open(member)
        prompts = [prompt.ids for prompt in lab.encoded_requests(role, "chat")]
        return refused(lab, prompts, new_tokens, label=f"answers to {role}")

    def block(self, member: str) -> int:
        """The 0-based block of a member at the declared depth."""
        return self._measured[member].block

    def facts(self, member: str) -> ModelFacts:
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
        twins, notes = {}, []
        for seed in range(-(-FEWEST_TWINS // len(self.members))):
            name = f"{member} untrained {seed}"
            try:
                with lab.twin(seed) as twin:
                    twins[name] = self._read(twin, name, (self.depth,))
            except NotApplicableError as error:
                notes.append(f"the null has no untrained twin of {member}: {error}")
        return MemberStates(
            self._read(lab, member, self.depths),
            lab.facts(self._ids.get(member, member)),
            block_at(self.depth, lab.layers),
            prompt_inputs(lab, self.requires),
            frozenset(lab.subject.tokenizer.get_vocab()),
            twins,
            tuple(dict.fromkeys(notes)),
        )

    def _read(self, lab: Lab, name: str, depths: Sequence[float]) -> States:
        states = {}
        for role in self.requires.sets:
            found = lab.requests(role, rendering=self.requires.rendering, poolings=self.requires.poolings)
            for pooling in self.requires.poolings:
                pooled = found.states[pooling]
                for depth in depths:
                    at = pooled[:, block_at(depth, lab.layers)]
                    states[role, pooling, depth] = at.copy()
                    if (at == at[0]).all():
                        raise GeometryBenchError(
                            f"{name} gives the same activations for every request of {role} at relative depth "
                            f"{depth:.2f}, so nothing can be mapped: check its weights, or choose another --depth."
                        )
        return states

    def inputs(self, required: Requirements) -> PromptInputs:
        """What a record says of the prompts: those of all members, whose templates and tokens are hashed together."""
        inputs = [self._measured[member].inputs for member in self.members]

        def together(name: str) -> str:
            return digest_lines(str(getattr(one, name)) for one in inputs)

        def named(name: str) -> str:
            return ", ".join(dict.fromkeys(str(getattr(one, name)) for one in inputs))

        return inputs[0].model_copy(
            update={
                "hash": group_hash(required, self.request_settings, self.depth),
                "pooling": ", ".join(pooling.name for pooling in required.poolings),
                "tokens_hash": together("tokens_hash"),
                "template": named("template"),
                "template_hash": together("template_hash"),
                "system_policy": named("system_policy"),
                "injected_text": None,
                "truncated_prompts": sum(one.truncated_prompts or 0 for one in inputs),
                "depth": self.depth,
                "nats_per_token": {
                    f"{member}: {name}": nats
                    for member, one in zip(self.members, inputs, strict=True)
                    for name, nats in one.nats_per_token.items()
                },
                "uniform_nats": None,
                "notes": _joint_notes(
                    {
                        name: (*found.facts.notes, *found.inputs.notes, *found.notes)
                        for name, found in self._measured.items()
                    }
                ),
            }
        )


def _joint_notes(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """The notes of all members: once where all have them, else with the member's name."""
    common = [note for note in next(iter(notes.values())) if all(note in found for found in notes.values())]
    return [*common, *(f"{member}: {note}" for member, found in notes.items() for note in found if note not in common)]
