"""All models of a run together: what was measured on each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from geometry_bench.records.facts import ModelFacts, PanelFacts, PromptInputs, panel_facts
from geometry_bench.records.measurement import Measurement
from geometry_bench.storage import digest_lines


@dataclass(frozen=True)
class Panel:
    """The measurements of each model that a panel's claim reads, by model and by what it reads: ``claim`` or
    ``claim[case]``."""

    members: Mapping[str, Mapping[str, Measurement]]

    @property
    def first(self) -> Measurement:
        """One of the measurements."""
        return next(iter(next(iter(self.members.values())).values()))

    def facts(self) -> PanelFacts:
        """Facts of the panel."""
        models = {name: next(iter(found.values())).subject for name, found in self.members.items()}
        return panel_facts({name: facts for name, facts in models.items() if isinstance(facts, ModelFacts)})

    def inputs(self) -> PromptInputs | None:
        """What the members' prompts have in common; where they were read with different ones, a note says so."""
        found = {name: next(iter(claims.values())).inputs for name, claims in self.members.items()}
        read = {name: inputs for name, inputs in found.items() if isinstance(inputs, PromptInputs)}
        if not read:
            return None
        common = next(iter(read.values())).in_common()
        if len({inputs.hash for inputs in read.values()}) == 1:
            return common
        packs = dict.fromkeys(f"{inputs.pack} {inputs.hash[:12]}" for inputs in read.values())
        return common.model_copy(
            update={
                "hash": digest_lines(f"{name} {inputs.hash}" for name, inputs in sorted(read.items())),
                "pack": None,
                "controls": None,
                "notes": [f"the models were measured with different prompts ({', '.join(packs)})"],
            }
        )
