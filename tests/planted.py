"""What tests of claims share: a claim measured through a lab, planted or real; its verdict; a measurement made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geometry_bench.claims.model import Case
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.labs.model import CaptureSettings, Lab
from geometry_bench.labs.requirements import Wanted
from geometry_bench.prompts.pack import load_pack
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.records.environment import environment
from geometry_bench.records.estimates import Estimate, Variant
from geometry_bench.records.facts import ModelFacts, PromptInputs
from geometry_bench.records.judgement import ClaimVerdict
from geometry_bench.records.measurement import Measurement
from geometry_bench.subjects.spec import SubjectSpec, resolve

NOT_SHOWN = CaptureSettings(progress=False)
WANTED = Wanted.by(claim.requires for claim in CLAIMS.values())


def measure(claim: str, lab: Any, case: str = "", variant: Variant = "corrected") -> Estimate:
    """One variant of a case: one that the claim declares, or that of a group's member."""
    declared = CLAIMS[claim]
    chosen = next((one for one in declared.cases if one.key == case), Case(case, (case,)))
    return declared.measure(lab, chosen)[variant]


def verdict(claim: str, estimate: Estimate) -> ClaimVerdict:
    """Whether the claim holds by its own criterion."""
    return CLAIMS[claim].criterion.judge(estimate).verdict


def lab_of(model: Path | str, count: int = 60, **more: Any) -> Lab:
    """The lab of a model with so many requests of each class; ``more`` goes to ``CaptureSettings``."""
    spec, capture = SubjectSpec(str(model)), CaptureSettings(progress=False, **more)
    return Lab(spec, resolve(spec), load_pack(), capture, requests=RequestSettings(count), wanted=WANTED)


def made_up(
    claim: str, value: float, name: str = "org/model", case: str = "", layers: int = 2, **more: Any
) -> Measurement:
    """A value in both variants on a model of some name and depth; ``more`` goes to the estimate."""
    estimate = Estimate(value=value, n=20, **more)
    return Measurement(
        claim=claim,
        claim_version=1,
        case=case,
        subject=ModelFacts(
            id=name, name=name, revision="r1", origin="hub", architecture="A", layers=layers, width=4, device="cpu"
        ),
        inputs=PromptInputs(hash="h", pack="small", pooling="mean", site="block_output"),
        estimates={"published": estimate, "corrected": estimate},
        environment=environment(0.0, 0),
    )
