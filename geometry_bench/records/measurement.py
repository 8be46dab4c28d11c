"""One measured case. It never changes, and holds no verdict."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from pydantic import Field

from geometry_bench.records.estimates import Estimate, Frozen, Variant
from geometry_bench.records.facts import Facts, Inputs

SCHEMA = 2
"""Version of measurements and baselines. Older ones are migrated when read, newer ones refused."""


class Absence(StrEnum):
    """Why there is no value."""

    NO_SYSTEM_ROLE = "no system role"
    SAME_PROMPT = "same prompt"
    TOO_FEW_BLOCKS = "too few blocks"
    TOO_FEW_PROMPTS = "too few prompts"
    TOO_FEW_TOPICS = "too few topics"
    TOO_FEW_SUBJECTS = "too few subjects"
    NO_MEMBER = "no such member"
    NO_MATRIX = "no matrix"
    NO_TWIN = "no untrained twin"
    ALIGNED_ALIKE = "aligned alike"
    NOTHING_AGREES = "nothing agrees"
    UNPAIRED_SETS = "unpaired sets"
    NO_OPENINGS = "no openings"
    NO_REFUSALS = "no refusals"
    NOT_ASKED = "not asked for"
    UNCHECKABLE = "answers cannot be checked"
    UNDEFINED = "undefined"
    UNSAID = "unsaid"
    """Records of schema 1 gave a sentence alone."""


class Missing(Frozen):
    """The reason why there is no value, its numbers, and the sentence that says the way out."""

    reason: Absence
    sentence: str
    numbers: dict[str, float] = Field(default_factory=dict)


def was_asked(missing: Missing | None) -> bool:
    """Whether a run was asked to measure a case, or only would be with another option."""
    return missing is None or missing.reason is not Absence.NOT_ASKED


class NotApplicableError(Exception):
    """Raised by a measurement that cannot be made on this subject."""

    def __init__(self, reason: Absence, sentence: str, **numbers: float) -> None:
        super().__init__(sentence)
        self.missing = Missing(reason=reason, sentence=sentence, numbers=numbers)


class Environment(Frozen):
    """Where and with what a value was measured; the one part that differs between two equal measurements."""

    packages: dict[str, str]
    python: str
    platform: str
    git_commit: str | None = None
    git_dirty: bool | None = None
    seed: int | None = None
    seconds: float
    peak_memory_bytes: int


class Measurement(Frozen):
    """One case of one claim on one subject."""

    schema_version: int = SCHEMA
    claim: str
    claim_version: int
    case: str
    subject: Facts
    inputs: Inputs | None
    estimates: dict[Variant, Estimate]
    missing: Missing | None = None
    environment: Environment

    @property
    def key(self) -> str:
        """``claim[case]``, or the claim alone where it has one case only."""
        return case_key(self.claim, self.case)

    @property
    def whose(self) -> tuple[str, str, str]:
        """Id, revision and settings of the subject: measurements that share them stand side by side."""
        return self.subject.id, self.subject.revision, self.subject.settings

    @property
    def estimate(self) -> Estimate | None:
        """The variant on which verdicts are taken: corrected where there is one."""
        return main_estimate(self.estimates)

    def content(self) -> dict[str, Any]:
        """All but the environment: what two runs of the same plan agree on."""
        return self.model_dump(exclude={"environment"})


class BaselineCase(Frozen):
    """What a baseline file keeps of one case: the measurement without its subject, and why it was stored."""

    claim_version: int
    inputs: Inputs | None
    estimates: dict[Variant, Estimate]
    missing: Missing | None = None
    environment: Environment
    reason: str

    @classmethod
    def of(cls, measurement: Measurement, reason: str) -> BaselineCase:
        """What is kept of a measurement, and why."""
        kept = {name: getattr(measurement, name) for name in cls.model_fields if name != "reason"}
        return cls(**kept, reason=reason)

    @property
    def estimate(self) -> Estimate | None:
        """The variant on which verdicts are taken."""
        return main_estimate(self.estimates)


class Baseline(Frozen):
    """One subject's stored values under one setting of dtype and attention kernel."""

    schema_version: int = SCHEMA
    subject: Facts
    cases: dict[str, BaselineCase]

    @classmethod
    def of(cls, measurements: Sequence[Measurement], reason: str) -> Baseline:
        """A subject's measurements as a baseline."""
        return cls(
            subject=measurements[0].subject, cases={one.key: BaselineCase.of(one, reason) for one in measurements}
        )

    def measurements(self) -> list[Measurement]:
        """The stored cases as measurements."""
        return [
            Measurement(
                claim=key.partition("[")[0],
                case=key.partition("[")[2].removesuffix("]"),
                subject=self.subject,
                **{name: getattr(case, name) for name in BaselineCase.model_fields if name != "reason"},
            )
            for key, case in self.cases.items()
        ]


def main_estimate(estimates: dict[Variant, Estimate]) -> Estimate | None:
    """Corrected where there is one, else published."""
    return estimates.get("corrected") or estimates.get("published")


def case_key(claim: str, case: str) -> str:
    """The one spelling of a case: ``compassion.cross_tradition_cosine[chenrezig-tara]``."""
    return f"{claim}[{case}]" if case else claim
