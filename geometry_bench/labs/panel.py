"""All models of a run together: what was measured on each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from geometry_bench.records.facts import ModelFacts, PanelFacts, PromptInputs, panel_facts
from geometry_bench.records.measurement import Measurement


@dataclass(frozen=True)
class Panel:
    """The measurements of each model that a panel's claim reads, by model and claim."""

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
        """What the members' prompts have in common."""
        inputs = self.first.inputs
        return inputs.in_common() if isinstance(inputs, PromptInputs) else None
