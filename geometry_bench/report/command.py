"""The command that measures a case again, with every option that decides its value."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from geometry_bench.claims.model import Claim
from geometry_bench.prompts.roles import RequestSettings, times
from geometry_bench.records.facts import (
    FamilyFacts,
    GroupFacts,
    Inputs,
    MemberFacts,
    ModelFacts,
    PairFacts,
    PanelFacts,
    PromptInputs,
    PublicationFacts,
    Requested,
    RequestFacts,
    TrajectoryFacts,
)
from geometry_bench.records.measurement import Measurement
from geometry_bench.subjects.groups import DEPTH, OF_THE_RUN

BUILT_IN_PACKS = (None, "compassion-safety", "requests", "zoo")
"""Packs that a run takes without being told: none, the built-in one, requests alone, and that of the embedded models."""

_ZOO = "zoo/"


@dataclass(frozen=True)
class Command:
    """A line for a shell, and what each of its capital words stands for: what a record does not hold."""

    line: str
    where: tuple[str, ...] = ()


def command_of(measurement: Measurement, claim: Claim) -> Command:
    """The command that makes a measurement again; where none can, for a model in memory, the call that does."""
    facts, inputs = measurement.subject, measurement.inputs
    if isinstance(facts, PublicationFacts):
        return Command("geometry-bench audit")
    if isinstance(facts, ModelFacts) and facts.origin == "memory":
        call = f"geometry_bench.measure(model, tokenizer=tokenizer, name={facts.id!r}, claims={claim.id!r})"
        return Command(call, ("model, tokenizer: those in memory, with the same weights",))
    words: list[str] = ["geometry-bench", "run"]
    where: list[str] = []
    for part, meaning in (
        *_subject(measurement),
        *_settings(measurement),
        *_inputs(inputs, claim, _has_own(measurement)),
    ):
        words += part
        where += [meaning] if meaning else []
    words += [f"--{claim.asked_by}"] if claim.asked_by else []
    return Command(shlex.join([*words, "--claim", claim.id]), tuple(where))


_Part = tuple[Sequence[str], str]
"""Words of the line, and what a capital word among them stands for."""


def _subject(measurement: Measurement) -> Iterator[_Part]:
    facts = measurement.subject
    if isinstance(facts, ModelFacts):
        yield from _model(facts)
    elif isinstance(facts, GroupFacts):
        yield from _group(facts)
    elif isinstance(facts, FamilyFacts):
        name = facts.name.removeprefix("family/")
        own = name.startswith(_ZOO)
        yield ["--weights", name if own else "FAMILY.toml"], "" if own else f"FAMILY.toml: the manifest of {name}"
    elif isinstance(facts, PairFacts):
        child, parent = facts.members[facts.child], facts.members[facts.parent]
        yield from _member(facts.child, child)
        yield ["--against", parent.name or facts.parent], ""
    elif isinstance(facts, PanelFacts):
        for id, member in facts.members.items():
            yield from _member(id, member)
    elif isinstance(facts, TrajectoryFacts):
        yield ["--checkpoints", "DIR"], f"DIR: the checkpoints of {facts.id}"


def _model(facts: ModelFacts) -> Iterator[_Part]:
    if facts.name.startswith(_ZOO):
        yield ["--model", facts.name], ""
        return
    if facts.origin == "hub":
        yield ["--model", facts.name, "--revision", facts.revision], ""
    else:
        yield ["--model", "FOLDER", "--name", f"FOLDER={facts.name}"], f"FOLDER: a folder of content {facts.revision}"
    if facts.adapter is not None:
        yield ["--adapter", "ADAPTER"], f"ADAPTER: the folder {facts.adapter}, of content {facts.adapter_hash}"
    if facts.alignment is not None:
        yield ["--alignment", f"{facts.name}={facts.alignment}"], ""
    flags = {"--trust-remote-code": facts.trust_remote_code, "--allow-pickle": facts.allow_pickle}
    yield [flag for flag, given in flags.items() if given], ""


def _group(facts: GroupFacts) -> Iterator[_Part]:
    prefix = "group/zoo-"
    if facts.id.startswith(prefix):
        yield ["--group", f"zoo/groups/{facts.id.removeprefix(prefix)}"], ""
    elif facts.id == OF_THE_RUN:
        for id, member in facts.members.items():
            yield from _member(id, member)
        yield ["--reference", facts.reference], ""
    else:
        yield ["--group", "GROUP.toml"], f"GROUP.toml: the manifest of {facts.id}"


def _member(id: str, member: MemberFacts) -> Iterator[_Part]:
    name = member.name or id
    hashed = member.revision.startswith("sha256:") and not name.startswith(_ZOO)
    at = "" if hashed or name.startswith(_ZOO) else f"@{member.revision}"
    yield ["--model", f"{name}{at}"], f"{name}: a folder of content {member.revision}" if hashed else ""


def _settings(measurement: Measurement) -> Iterator[_Part]:
    facts = measurement.subject
    requested = getattr(facts, "requested", Requested())
    if isinstance(facts, FamilyFacts):
        return
    dtype = requested.dtype if facts.quantisation is not None else facts.dtype
    yield ["--dtype", dtype] if dtype not in (None, "auto") else [], ""
    yield ["--attention", facts.attention] if facts.attention is not None else [], ""
    yield ["--device", requested.device] if requested.device != "auto" else [], ""
    for argument in facts.template_arguments:
        yield ["--template-arguments", argument], ""


def _has_own(measurement: Measurement) -> bool:
    """Whether a manifest names the prompts, so that no option need."""
    facts = measurement.subject
    return getattr(facts, "family", None) is not None or facts.kind in ("group", "family") or facts.id.startswith(_ZOO)


def _inputs(inputs: Inputs | None, claim: Claim, own: bool) -> Iterator[_Part]:
    requests = getattr(inputs, "requests", [])
    roles = claim.requires.sets
    if isinstance(inputs, PromptInputs):
        if inputs.pack not in BUILT_IN_PACKS and not own:
            yield ["--prompts", "PACK.toml"], f"PACK.toml: the prompt pack {inputs.pack}"
        if inputs.depth is not None and abs(inputs.depth - DEPTH) > 1e-9:
            yield ["--depth", f"{inputs.depth:g}"], ""
    if len(roles) != len(requests):
        return
    counts = {
        drawn.count // times(role) for role, drawn in zip(roles, requests, strict=True) if drawn.count < drawn.available
    }
    whole = all(drawn.count == drawn.available for drawn in requests)
    if whole and requests:
        yield ["--requests", "all"], ""
    elif counts and max(counts) != RequestSettings.count:
        yield ["--requests", str(max(counts))], ""
    for role, drawn in zip(roles, requests, strict=True):
        if not own and drawn.name != RequestSettings().source(role):
            yield _set(role, drawn)


def _set(role: str, drawn: RequestFacts) -> _Part:
    column = f":{drawn.column}" if drawn.column is not None and drawn.origin == "file" else ""
    conditions = "&".join(f"{name}={value}" for name, value in drawn.where.items())
    meaning = f"{drawn.name}: the file of content {drawn.revision}" if drawn.origin == "file" else ""
    return ["--set", f"{role}={drawn.name}{column}{'?' if conditions else ''}{conditions}"], meaning
