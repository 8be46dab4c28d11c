"""Measurements and baselines -> judgements: all statistics of a run in one place, to be done again at any time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from geometry_bench.claims.changes import UntestableError
from geometry_bench.claims.model import Case, Claim
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.geometry.resampling import holm
from geometry_bench.published.load import load_publication
from geometry_bench.published.publication import Publication
from geometry_bench.published.subject import PublishedSubject
from geometry_bench.records.baselines import BaselineStore, Found
from geometry_bench.records.comparability import unlike
from geometry_bench.records.facts import GroupFacts, MemberFacts, ModelFacts, PairFacts, PromptInputs
from geometry_bench.records.judgement import (
    RULER,
    Answer,
    BaselineVerdict,
    ClaimVerdict,
    Compared,
    Fact,
    Judgement,
    PublishedVerdict,
    Reason,
)
from geometry_bench.records.measurement import Baseline, BaselineCase, Measurement, was_asked
from geometry_bench.records.noise import noise_floor

FAMILY_WISE_ERROR = 0.01
"""Chance that a subject none of whose changes matters raises any ``MOVED`` in a whole run."""

SAME_LEVEL = 0.05
"""Chance that a change as large as its margin passes as ``SAME``, a case."""


Margins = Mapping[str, float]
"""Smallest changes that matter, by case or claim, in place of those that claims declare."""

NO_MARGINS: Margins = {}


class Stored(Protocol):
    """One subject's stored values."""

    @property
    def baseline(self) -> Baseline:
        """The values."""

    @property
    def place(self) -> str:
        """Where they are stored, for a sentence."""


class Baselines(Protocol):
    """What measurements are compared with."""

    def of(self, name: str, revision: str, is_joint: bool, settings: str | None = None) -> Stored | None:
        """The stored values of a subject; of several settings those given, where they are stored."""

    def others(self, name: str) -> Sequence[str]:
        """Other revisions of a subject that are stored."""


@dataclass(frozen=True)
class StoredBaselines:
    """Each subject's own baseline file, or for subjects of its kind one of ``against``, another subject's by settings."""

    store: BaselineStore
    against: tuple[Found, ...] = ()
    _read: dict[tuple[str, str, str | None], Found | None] = field(default_factory=dict, repr=False)

    def of(self, name: str, revision: str, is_joint: bool, settings: str | None = None) -> Found | None:
        """The baseline file, each read once."""
        alike = [found for found in self.against if found.baseline.subject.is_joint == is_joint]
        if alike:
            return next((found for found in alike if found.path.stem == settings), alike[0])
        place = name, revision, settings
        if place not in self._read:
            self._read[place] = self.store.find(name, revision, settings)
        return self._read[place]

    def others(self, name: str) -> Sequence[str]:
        """Revisions that have a file."""
        return self.store.revisions(name)


@dataclass(frozen=True)
class Moved:
    """How a case compares with the stored one: an answer, or a change whose answer waits for the other cases of the run."""

    answer: Answer[BaselineVerdict] | None = None
    facts: Mapping[str, Fact] = field(default_factory=dict)
    compared: Compared | None = None
    """None where nothing can be tested: the case does not count among the comparisons then."""

    @property
    def p(self) -> float | None:
        """p of the hypothesis that the change does not matter; None where nothing can be tested."""
        return None if self.compared is None else self.compared.change.p_moved

    def decided(self, adjusted: float | None, comparisons: int) -> Answer[BaselineVerdict]:
        """The answer, given p adjusted for all comparisons of the run."""
        if self.answer is not None:
            return self.answer
        if self.compared is None or adjusted is None:
            return Answer(BaselineVerdict.UNDECIDED, Reason.UNTESTED, self.facts)
        change = self.compared.change
        facts = {
            **self.facts,
            **self.compared.facts,
            "error": change.error,
            "prompts": change.n,
            "p_moved": adjusted,
            "p_same": change.p_same,
            "comparisons": comparisons,
            "level": FAMILY_WISE_ERROR,
        }
        if adjusted <= FAMILY_WISE_ERROR:
            return Answer(BaselineVerdict.MOVED, Reason.BEYOND_MARGIN, facts)
        if change.p_same <= SAME_LEVEL and facts.get("label") == facts.get("old_label"):
            return Answer(BaselineVerdict.SAME, Reason.WITHIN_MARGIN, facts)
        level = FAMILY_WISE_ERROR / max(comparisons, 1) if change.beyond > 0 else SAME_LEVEL
        needed = change.needed(level)
        return Answer(BaselineVerdict.UNDECIDED, Reason.TOO_FEW_PROMPTS, {**facts, "needed": needed})


def judge_run(
    measurements: Iterable[Measurement],
    baselines: Baselines | None = None,
    claims: Mapping[str, Claim] = CLAIMS,
    margins: Margins = NO_MARGINS,
) -> list[Judgement]:
    """Judge all measurements of a run together.

    Changes from baselines are tested prompt by prompt against the margin of each claim, or of ``margins`` by case or claim;
    Holm's procedure holds the family-wise error over all that were tested at 1 %. Without ``baselines`` the third question
    is not asked. Measurements of claims that are not declared any more are left out.
    """
    known = [one for one in measurements if one.claim in claims]
    changes = [_change(one, claims[one.claim], baselines, margins) for one in known]
    tested = [change.p for change in changes if change.p is not None]
    adjusted = iter(holm(tested))
    return [
        _judged(
            one, claims[one.claim], baselines, change, next(adjusted) if change.p is not None else None, len(tested)
        )
        for one, change in zip(known, changes, strict=True)
    ]


def judge_alone(
    measurement: Measurement,
    comparisons: int,
    baselines: Baselines | None,
    claims: Mapping[str, Claim] = CLAIMS,
    margins: Margins = NO_MARGINS,
) -> Judgement:
    """Judge one measurement of a run that goes on, by the first step of Holm's procedure over so many comparisons.

    Holm rejects nothing unless its first step does, so whether anything of a run has moved is the same as by
    ``judge_run``, which can add cases.
    """
    claim = claims[measurement.claim]
    change = _change(measurement, claim, baselines, margins)
    adjusted = None if change.p is None else min(1.0, change.p * max(comparisons, 1))
    return _judged(measurement, claim, baselines, change, adjusted, comparisons)


def _judged(
    one: Measurement,
    claim: Claim,
    baselines: Baselines | None,
    change: Moved,
    adjusted: float | None,
    comparisons: int,
) -> Judgement:
    found, stored = _stored(one, baselines)
    published = one.estimates.get("published")
    source = claim.published_criterion
    return Judgement(
        measurement=one,
        claim=judge_claim(claim, one),
        published=judge_published(claim, one),
        baseline=change.decided(adjusted, comparisons),
        compared=change.compared,
        decides=claim.decides,
        source=source.judge(published, _method(one)).verdict if source is not None and published is not None else None,
        stored_claim=judge_claim(claim, _as_measured(one, found.baseline, stored)).verdict
        if found and stored
        else None,
        stored_note=stored.reason if stored else None,
    )


def _as_measured(one: Measurement, baseline: Baseline, stored: BaselineCase) -> Measurement:
    return one.model_copy(
        update={
            "subject": baseline.subject,
            "claim_version": stored.claim_version,
            "estimates": stored.estimates,
            "missing": stored.missing,
            "inputs": stored.inputs,
        }
    )


def _method(one: Measurement) -> str | None:
    return one.subject.alignment if isinstance(one.subject, ModelFacts) else None


# Does the claim hold?


def judge_claim(claim: Claim, one: Measurement) -> Answer[ClaimVerdict]:
    """The claim's own criterion on the corrected variant."""
    if one.estimate is None:
        sentence = one.missing.sentence if one.missing is not None else "there is no value"
        return Answer(ClaimVerdict.NOT_APPLICABLE, Reason.ABSENT, {"sentence": sentence})
    return claim.criterion.judge(one.estimate, _method(one))


# Does it agree with the published value?


def reported_value(claim: Claim, one: Measurement) -> float | None:
    """The source's value for a measured case; None where it has none.

    Values of a group apply to a group of exactly these members and this reference: a shared direction depends on them all.
    """
    if claim.reported is None:
        return None
    source, subject = load_publication(claim.source.id), one.subject
    if isinstance(subject, PairFacts):
        both = [published_model(source, subject.members[name]) for name in (subject.child, subject.parent)]
        values = [claim.reported(found, Case(one.case)) if found is not None else None for found in both]
        child, parent = values
        return child - parent if child is not None and parent is not None else None
    if isinstance(subject, GroupFacts):
        found = {member: published_model(source, facts) for member, facts in subject.members.items()}
        keys = {member: published.key for member, published in found.items() if published is not None}
        same = [group for group in source.groups.values() if set(group.members) == set(keys.values())]
        if one.case not in keys or len(keys) < len(found) or not same or same[0].reference != keys[subject.reference]:
            return None
        published = found[one.case]
    else:
        published = published_model(source, subject) if isinstance(subject, ModelFacts) else None
    case = next((case for case in claim.cases if case.key == one.case), Case(one.case, (one.case,)))
    return claim.reported(published, case) if published is not None else None


def published_model(source: Publication, subject: ModelFacts | MemberFacts) -> PublishedSubject | None:
    """The published subject that a model is: by Hub id and depth, never by a folder's name, which holds no slash."""
    found = source.find(subject.name) if subject.name is not None and "/" in subject.name else None
    return found if found is not None and found.layers == subject.layers else None


def judge_published(claim: Claim, one: Measurement) -> Answer[PublishedVerdict]:
    """Does the published variant meet the source's value, within the source's resolution?

    With prompts worded differently from the source's only the side of the bounds of the source's criterion is compared, and
    the sentence says so.
    """
    reported, estimate = reported_value(claim, one), one.estimates.get("published")
    if reported is None:
        return Answer(PublishedVerdict.NO_FIGURE, Reason.NONE_PUBLISHED)
    facts: dict[str, Fact] = {"reported": reported, "resolution": claim.source.resolution}
    if estimate is None or estimate.value is None:
        return Answer(PublishedVerdict.NO_FIGURE, Reason.NO_VALUE, facts)
    value = estimate.value
    facts["value"] = value
    if _worded_as_the_source(claim, one):
        met, reason = abs(value - reported) <= claim.source.resolution, Reason.COMPARED
    else:
        bounds = (claim.published_criterion or claim.criterion).bounds
        facts["compared"] = _sides(bounds)
        if any(abs(reported - bound) <= claim.source.resolution for bound in bounds):
            return Answer(PublishedVerdict.NO_FIGURE, Reason.PUBLISHED_AT_BOUND, facts)
        met = sum(value > bound for bound in bounds) == sum(reported > bound for bound in bounds)
        reason = Reason.SIDES_COMPARED
    return Answer(PublishedVerdict.REPRODUCED if met else PublishedVerdict.DIFFERS, reason, facts)


def _worded_as_the_source(claim: Claim, one: Measurement) -> bool:
    """Whether the prompts are the source's own, by the digests of the texts: only then are values compared as numbers."""
    published = load_publication(claim.source.id).protocol.get("wording", {})
    ours = one.inputs.wording if isinstance(one.inputs, PromptInputs) else {}
    return bool(ours) and all(published.get(name) == digest for name, digest in ours.items())


def _sides(bounds: Sequence[float]) -> str:
    if len(bounds) > 1:
        return f"place in {bounds[0]:g} to {bounds[1]:g}"
    return "sign" if bounds == (0.0,) else f"side of {bounds[0]:g}"


# Has it moved?


def _stored(one: Measurement, baselines: Baselines | None) -> tuple[Stored | None, BaselineCase | None]:
    subject = one.subject
    if baselines is None:
        return None, None
    found = baselines.of(subject.name, subject.revision, subject.is_joint, subject.settings)
    return found, found.baseline.cases.get(one.key) if found is not None else None


def testable(key: str, found: Stored | None) -> bool:
    """Whether a baseline holds what a paired test of a case needs, so that the case counts among the comparisons."""
    case = found.baseline.cases.get(key) if found is not None else None
    estimate = case.estimate if case is not None else None
    return estimate is not None and estimate.value is not None and estimate.units is not None


def _change(one: Measurement, claim: Claim, baselines: Baselines | None, margins: Margins) -> Moved:
    found, stored = _stored(one, baselines)
    if found is None or stored is None:
        return Moved(
            Answer(BaselineVerdict.NO_BASELINE, Reason.NONE_STORED, {"sentence": _absent(one, baselines, found)})
        )
    if not (was_asked(one.missing) and was_asked(stored.missing)):
        return Moved(Answer(BaselineVerdict.NO_BASELINE, Reason.NONE_STORED, {"sentence": "it was not asked for"}))
    refused = _incomparable(one, claim, stored, found.baseline)
    if refused is not None:
        return Moved(refused)
    new, old, of_values = one.estimate, stored.estimate, claim.comparison.of_values
    # A comparison of what estimates keep asks for no value of the new one: it may be undefined because so much was lost.
    here = new is not None and (new.value is not None or not of_values)
    there = old is not None and old.value is not None
    if not here or not there or new is None or old is None:
        if (new is None or new.value is None) and not there:
            return Moved(Answer(BaselineVerdict.SAME, Reason.UNDEFINED_IN_BOTH))
        return Moved(Answer(BaselineVerdict.UNDECIDED, Reason.UNDEFINED_IN_ONE))
    margin = margins.get(one.key, margins.get(one.claim, claim.smallest_change))
    facts: dict[str, Fact] = {"value": new.value, "old": old.value}
    if new.value is not None and old.value is not None:
        facts["difference"] = new.value - old.value
    facts |= {"margin": margin, **_ruler(found.baseline, claim)}
    compared: Compared | None
    try:
        compared = claim.comparison.between(new, old, margin)
    except UntestableError as reason:
        compared, facts["sentence"] = None, str(reason)
    if of_values and new.value is not None and old.value is not None:
        facts |= {"label": new.label, "old_label": old.label}
        # A floor measured as 0 would make a rounding error a change.
        spacing = 64 * float(np.spacing(max(abs(new.value), abs(old.value))))
        facts["floor"] = floor = max(noise_floor(claim.metric, one.subject.dtype), spacing)
        if abs(new.value - old.value) <= floor and new.label == old.label:
            return Moved(Answer(BaselineVerdict.SAME, Reason.WITHIN_NOISE, facts), compared=compared)
    return Moved(facts=facts, compared=compared)


def _ruler(baseline: Baseline, claim: Claim) -> dict[str, Fact]:
    """How far the baseline's own copies lie from it, as ``ruler COPY``, where that was measured."""
    case = baseline.cases.get(claim.ruler) if claim.ruler is not None else None
    estimate = case.estimate if case is not None else None
    return {f"{RULER} {copy}": value for copy, value in estimate.details.items()} if estimate is not None else {}


def _absent(one: Measurement, baselines: Baselines | None, found: Stored | None) -> str:
    if baselines is None:
        return "no baselines were given"
    if found is not None:
        return f"the baseline {found.place} has no such case"
    others = baselines.others(one.subject.name)
    hint = f"; other revisions are ({', '.join(others)}): compare with --against" if others else ""
    return f"no baseline is stored for this revision of {one.subject.id}{hint}"


_VERDICTS = {"version": BaselineVerdict.STALE, "inputs": BaselineVerdict.STALE, "setting": BaselineVerdict.INCOMPARABLE}


def _incomparable(
    one: Measurement, claim: Claim, stored: BaselineCase, baseline: Baseline
) -> Answer[BaselineVerdict] | None:
    found = unlike(one, _as_measured(one, baseline, stored), claim.across)
    if found is None:
        return None
    facts = {"sentence": found.sentence, "name": found.name, "new": found.new, "old": found.old}
    return Answer(_VERDICTS[found.kind], Reason.UNLIKE, facts)
