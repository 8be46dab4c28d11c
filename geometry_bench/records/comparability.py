"""Whether two measurements of one case can be compared: same claim version, same inputs, same settings."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from geometry_bench.records.measurement import Measurement


@dataclass(frozen=True)
class Unlike:
    """In what two measurements differ that makes their values incomparable, with what it is in each."""

    kind: Literal["version", "inputs", "setting"]
    name: str = ""
    new: str = ""
    old: str = ""

    @property
    def sentence(self) -> str:
        """One sentence with what it is in each."""
        if self.kind == "version":
            return f"the claim is now version {self.new}, the baseline of version {self.old}"
        if self.kind == "inputs":
            return "the inputs are not those that the baseline was measured with"
        return f"{_WORDS.get(self.name, self.name)} is {_short(self.new)} here, {_short(self.old)} in the baseline"


_WORDS = {
    "judge": "who judged the answers",
    "tokens_hash": "what the tokenizer and the template make of the prompts",
    "template_hash": "the chat template",
    "system_policy": "where system prompts go",
    "layers": "the number of blocks",
    "width": "the width",
}


def unlike(new: Measurement, old: Measurement, across: Collection[str] = ()) -> Unlike | None:
    """The first difference that counts, None where there is none; settings in ``across`` may differ."""
    if new.claim_version != old.claim_version:
        return Unlike("version", "claim_version", str(new.claim_version), str(old.claim_version))
    if new.inputs is None or old.inputs is None or new.inputs.hash != old.inputs.hash:
        return Unlike("inputs")
    ours, theirs = (
        {**one.subject.comparability(), **(one.inputs.comparability() if one.inputs else {})} for one in (new, old)
    )
    for name in {**ours, **theirs}:
        if ours.get(name) != theirs.get(name) and name not in across:
            return Unlike("setting", name, str(ours.get(name)), str(theirs.get(name)))
    return None


def _short(text: str) -> str:
    return text if len(text) <= 24 else text[:12] + "…"
