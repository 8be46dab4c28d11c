"""What a record says of a subject that is several checkpoints together: a panel, a group, a family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from geometry_bench.records.schema import Record
from geometry_bench.storage import digest_lines

_OF_A_MEMBER = (
    "name", "revision", "adapter_hash", "dtype", "layers", "width", "block", "alignment", "role", "parent",
)  # fmt: skip


def together(name: str, revision: str, members: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Facts of a joint subject from those of its members, by their names in it.

    What they share stands as it is, the rest as mixed; what tells them apart stands with each.
    """

    def shared(fact: str) -> str:
        values = {str(facts.get(fact)) for facts in members.values()}
        return values.pop() if len(values) == 1 else "mixed"

    return {
        "id": name,
        "name": name,
        "revision": revision,
        "members": {
            member: {name: facts[name] for name in _OF_A_MEMBER if facts.get(name) is not None}
            for member, facts in members.items()
        },
        **{fact: shared(fact) for fact in ("dtype", "attention", "quantisation")},
        "adapter_hash": None,
    }


def panel_facts(name: str, records: Sequence[Record]) -> dict[str, Any]:
    """Facts of a panel from a record of each of its members."""
    members = {record.subject_name: record.subject for record in records}
    content = (f"{member} {facts['revision']}" for member, facts in sorted(members.items()))
    return together(name, f"sha256:{digest_lines(content)}", members)


def panel_inputs(records: Sequence[Record]) -> dict[str, Any]:
    """What a panel's record says of its prompts: what its members' records have in common."""
    first = records[0].inputs
    return {key: first[key] for key in ("pack", "pack_hash", "controls", "messages", "pooling", "site")}


def absent(name: str) -> dict[str, Any]:
    """Facts of a joint subject that this run does not have."""
    return together(name, "none", {})
