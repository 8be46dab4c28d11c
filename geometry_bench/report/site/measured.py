"""One measurement as a page shows it: what is shared by many is told once on the page and linked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from geometry_bench.claims.model import Claim
from geometry_bench.records.estimates import Estimate
from geometry_bench.records.facts import Inputs, PromptInputs
from geometry_bench.records.judgement import BaselineVerdict, Judgement, PublishedVerdict
from geometry_bench.records.measurement import Environment
from geometry_bench.report.board import is_readable
from geometry_bench.report.command import Command, command_of
from geometry_bench.report.site.page import Drawing, drawings
from geometry_bench.report.site.places import anchor
from geometry_bench.report.site.shown import (
    Mark,
    interval,
    marks,
    null_text,
    number,
    plain,
    short,
    value_text,
)


@dataclass(frozen=True)
class Told:
    """A value and the word for it."""

    name: str
    value: str


@dataclass
class Shared:
    """Inputs and environments of a subject's measurements, each once, numbered from 1."""

    inputs: dict[str, tuple[Inputs, int]] = field(default_factory=dict)
    environments: dict[str, tuple[Environment, int]] = field(default_factory=dict)

    def number_of(self, inputs: Inputs | None) -> int | None:
        """The number of some inputs."""
        if inputs is None:
            return None
        return self.inputs.setdefault(inputs.model_dump_json(), (inputs, len(self.inputs) + 1))[1]

    def place_of(self, environment: Environment) -> int:
        """The number of an environment, by all but time and memory."""
        kept = environment.model_dump(exclude={"seconds", "peak_memory_bytes"})
        key = json.dumps(kept, sort_keys=True)
        return self.environments.setdefault(key, (environment, len(self.environments) + 1))[1]


@dataclass(frozen=True)
class Shown:
    """What a page says of one measurement."""

    judged: Judgement
    anchor: str
    case: str
    value: str
    label: str
    interval: str
    null: str
    reported: str
    old: str
    marks: Sequence[Mark]
    reason: str
    readable: bool
    answers: Sequence[tuple[str, str, str]]
    facts: Sequence[Told]
    notes: Sequence[str]
    inputs: int | None
    environment: int
    command: Command
    drawings: Sequence[Drawing]


def shown_of(one: Judgement, claim: Claim, shared: Shared) -> Shown:
    """A measurement for the page of its subject."""
    measured, estimate = one.measurement, one.measurement.estimate
    reported, old = one.published.number("reported"), one.baseline.number("old")
    missing = measured.missing
    return Shown(
        judged=one,
        anchor=anchor(measured.key),
        case=measured.case,
        value=value_text(estimate),
        label=(estimate.label or "") if estimate is not None else "",
        interval=interval(estimate.low, estimate.high) if estimate is not None else "",
        null=null_text(estimate.null) if estimate is not None else "",
        reported="" if reported is None else number(reported, 2),
        old="" if old is None else number(old),
        marks=marks(one.claim.verdict, one.published.verdict, one.baseline.verdict),
        reason=str(one.claim.reason if missing is None else missing.reason),
        readable=is_readable(one),
        answers=_answers(one),
        facts=_facts(one),
        notes=estimate.notes if estimate is not None else [],
        inputs=shared.number_of(measured.inputs),
        environment=shared.place_of(measured.environment),
        command=command_of(measured, claim),
        drawings=drawings([one], "measurement"),
    )


def _answers(one: Judgement) -> list[tuple[str, str, str]]:
    """The three questions with verdict and sentence; a comparison that was not made is told in a word."""
    found = [("Does it hold?", str(one.claim.verdict), one.claim.sentence)]
    if one.published.verdict is not PublishedVerdict.NO_FIGURE or one.published.number("reported") is not None:
        found.append(("Does it agree with the published value?", str(one.published.verdict), one.published.sentence))
    if one.baseline.verdict is not BaselineVerdict.NO_BASELINE:
        found.append(("Has it moved?", str(one.baseline.verdict), one.baseline.sentence))
    return found


def _facts(one: Judgement) -> list[Told]:
    measured, estimate = one.measurement, one.measurement.estimate
    told: list[Told] = []
    if estimate is not None:
        told += _of_estimate(estimate)
    other = measured.estimates.get("published")
    if other is not None and other is not estimate:
        told.append(Told("published variant", value_text(other)))
    told.append(Told("claim version", str(measured.claim_version)))
    told.append(Told("seconds", f"{measured.environment.seconds:.3g}"))
    return told


def _of_estimate(estimate: Estimate) -> list[Told]:
    units = estimate.units.kind if estimate.units is not None else "units"
    told = [Told("taken over", f"{estimate.n} {units}{'' if units.endswith('s') or estimate.n == 1 else 's'}")]
    if estimate.block is not None:
        told.append(Told("block", str(estimate.block)))
    null = estimate.null
    if null is not None:
        told.append(Told("null", f"{null.name}: {null.draws} draws, mean {number(null.mean)} ± {null.sd:.3f}"))
    return [*told, *(Told(name.replace("_", " "), plain(value)) for name, value in estimate.details.items())]


def inputs_facts(inputs: Inputs) -> list[Told]:
    """What is said of inputs, beside their requests and notes."""
    told = [Told("hash", inputs.hash)]
    if isinstance(inputs, PromptInputs):
        told += [
            Told(name.replace("_", " "), str(value))
            for name in (
                "pack",
                "controls",
                "safety_controls",
                "pooling",
                "site",
                "template",
                "system_policy",
                "injected_text",
            )
            if (value := getattr(inputs, name)) is not None
        ]
        told += [Told("depth", f"{inputs.depth:g}")] if inputs.depth is not None else []
        told += [Told("tokens", short(inputs.tokens_hash))] if inputs.tokens_hash is not None else []
        if inputs.uniform_nats is not None and inputs.nats_per_token:
            nats = max(inputs.nats_per_token.values())
            verdict = "no better than guessing" if inputs.is_guessed else "better than guessing"
            told.append(
                Told("readability", f"{nats:.2f} nats a token, {inputs.uniform_nats:.2f} by guessing: {verdict}")
            )
    return told


def environment_facts(environment: Environment) -> list[Told]:
    """What is said of an environment."""
    dirty = " with uncommitted changes" if environment.git_dirty else ""
    commit = "unknown" if environment.git_commit is None else f"{environment.git_commit}{dirty}"
    packages = ", ".join(f"{name} {version}" for name, version in environment.packages.items())
    return [
        Told("packages", packages or "unknown"),
        Told("git commit of geometry-bench", commit),
        Told("python", environment.python),
        Told("platform", environment.platform),
        Told("seed", "none" if environment.seed is None else str(environment.seed)),
    ]


def requests_of(inputs: Inputs) -> list[dict[str, Any]]:
    """The sets of requests of inputs."""
    return [one.model_dump() for one in getattr(inputs, "requests", [])]
