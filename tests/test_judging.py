"""The three answers to a measurement, row by row, and the error that a whole run may make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import CLAIM, INPUTS, SUBJECT, measured, units

from geometry_bench import judging
from geometry_bench.claims.criteria import Above, Below, Criterion, SignByAlignment, Within
from geometry_bench.claims.model import Claim
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.geometry.resampling import holm
from geometry_bench.judging import FAMILY_WISE_ERROR, judge_alone, judge_claim, judge_published, judge_run
from geometry_bench.published.load import load_publication
from geometry_bench.records.estimates import Estimate, Null
from geometry_bench.records.held import Held
from geometry_bench.records.judgement import BaselineVerdict, Judgement, Reason
from geometry_bench.records.measurement import Absence, Measurement, Missing

NULL = Null(name="unrelated prompts", draws=100, mean=0.3, sd=0.1, low=0.1, high=0.5, percentile=99)


@pytest.fixture(autouse=True)
def _noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A numerical noise of these tests' own: what is measured of it in the repository may change."""
    monkeypatch.setattr(judging, "noise_floor", lambda metric, dtype: 1e-5)


def estimate(value: float | None, half: float | None = None, **fields: Any) -> Estimate:
    low, high = (None, None) if half is None or value is None else (value - half, value + half)
    return Estimate(value=value, low=low, high=high, n=8, **fields)


# Does the claim hold?


@pytest.mark.parametrize(
    ("criterion", "found", "verdict", "words"),
    [
        (Above(), estimate(0.9, 0.05, null=NULL), "HOLDS", "beyond its null +0.300 ± 0.100 (unrelated prompts), perc"),
        (Above(), estimate(0.9, 0.05), "HOLDS", "+0.900 [+0.850, +0.950] is > 0"),
        (Above(), estimate(0.9), "HOLDS", "+0.900 is > 0"),
        (Above(), estimate(-0.4, 0.1, null=NULL), "FAILS", "is not > 0"),
        (Below(), estimate(0.4, 0.1), "FAILS", "is not < 0"),
        (Above(), estimate(0.0), "FAILS", "is not > 0"),
        (Above(), estimate(0.05, 0.1, null=NULL), "INCONCLUSIVE", "straddles the criterion > 0"),
        (Above(0.9), estimate(0.85, 0.1), "INCONCLUSIVE", "straddles the criterion > 0.9"),
        (Above(), estimate(0.4, 0.1, null=NULL), "INCONCLUSIVE", "lies inside its null"),
        (Above(), estimate(0.5, 0.1, null=NULL), "INCONCLUSIVE", "lies inside its null"),
        (Above(), estimate(0.05, 0.01, null=NULL), "INCONCLUSIVE", "but lies below its null +0.300"),
        (Below(0.9), estimate(0.8, 0.01, null=NULL), "INCONCLUSIVE", "but lies above its null +0.300"),
        (Above(beyond_null=False), estimate(0.4, 0.1, null=NULL), "HOLDS", "is > 0"),
        (Below(), estimate(-0.2, 0.1, null=NULL), "HOLDS", "is < 0 and beyond"),
        (Below(0.6), estimate(0.2, 0.1, null=NULL), "INCONCLUSIVE", "lies inside its null"),
        (Within(0.6, 0.8), estimate(0.7, 0.1, null=NULL), "HOLDS", "is from 0.6 to 0.8"),
        (Within(0.7, 0.9), estimate(7 / 10), "HOLDS", "is from 0.7 to 0.9"),
        (Within(0.6, 0.8), estimate(0.7, 0.2), "INCONCLUSIVE", "straddles the criterion from 0.6 to 0.8"),
        (Within(0.6, 0.8), estimate(0.9, 0.05), "FAILS", "is not from 0.6 to 0.8"),
        (Within(0.0, 0.6), estimate(0.4, 0.1, null=NULL), "INCONCLUSIVE", "from 0 to 0.6, but so is its null"),
        *(
            (criterion, estimate(None, notes=["the axis is zero"]), "NOT_APPLICABLE", "undefined: the axis is zero")
            for criterion in (Above(), Below(), Within(0, 1), SignByAlignment())
        ),
    ],
)
def test_a_claim_by_value_interval_and_null(criterion: Criterion, found: Estimate, verdict: str, words: str) -> None:
    answer = judge_claim(replace(CLAIM, criterion=criterion), measured(estimate=found))
    assert answer.verdict == verdict
    assert words in answer.sentence


def test_a_claim_without_a_value_says_why() -> None:
    absent = Missing(reason=Absence.TOO_FEW_BLOCKS, sentence="2 blocks are too few", numbers={"blocks": 2})
    answer = judge_claim(CLAIM, measured(estimates={}, missing=absent))
    assert (answer.verdict, answer.reason, answer.sentence) == ("NOT_APPLICABLE", Reason.ABSENT, absent.sentence)


METHODS = {
    "DPO": "HOLDS",
    "SFT + RLHF": "HOLDS",
    "SFT": "FAILS",
    "distilled": "FAILS",
    "undisclosed": "NOT_APPLICABLE",
    None: "NOT_APPLICABLE",
}


@pytest.mark.parametrize("method", METHODS)
def test_the_sign_that_follows_the_alignment_method(method: str | None) -> None:
    subject = SUBJECT.model_copy(update={"alignment": method})
    claim = replace(CLAIM, criterion=SignByAlignment())
    answer = judge_claim(claim, measured(estimate=estimate(-0.4, 0.1), subject=subject))
    assert answer.verdict == METHODS[method]
    assert ("--alignment" in answer.sentence) == (answer.verdict == "NOT_APPLICABLE")


# Does it agree with the published value?

PUBLISHED = SUBJECT.model_copy(update={"name": "google/gemma-2-9b-it", "layers": 42})


WORDING = load_publication("safety_compassion").protocol["wording"]["suffering"]


def judged_published(value: float | None, reported: float | None, wording: str = "", **fields: Any) -> Any:
    claim = replace(CLAIM, reported=lambda subject, case: reported, **fields)
    inputs = INPUTS.model_copy(update={"pack": "safety_compassion_source", "wording": {"suffering": wording}})
    return judge_published(claim, measured(estimates={"published": estimate(value)}, inputs=inputs, subject=PUBLISHED))


@pytest.mark.parametrize(
    ("value", "reported", "same_wording", "bound", "verdict"),
    [
        (0.905, 0.91, True, 0, "REPRODUCED"),
        (0.93, 0.91, True, 0, "DIFFERS"),
        (0.009, 0.0, True, 0, "REPRODUCED"),
        (0.2, 0.91, False, 0, "REPRODUCED"),
        (-0.2, 0.91, False, 0, "DIFFERS"),
        (-0.2, -0.3, False, 0, "REPRODUCED"),
        (0.2, 0.005, False, 0, "NO_FIGURE"),
        (0.60, 0.19, False, 0.5, "DIFFERS"),  # of one sign, and on two sides of what the source asks for
        (0.60, 0.72, False, 0.5, "REPRODUCED"),
        (0.9, None, True, 0, "NO_FIGURE"),
        (None, 0.9, True, 0, "NO_FIGURE"),
    ],
)
def test_agreement_with_a_reported_value(
    value: float | None, reported: float | None, same_wording: bool, bound: float, verdict: str
) -> None:
    wording = WORDING if same_wording else "of a pack that calls itself the source's"
    answer = judged_published(value, reported, wording, published_criterion=Above(bound), criterion=Above(-9))
    assert answer.verdict == verdict
    if value is not None and reported is not None and not same_wording:
        assert ("side of 0.5" if bound else "sign") in answer.sentence  # that only sides were compared is said


def test_within_has_three_sides_and_a_claim_without_a_source_criterion_uses_its_own() -> None:
    within: dict[str, Any] = {"published_criterion": None, "criterion": Within(0.2, 0.6)}
    assert judged_published(0.3, 0.5, **within).verdict == "REPRODUCED"
    assert judged_published(0.1, 0.9, **within).verdict == "DIFFERS"
    assert "place in 0.2 to 0.6" in judged_published(0.1, 0.9, **within).sentence


@pytest.mark.parametrize("change", [{"layers": 2}, {"name": "gemma-2-9b-it"}, {"name": "org/name"}])
def test_a_published_subject_is_known_by_hub_id_and_depth_alone(change: dict[str, Any]) -> None:
    one = measured(estimates={"published": estimate(0.5)}, subject=PUBLISHED.model_copy(update=change))
    assert judge_published(replace(CLAIM, reported=lambda *_: 0.5), one).reason is Reason.NONE_PUBLISHED


# Has it moved?


def against(old: Sequence[Measurement]) -> Held:
    return Held.holding(old)


def judged(new: Sequence[Measurement], old: Sequence[Measurement], claim: Claim = CLAIM) -> list[Judgement]:
    return judge_run(new, against(old), {claim.id: claim})


def moved_from(old: Estimate | None, new: Estimate | None, **changes: Any) -> Judgement:
    def one(found: Estimate | None, **fields: Any) -> Measurement:
        return measured(estimates={} if found is None else {"corrected": found}, **fields)

    (found,) = judged([one(new, **changes)], [one(old)])
    return found


STEPS = np.array([-3, -2, -1, 0, 0, 1, 2, 3]) / 1000
BASE = estimate(0.5, units=units(*0.5 + STEPS))


def moved(by: float, spread: float, label: str | None = None, ids: list[str] | None = None) -> Estimate:
    """BASE moved; the leave-one-out values of the difference are ``spread`` times those of BASE."""
    return estimate(0.5 + by, units=units(*0.5 + by + STEPS * (1 + spread), ids=ids), label=label)


@pytest.mark.parametrize(
    ("new", "verdict", "reason"),
    [
        (moved(0, 0), "SAME", Reason.WITHIN_NOISE),
        (moved(9e-6, 0), "SAME", Reason.WITHIN_NOISE),
        (moved(0.02, 0.001), "SAME", Reason.WITHIN_MARGIN),
        (moved(0.02, 4), "UNDECIDED", Reason.TOO_FEW_PROMPTS),
        (moved(0.2, 100), "UNDECIDED", Reason.TOO_FEW_PROMPTS),
        (moved(0.2, 0.5), "MOVED", Reason.BEYOND_MARGIN),
        (moved(-0.2, 0.5), "MOVED", Reason.BEYOND_MARGIN),
        (estimate(0.7), "UNDECIDED", Reason.UNTESTED),
        (moved(0, 0, label="agape-rahma"), "UNDECIDED", Reason.TOO_FEW_PROMPTS),
    ],
)
def test_a_value_beside_its_baseline(new: Estimate, verdict: str, reason: Reason) -> None:
    answer = moved_from(BASE, new).baseline
    assert (answer.verdict, answer.reason, answer.number("old")) == (verdict, reason, 0.5)
    assert f"+0.5000 -> {new.value:+.4f}, difference" in answer.sentence
    if reason is not Reason.WITHIN_NOISE:
        assert "smallest change of interest 0.05" in answer.sentence
    assert ("± ?" in answer.sentence) == (new.units is None)
    assert ("; was None, is agape-rahma" in answer.sentence) == (new.label is not None)


def test_units_are_paired_by_their_ids_and_by_their_place_where_they_have_none() -> None:
    """Of other units, nothing can be tested: the case does not count, and has not MOVED however far it lies."""
    ids = [f"m{place}" for place in range(8)]
    unnamed = BASE.model_copy(update={"units": BASE.units and BASE.units.model_copy(update={"ids": None})})
    assert moved_from(BASE, moved(0.2, 0.5, ids=ids)).baseline.verdict == "MOVED"
    assert moved_from(unnamed, moved(0.2, 0.5, ids=[f"x{place}" for place in range(8)])).baseline.verdict == "MOVED"
    for other in (ids[::-1], [*ids[:7], "m8"]):
        answer = moved_from(BASE, moved(0.2, 0.5, ids=other)).baseline
        assert (answer.verdict, answer.number("p_moved"), answer.reason) == ("UNDECIDED", None, Reason.UNTESTED)
    undefined = estimate(0.7, units=units(*([0.7] * 7), None))
    assert moved_from(BASE, undefined).baseline.number("p_moved") is None


def test_holm_over_a_run_and_its_first_step_while_it_goes_on() -> None:
    """Holm's adjustment by hand over four paired cases; one that cannot be paired does not count."""
    news = [moved(0.2, spread) for spread in (0.5, 3, 12, 100)]
    old = [measured(str(place), BASE) for place in range(5)]
    new = [*(measured(str(place), one) for place, one in enumerate(news)), measured("4", estimate(0.7))]
    alone = [moved_from(BASE, one).baseline.number("p_moved") for one in news]
    found = judged(new, old)
    assert [one.baseline.number("p_moved") for one in found[:4]] == pytest.approx(
        holm([p for p in alone if p is not None])
    )
    assert {one.baseline.number("comparisons") for one in found[:4]} == {4}
    assert found[4].baseline.number("p_moved") is None
    assert [one.baseline.verdict for one in found] == ["MOVED", "MOVED", "UNDECIDED", "UNDECIDED", "UNDECIDED"]
    for one, p in zip(new, alone, strict=False):
        first = judge_alone(one, 4, against(old), {CLAIM.id: CLAIM}).baseline
        assert first.number("p_moved") == pytest.approx(min(1.0, 4 * (p or 0)))


CHANGES = [
    ({"claim_version": 2}, "STALE", "the claim is now version 2, the baseline of version 1"),
    ({"inputs": INPUTS.model_copy(update={"hash": "q"})}, "STALE", "the inputs are not those"),
    *(
        ({"inputs": INPUTS.model_copy(update={name: "x"})}, "INCOMPARABLE", f"{words} is x here, ")
        for name, words in (
            ("template_hash", "the chat template"),
            ("system_policy", "where system prompts go"),
            ("pooling", "pooling"),
            ("site", "site"),
            ("tokens_hash", "what the tokenizer and the template make of the prompts"),
        )
    ),
    *(
        ({"subject": SUBJECT.model_copy(update={name: "x"})}, "INCOMPARABLE", f"{name} is x here, ")
        for name in ("dtype", "attention", "quantisation")
    ),
]


@pytest.mark.parametrize(("change", "verdict", "words"), CHANGES)
def test_what_makes_values_incomparable(change: dict[str, Any], verdict: str, words: str) -> None:
    answer = moved_from(BASE, BASE, **change).baseline
    assert answer.verdict == verdict
    assert answer.sentence.startswith(words)
    assert answer.reason is Reason.UNLIKE


def test_values_that_are_undefined_on_one_side_only() -> None:
    for undefined in (estimate(None), None):
        assert moved_from(undefined, undefined).baseline.reason is Reason.UNDEFINED_IN_BOTH
        for old, new in ((BASE, undefined), (undefined, BASE)):
            answer = moved_from(old, new).baseline
            assert (answer.verdict, answer.reason) == (BaselineVerdict.UNDECIDED, Reason.UNDEFINED_IN_ONE)


def test_without_a_stored_value_the_sentence_says_what_there_is() -> None:
    def absent(old: list[Measurement]) -> str:
        (found,) = judged([measured("a")], old)
        assert found.baseline.verdict == "NO_BASELINE"
        return found.baseline.sentence

    assert absent([]) == "no baseline is stored for this revision of org/name"
    assert absent([measured("b")]) == "the baseline of org/name has no such case"
    others = [measured("a", subject=SUBJECT.model_copy(update={"revision": one})) for one in ("r1", "r2")]
    assert absent(others).endswith("; other revisions are (r1, r2): compare with --against")
    assert judge_run([measured()], None, {CLAIM.id: CLAIM})[0].baseline.sentence == "no baselines were given"
    assert judge_run([measured()]) == []  # a claim that is not declared any more


def test_a_verdict_that_flips_is_judged_on_the_stored_value() -> None:
    found = moved_from(estimate(0.02), estimate(-0.02))
    assert (found.claim.verdict, found.stored_claim, found.flipped) == ("FAILS", "HOLDS", True)
    assert found.stored_note == "compared with org/name"
    assert not moved_from(estimate(0.02), estimate(-0.02), claim_version=2).flipped
    assert not moved_from(estimate(0.02), estimate(0.01)).flipped


def test_the_stored_sign_is_judged_by_the_method_that_was_declared_then() -> None:
    claim = replace(CLAIM, criterion=SignByAlignment())
    now, then = (measured(subject=SUBJECT.model_copy(update={"alignment": one})) for one in ("SFT", "DPO"))
    (found,) = judged([now], [then], claim)
    assert (found.claim.verdict, found.stored_claim, found.flipped) == ("HOLDS", "FAILS", True)


LEFT_OUT = st.lists(st.floats(-1, 1), min_size=2, max_size=12)


@given(LEFT_OUT, st.floats(-1, 1), st.floats(-0.04, 0.04))
def test_what_stays_or_moves_less_than_matters_is_the_same(left_out: list[float], value: float, by: float) -> None:
    old = estimate(value, units=units(*left_out))
    new = estimate(value + by, units=units(*(x + by for x in left_out)))
    assert moved_from(old, old).baseline.verdict == "SAME"
    assert moved_from(old, new).baseline.verdict in ("SAME", "UNDECIDED")


def test_an_unmoved_subject_raises_an_alarm_in_one_run_of_a_hundred_at_most() -> None:
    """Means over 8 prompts, measured twice with independent noise: the family-wise error over the cases of a run."""
    generator, runs, cases, prompts = np.random.default_rng(0), 1000, 8, 8
    claim, alarms = replace(CLAIM, smallest_change=0.0), 0
    for _ in range(runs):
        old, new = (
            [measured(str(case), mean_of(generator.normal(0.5, 1, prompts))) for case in range(cases)] for _ in range(2)
        )
        alarms += any(one.baseline.verdict == "MOVED" for one in judged(new, old, claim))
    spread = np.sqrt(FAMILY_WISE_ERROR * (1 - FAMILY_WISE_ERROR) / runs)
    assert 0 < alarms / runs <= FAMILY_WISE_ERROR + 3 * spread  # above 0, or the bound would not be used


def mean_of(x: np.ndarray) -> Estimate:
    return estimate(float(x.mean()), units=units(*((x.sum() - x) / (len(x) - 1)).tolist()))


def test_every_declared_claim_has_a_numerical_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for claim in CLAIMS.values():
        assert judging.noise_floor(claim.metric, "float32") >= 0
        assert claim.published_criterion is None or claim.published_criterion.bounds
