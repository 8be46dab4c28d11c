"""Measurements made by hand, for tests of what is done with them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from geometry_bench.claims.criteria import Above
from geometry_bench.claims.model import Claim
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.records.estimates import Estimate, Units
from geometry_bench.records.facts import ModelFacts, PromptInputs
from geometry_bench.records.measurement import Environment, Measurement

SUBJECT = ModelFacts(
    id="org/name",
    name="org/name",
    revision="a" * 40,
    origin="hub",
    architecture="LlamaForCausalLM",
    layers=2,
    width=16,
    device="cpu",
    dtype="float32",
    attention="sdpa",
)
INPUTS = PromptInputs(hash="p", pooling="last", site="block_output", template_hash="t", system_policy="native")
ENVIRONMENT = Environment(packages={}, python="3", platform="test", seconds=0.1, peak_memory_bytes=1)
CLAIM: Claim = replace(
    CLAIMS["compassion.tightest_pair"],
    id="family.claim",
    version=1,
    criterion=Above(),
    published_criterion=Above(beyond_null=False),
    reported=None,
    metric="cosine",
    smallest_change=0.05,
)
"""A claim of the sign, in a registry of its own."""


def units(*values: float | None, ids: list[str] | None = None) -> Units:
    return Units(kind="message", ids=ids or [f"m{place}" for place in range(len(values))], values=list(values))


def measured(case: str = "", estimate: Estimate | None = None, value: float | None = 0.5, **fields: Any) -> Measurement:
    """A measurement of :data:`CLAIM`; without an estimate, one of ``value`` alone."""
    found = Estimate(value=value, n=8) if estimate is None else estimate
    known: dict[str, Any] = {
        "claim": CLAIM.id,
        "claim_version": 1,
        "subject": SUBJECT,
        "inputs": INPUTS,
        "estimates": {"corrected": found},
        "environment": ENVIRONMENT,
    }
    return Measurement(case=case, **known | fields)
