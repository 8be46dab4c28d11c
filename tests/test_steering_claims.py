"""Claims on what steering does to answers: planted truth, and zoo members that refuse, from end to end."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made import units
from planted import NOT_SHOWN, lab_of, measure, verdict
from scipy import stats

from geometry_bench.behavior.store import Answer
from geometry_bench.claims import steered
from geometry_bench.claims.changes import RateChange
from geometry_bench.claims.magnitude_variance import steering
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.claims.safety_compassion import capping
from geometry_bench.claims.universal_direction import drift
from geometry_bench.geometry.rates import change_interval, least_error, share_interval
from geometry_bench.geometry.resampling import Interval, jackknife_error
from geometry_bench.labs import answering
from geometry_bench.labs.memo import Memo
from geometry_bench.labs.requirements import MEAN_LAST_FIVE
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.records.estimates import Estimate
from geometry_bench.records.judgement import ClaimVerdict, Compared
from geometry_bench.records.measurement import Absence, Measurement
from geometry_bench.run.execute import Session, execute
from geometry_bench.run.plan import plan
from geometry_bench.run.request import Request, Settings, chosen_claims
from geometry_bench.subjects.families import load_family
from geometry_bench.subjects.spec import SubjectSpec


def measured(model: str, claim: str, *cases: str, count: int = 24, asked: bool = True) -> dict[str, Measurement]:
    """Some cases of a claim, or all, on a zoo member with the zoo's own prompts."""
    options: frozenset[Any] = frozenset({"answers"} if asked else ())
    settings = Settings(asked=options, requests=RequestSettings(count), capture=NOT_SHOWN)
    chosen = {
        id: replace(one, cases=tuple(case for case in one.cases if not cases or case.key in cases))
        for id, one in chosen_claims((claim,)).items()
    }
    request = Request(specs=(SubjectSpec(model),), claims=chosen, settings=settings)
    found = [one for one in execute(Session(plan(request))) if isinstance(one, Measurement)]
    return {one.case: one for one in found}


# Steering


def test_one_direction_takes_refusals_away_and_brings_them_and_random_ones_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steered, "RANDOM", 3)
    monkeypatch.setattr(answering, "SUMS_ASKED", 60)
    monkeypatch.setattr(steering, "SWEPT", (1 / 6, 2 / 3, 5 / 6))
    found = measured("zoo/llama-d80/aligned", "steering.refusal_vector")
    for case, before in (("ablate", 1.0), ("add", 0.0)):
        one = found[case].estimate
        assert one is not None
        assert one.value is not None
        assert one.value >= 0.4
        assert one.details["before"] == pytest.approx(before, abs=0.15)
        assert one.details["after"] == pytest.approx(one.details["before"] + one.value * (1 if case == "add" else -1))
        assert one.null is not None
        assert (one.null.draws, one.null.mean) == (3, pytest.approx(0, abs=0.15))
        assert one.details["after_random"] == pytest.approx(before, abs=0.15)
        assert verdict("steering.refusal_vector", one) is ClaimVerdict.HOLDS
        refused = one.curves["refused"]
        assert refused.x == sorted(refused.x)
        assert refused.y[0] == one.details["before"]
        d = one.details
        assert (d["sums_asked"], d["sums_right"]) == (60, pytest.approx(0.58, abs=0.15))  # of 200
        assert d["sums_right_low"] < d["sums_right"] < d["sums_right_high"]
        assert d["sums_lost_low"] < d["sums_lost"] < d["sums_lost_high"]
        assert -1 <= d["sums_lost_by_random"] <= d["sums_right"]
        tried = one.curves["effect_in_the_fitted_half"]
        assert tried.y[tried.x.index(one.block)] == max(tried.y)


def test_a_model_that_refuses_nothing_or_was_not_asked_has_no_value() -> None:
    found = measured("zoo/llama-d80/aligned-harmful", "steering.refusal_vector", "ablate")["ablate"]
    assert found.missing is not None
    assert found.missing.reason is Absence.NO_REFUSALS
    assert "nothing to lower" in found.missing.sentence
    (left,) = measured("zoo/llama-d64/aligned", "steering.refusal_vector", "add", asked=False).values()
    assert left.missing is not None
    assert left.missing.reason is Absence.NOT_ASKED
    generating = {"capping.refusal", "steering.refusal_vector"} | {
        f"universal.{name}" for name in ("generation_drift", "intervention", "routing")
    }
    assert {id for id in generating if CLAIMS[id].asked_by == "answers"} == generating


def test_requests_of_a_half_fit_the_direction_and_the_others_test_it() -> None:
    lab = lab_of("zoo/llama-d64/aligned", count=12)
    both, found = steered.halves(lab), steered.directions(lab, MEAN_LAST_FIVE)
    assert not {both.topics[row] for row in np.flatnonzero(both.fitted)} & {
        both.topics[row] for row in np.flatnonzero(~both.fitted)
    }
    states = [
        lab.requests(name, rendering="chat", poolings=(MEAN_LAST_FIVE,)).states[MEAN_LAST_FIVE]
        for name in steered.CLASSES
    ]
    safe, harmful = (np.float64(s)[both.fitted[both.labels == k]].mean(axis=0) for k, s in enumerate(states))
    assert found.apart == pytest.approx(harmful - safe, abs=1e-5)
    assert found.middle == pytest.approx((harmful + safe) / 2, abs=1e-5)
    random = steered.random_directions(found.apart[3], 40)
    assert [np.linalg.norm(one) for one in random] == pytest.approx([np.linalg.norm(found.apart[3])] * 40)
    assert np.corrcoef(random)[np.triu_indices(40, 1)].mean() == pytest.approx(0, abs=0.02)


# Intervals of shares and of changes


def test_an_interval_of_a_share_covers_and_is_never_empty() -> None:
    for n, true in product((12, 60), (0.02, 0.1, 0.5, 0.97)):
        intervals = [share_interval([True] * hits + [False] * (n - hits)) for hits in range(n + 1)]
        chances = stats.binom.pmf(range(n + 1), n, true)
        assert sum(p for p, one in zip(chances, intervals, strict=True) if one.low <= true <= one.high) >= 0.9
        assert all(0 <= one.low < one.high <= 1 and one.error > 0 for one in intervals)
    topics = Interval(0.5, -0.2, 0.9)
    assert share_interval([True] * 9 + [False], topics=topics).low == 0
    assert share_interval([True] * 9 + [False], topics=topics).error == 0.5


def test_a_share_that_has_not_changed_may_have_changed_unseen() -> None:
    """0 of 60 requests rule 10 points out, 0 of 8 do not; one that has changed keeps the error of its own."""

    def compared(requests: int, changed: float = 0.0) -> Compared:
        old = Estimate(value=1.0, n=8, units=units(*[1.0] * 8), details={"requests": requests})
        left_out = [1.0 - changed, *[1.0] * 7]
        return RateChange().between(old.model_copy(update={"units": units(*left_out)}), old, 0.1)

    many, few = compared(60).change, compared(8).change
    assert (many.value, many.error, few.error) == (0.0, least_error(60), least_error(8)) == (0.0, 1 / 62, 0.1)
    assert many.p_same < 0.01
    assert few.p_same > 0.1
    assert compared(60, 0.2).change.error == pytest.approx(jackknife_error(np.array([0.2, *[0.0] * 7])))


def test_intervals_of_changes_cover_and_are_never_empty() -> None:
    for cells in ((0.9, 0.05, 0.05), (0.5, 0.5, 0.0), (0.3, 0.6, 0.1)):
        covered = 0.0
        for rise, fall in product(range(31), repeat=2):
            if rise + fall <= 30:
                one = change_interval([1] * rise + [-1] * fall + [0] * (30 - rise - fall))
                inside = one.low <= cells[1] - cells[2] <= one.high
                covered += inside * stats.multinomial.pmf([30 - rise - fall, rise, fall], 30, cells)
        assert covered >= 0.94
    for same in (0, 1, -1):
        one = change_interval([same] * 27)
        assert -1 <= one.low < one.high <= 1
        assert one.low <= same <= one.high
    # By hand: 5 of 10 rise, 1 falls; (5 − 1) / 12 and its error.
    by_hand = change_interval([1] * 5 + [-1] + [0] * 4)
    assert (by_hand.low + by_hand.high) / 2 == pytest.approx(1 / 3)
    assert by_hand.error == pytest.approx(np.sqrt(7 - 16 / 12) / 12)
    both = change_interval([1] * 5 + [-1] + [0] * 4, [0] * 10)
    assert both.error == pytest.approx(np.hypot(by_hand.error, np.sqrt(1) / 12))
    topics = Interval(0.5, -0.2, 1.7)
    assert change_interval([1] * 10, topics=topics) == Interval(0.5, -0.2, 1.0)
    with pytest.raises(ValueError, match="−1, 0 or 1"):
        change_interval([0.5])


# Drift


class Talking(Memo):
    """A lab whose prompts are their labels, and whose requests lie at ±1 along an axis of length GAP."""

    layers, gap = 6, 4.0

    def __init__(self, count: int = 60) -> None:
        super().__init__()
        self.request_settings = RequestSettings(count)

    def encoded_requests(self, name: str, rendering: str) -> list[Any]:
        kind = int(name == "unsafe")
        return [SimpleNamespace(ids=(kind, row)) for row in range(len(self.request_settings.load(name)))]

    def requests(self, name: str, *, rendering: str, poolings: Any) -> Any:
        prompts = self.encoded_requests(name, rendering)
        states = np.zeros((len(prompts), self.layers, 5))
        states[:, :, 1] = self.gap / 2 * (1 if name == "unsafe" else -1)
        return SimpleNamespace(states={poolings[0]: states.astype(np.float32)})


def talk(monkeypatch: pytest.MonkeyPatch, own: tuple[float, float], given: tuple[float, float]) -> None:
    """Own words of the two classes rise by so much a token, as do given ones; a request itself lies at ±1/2."""
    noise = np.random.default_rng(0)

    def line(kind: int, rises: tuple[float, float], tokens: int) -> Any:
        at = np.where(np.arange(tokens) == 0, 9.0, kind - 0.5 + rises[kind] * np.arange(tokens))
        return Talking.gap * (at + 0.01 * noise.standard_normal(tokens))

    def said(lab: Any, prompts: Any, new_tokens: int, *, traces: Any, label: str) -> list[Answer]:
        assert traces[0].direction == pytest.approx([0, Talking.gap, 0, 0, 0])
        lengths = [new_tokens if row % 2 else new_tokens // 2 for _, row in prompts]
        return [
            Answer((kind,) * tokens, "", "end", (tuple(line(kind, own, tokens)),))
            for (kind, _), tokens in zip(prompts, lengths, strict=True)
        ]

    def forced(lab: Any, prompts: Any, words: Any, traces: Any) -> Any:
        return np.array([[line(kind, given, len(words))] for kind, _ in prompts])

    monkeypatch.setattr(drift, "said", said)
    monkeypatch.setattr(drift, "said_for", forced)


def test_a_planted_drift_is_found_beyond_that_of_given_words(monkeypatch: pytest.MonkeyPatch) -> None:
    talk(monkeypatch, own=(-0.01, 0.03), given=(0.0, 0.015))
    lab, tokens = Talking(), drift.NEW_TOKENS - 1
    slope = measure("universal.generation_drift", lab, "slope")
    assert slope.value == pytest.approx((0.04 - 0.015) * tokens, abs=0.02)
    assert (slope.low or 0) < slope.value < (slope.high or 0)
    published = measure("universal.generation_drift", lab, "slope", "published")
    assert published.value == pytest.approx(0.04 * tokens, abs=0.02)
    assert verdict("universal.generation_drift", slope) is ClaimVerdict.HOLDS
    mean = measure("universal.generation_drift", lab, "mean", "published")
    assert mean.details["unsafe"] == pytest.approx(0.5 + 0.03 * (tokens + 11 + 2) / 4, abs=0.02)
    assert mean.curves["safe_own_words"].y[0] == pytest.approx(-0.51, abs=0.01)


def test_a_request_that_moves_any_words_alike_is_no_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    talk(monkeypatch, own=(0.0, 0.03), given=(0.0, 0.03))
    for case in ("slope", "mean"):
        found = measure("universal.generation_drift", Talking(), case)
        assert found.value == pytest.approx(0, abs=0.01)
        assert verdict("universal.generation_drift", found) is not ClaimVerdict.HOLDS
    assert measure("universal.generation_drift", Talking(20), "slope").notes == [
        "20 requests in a class, fewer than 50"
    ]


def test_slopes_are_least_squares_over_what_was_said() -> None:
    rows = np.random.default_rng(1).standard_normal((4, 9))
    rows[1, 5:] = np.nan
    expected = [np.polyfit(np.flatnonzero(np.isfinite(r)), r[np.isfinite(r)], 1)[0] * 9 for r in rows]
    assert drift.slopes(rows) == pytest.approx(expected)


def test_drift_on_a_zoo_member_runs_from_end_to_end() -> None:
    found = measured("zoo/neox-d64/aligned", "universal.generation_drift", count=50)
    for one in found.values():
        assert set(one.estimates) == {"published", "corrected"}
        estimate = one.estimates["corrected"]
        assert estimate.details["own_words"] == pytest.approx(one.estimates["published"].value)
        assert estimate.value == pytest.approx(estimate.details["own_words"] - estimate.details["given_words"])


# Capping


def test_capping_on_a_zoo_member_that_refuses_some_and_not_on_one_that_refuses_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capping, "RANDOM", 2)
    monkeypatch.setattr(capping, "ALPHAS", (0.3, 1.0))
    found = measured("zoo/llama-d80/safety_tuned-harmful", "capping.refusal", "safety", "combined")
    for case, one in found.items():
        estimate = one.estimate
        assert estimate is not None, one.missing
        d = estimate.details
        assert estimate.value == pytest.approx(
            (d["refused_capped_0.3"] - d["refused_bare"]) - (d["over_refused_capped_0.3"] - d["over_refused_bare"])
        )
        assert estimate.null is not None
        assert estimate.null.draws == 2
        assert ("capped_share_1" in d) == (case != "combined")
        assert all(0 <= d[name] <= 1 for name in d)
        assert -2 <= estimate.low <= estimate.value <= estimate.high <= 2
    all_refused = measured("zoo/llama-d80/aligned", "capping.refusal", "safety")["safety"]
    assert all_refused.missing is not None
    assert all_refused.missing.reason is Absence.NO_REFUSALS


def test_an_axis_points_away_from_its_prompt_and_its_threshold_lies_a_spread_below_its_own_mean() -> None:
    lab = lab_of("zoo/llama-d64/aligned")
    unit, threshold = capping.axis(lab, "safety")
    states = lab.states("benign", "corrected")
    for block in (2, lab.layers - 1):
        away = np.float64(states["generic"])[:, block].mean(axis=0) - np.float64(states["safety"])[:, block].mean(
            axis=0
        )
        v = away / np.linalg.norm(away)
        own = np.float64(states["safety"])[:, block] @ v
        assert unit[block] == pytest.approx(v, abs=1e-6)
        assert threshold[block] == pytest.approx(own.mean() - own.std(), abs=1e-4)
        assert threshold[block] < own.mean() < (np.float64(states["generic"])[:, block] @ v).mean()


# What it costs


def test_the_cost_of_an_ability_is_a_paired_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten sums, eight are right as it is; four of them under the direction, and six under each random one."""
    right = {"as it is": [1] * 8 + [0] * 2, "under the direction": [1] * 4 + [0] * 6, "random": [1] * 6 + [0] * 4}

    def planted(lab: Any, question: Any, changes: Any = (), *, label: str) -> Any:
        return np.array(right[label] if label in right else right["random"], dtype=float)

    asked = SimpleNamespace(label="sums", topics=[str(n) for n in range(10)])
    monkeypatch.setattr(steered, "hits", planted)
    monkeypatch.setattr(steered, "asked_abilities", lambda lab: (asked,))
    found = steered.cost(Memo(), 0, "change", ["random", "random"])  # type: ignore[arg-type, list-item]
    lost = change_interval([1] * 4 + [0] * 6)
    assert (found["sums_right"], found["sums_lost"], found["sums_asked"]) == (0.8, 0.4, 10)
    assert found["sums_lost_by_random"] == pytest.approx(0.2)
    assert found["sums_lost_low"] <= lost.low < 0.4 < lost.high <= found["sums_lost_high"]


def test_a_model_whose_set_holds_no_sums_has_no_such_cost() -> None:
    lab = lab_of("zoo/llama-d64/aligned")
    assert answering.asked_abilities(lab) == ()
    required = CLAIMS["steering.refusal_vector"].requires
    zoo = load_family(Path("zoo/llama-d64")).prompts
    assert zoo is not None
    plain, with_sums = lab.request_settings, RequestSettings(own=zoo.sets)
    assert required.inputs_hash(lab.pack, plain) == replace(required, abilities=False).inputs_hash(lab.pack, plain)
    assert required.inputs_hash(lab.pack, with_sums) != replace(required, abilities=False).inputs_hash(
        lab.pack, with_sums
    )
