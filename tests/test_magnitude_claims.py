"""Source C's claims as an instrument: planted truth, the length artefact, one tiny model from end to end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import tiny_model
from planted import NOT_SHOWN, lab_of, made_up, measure, verdict
from scipy import stats

from geometry_bench.activations.pooling import Pooling
from geometry_bench.claims.magnitude_variance import CLAIMS as SOURCE_C
from geometry_bench.claims.magnitude_variance import detection, magnitude
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.errors import GeometryBenchError
from geometry_bench.judging import judge_published
from geometry_bench.labs.memo import Memo, remembered
from geometry_bench.labs.model import Requests
from geometry_bench.labs.requirements import LAST_KEPT, MEAN, MEAN_KEPT, MEAN_LAST_FIVE, Requirements
from geometry_bench.options import OPTIONS
from geometry_bench.prompts.pack import load_pack
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.published.load import load_publication
from geometry_bench.records.estimates import Estimate, Null
from geometry_bench.records.facts import PromptInputs
from geometry_bench.records.judgement import ClaimVerdict
from geometry_bench.records.measurement import Measurement, NotApplicableError
from geometry_bench.run.execute import Session, execute
from geometry_bench.run.key import Key
from geometry_bench.run.plan import Plan, plan
from geometry_bench.run.request import Request, Settings
from geometry_bench.subjects.spec import SubjectSpec

LAYERS, WIDTH, PER_CLASS = 8, 48, 300


class PlantedLab(Memo):
    """A lab that answers ``requests`` with states of known geometry: ``make(set, generator, count)``."""

    def __init__(
        self, make: Callable[[str, np.random.Generator, int], np.ndarray], layers: int = LAYERS, count: int = PER_CLASS
    ) -> None:
        super().__init__()
        self.layers, self._make, self._settings = layers, make, RequestSettings(count)

    @remembered
    def requests(self, name: str, *, rendering: str, poolings: Any = None) -> Requests:
        drawn = self._settings.load(name)
        states = self._make(name, np.random.default_rng(sum(name.encode())), len(drawn))
        return Requests(drawn, dict.fromkeys((MEAN, MEAN_KEPT, LAST_KEPT), states), (10,) * len(drawn), 0)


def is_harmful(name: str) -> bool:
    return name in ("unsafe", "jailbreak")


PEAK = 5
OFFSETS = np.array([0.5, 1.0, 1.5, 2.0, 3.0, 6.0, 3.0, 2.0])


@pytest.fixture(scope="module")
def planted() -> PlantedLab:
    """A common mean of norm 20, class means 2·OFFSETS apart, safe spread √2 that of harmful, safe 10 % larger."""

    def make(name: str, generator: np.random.Generator, count: int) -> np.ndarray:
        spread = 0.2 * (1.0 if is_harmful(name) else np.sqrt(2.0))
        states = spread * generator.normal(size=(count, LAYERS, WIDTH))
        common, apart = 20 * np.eye(WIDTH)[0], np.eye(WIDTH)[1]
        states += common * (1.0 if is_harmful(name) else 1.1)
        if name != "instructions":
            states += OFFSETS[:, None] * apart * (1.0 if is_harmful(name) else -1.0)
        return states

    return PlantedLab(make)


@pytest.mark.parametrize("variant", ["published", "corrected"])
def test_planted_peak_and_variance_ratio_are_found(planted: PlantedLab, variant: str) -> None:
    top = measure("magnitude.peak_depth", planted, variant=variant)
    assert top.value == PEAK / LAYERS
    assert (top.low, top.high) == (PEAK / LAYERS, PEAK / LAYERS)
    assert top.block == PEAK
    spread = measure("magnitude.variance_inversion", planted, variant=variant)
    assert spread.block == PEAK
    assert spread.profile == pytest.approx([2.0] * LAYERS, rel=0.1)
    assert verdict("magnitude.variance_inversion", spread) is ClaimVerdict.HOLDS
    assert spread.details["permutation_p"] == pytest.approx(1 / (1 + magnitude.DRAWS))


def test_planted_distance_norms_and_cosines(planted: PlantedLab) -> None:
    distance = measure("magnitude.peak_depth", planted, variant="published").profile
    assert distance == pytest.approx(list(np.hypot(2 * OFFSETS, 2.0)), rel=0.02)
    gap = measure("magnitude.norm_gap", planted)
    safe, harmful = np.hypot(22, OFFSETS), np.hypot(20, OFFSETS)
    assert gap.profile == pytest.approx(list((safe - harmful) / ((safe + harmful) / 2)), abs=0.01)
    assert gap.value == pytest.approx(min((gap.profile or [])[:-1]))
    assert verdict("magnitude.norm_gap", gap) is ClaimVerdict.HOLDS
    raw = measure("magnitude.parallel_means", planted, "raw")
    cosines = (22 * 20 - OFFSETS**2) / (safe * harmful)
    assert raw.profile == pytest.approx(list(cosines), abs=2e-3)
    assert raw.value == pytest.approx(cosines[:-1].min(), abs=2e-3)
    # Without what all prompts share (20·e₀), safe keeps 2·e₀ − o·e₁ and harmful o·e₁: the means are far from parallel.
    centred = measure("magnitude.parallel_means", planted, "centred")
    assert centred.profile == pytest.approx(list(-OFFSETS / np.hypot(2, OFFSETS)), abs=0.05)
    assert verdict("magnitude.parallel_means", centred) is ClaimVerdict.FAILS


def test_planted_separation_is_met_by_each_rule() -> None:
    """Classes d′ apart at the early block: projection gives Φ(d′/√2); wrapped requests carry half the distance."""
    away = 2.0

    def make(name: str, generator: np.random.Generator, count: int) -> np.ndarray:
        states = generator.normal(size=(count, LAYERS, WIDTH))
        if is_harmful(name):
            states[:, 2:, 0] += away / 2 if name == "jailbreak" else away
        states[:, 3:] = states[:, 2:3]
        return states

    lab = PlantedLab(make)
    plain = measure("detection.early", lab, "projection-plain")
    assert plain.block == 2
    # The direction is fitted on 150 a class in 48 dimensions; its noise costs a known share of d′.
    kept = away / np.sqrt(away**2 + 2 * WIDTH / (PER_CLASS / 2))
    assert plain.value == pytest.approx(stats.norm.cdf(away * kept / np.sqrt(2)), abs=0.03)
    assert plain.profile is not None
    assert abs((plain.profile[0] or 0) - 0.5) < 0.06
    assert plain.details["onset_block"] == 2
    assert plain.details["in_sample"] is not None
    assert plain.value is not None
    assert plain.details["in_sample"] > plain.value
    wrapped = measure("detection.early", lab, "projection-jailbreak")
    assert wrapped.value == pytest.approx(stats.norm.cdf(away / 2 * kept / np.sqrt(2)), abs=0.03)
    assert verdict("detection.early", plain) is verdict("detection.early", wrapped) is ClaimVerdict.HOLDS


def test_a_tight_cluster_is_found_by_closeness_and_not_as_outliers() -> None:
    def make(name: str, generator: np.random.Generator, count: int) -> np.ndarray:
        return (0.3 if is_harmful(name) else 1.0) * generator.normal(size=(count, LAYERS, WIDTH))

    lab = PlantedLab(make, count=80)
    close, outlier = (measure("detection.early", lab, f"{rule}-plain") for rule in ("closeness", "outlier"))
    assert close.value is not None
    assert outlier.value is not None
    assert close.value > 0.99
    assert outlier.value < 0.01
    assert verdict("detection.early", close) is ClaimVerdict.HOLDS
    assert verdict("detection.early", outlier) is ClaimVerdict.FAILS


def test_nothing_planted_nothing_found() -> None:
    lab = PlantedLab(lambda name, generator, count: 5 + generator.normal(size=(count, LAYERS, WIDTH)), count=60)
    cases = [("magnitude.variance_inversion", ""), ("magnitude.norm_gap", "")]
    cases += [("detection.early", case.key) for case in detection.CASES]
    for claim, case in cases:
        estimate = measure(claim, lab, case)
        assert verdict(claim, estimate) is not ClaimVerdict.HOLDS, (claim, case)
        assert estimate.null is not None
        assert 0 < estimate.null.percentile < 100
    assert measure("detection.early", lab, "projection-plain").details["onset_block"] is None
    # In sample, safe prompts lie near by themselves: the value says nothing, and its null says so.
    inside = measure("detection.early", lab, "outlier-plain", "published")
    assert inside.value is not None
    assert inside.value > 0.9
    assert inside.null is not None
    assert inside.null.low <= inside.value <= inside.null.high


def test_a_model_without_a_block_at_that_depth_is_told() -> None:
    lab = PlantedLab(lambda name, generator, count: generator.normal(size=(count, 4, WIDTH)), layers=4, count=20)
    with pytest.raises(NotApplicableError, match="of 4 blocks none lies between 60% and 70%"):
        measure("magnitude.peak_depth", lab)


# Verdicts of a range, and published figures


@pytest.mark.parametrize(
    ("value", "low", "high", "null", "expected"),
    [
        (0.625, 0.625, 0.625, (0.0, 0.9), ClaimVerdict.HOLDS),
        (0.7, 0.6, 0.7, (0.0, 0.9), ClaimVerdict.HOLDS),
        (0.625, 0.625, 0.625, (0.6, 0.7), ClaimVerdict.INCONCLUSIVE),
        (0.625, 0.5, 0.625, (0.0, 0.9), ClaimVerdict.INCONCLUSIVE),
        (0.9, 0.875, 1.0, (0.0, 0.9), ClaimVerdict.FAILS),
        (0.1, 0.0, 0.5, (0.0, 0.9), ClaimVerdict.FAILS),
    ],
)
def test_verdict_of_a_range(
    value: float, low: float, high: float, null: tuple[float, float], expected: ClaimVerdict
) -> None:
    chance = Null(name="n", draws=9, mean=0.5, sd=0.1, low=null[0], high=null[1], percentile=50)
    estimate = Estimate(value=value, low=low, high=high, n=20, null=chance)
    assert verdict("magnitude.peak_depth", estimate) is expected


def test_reported_values_of_the_source() -> None:
    pythia = load_publication("magnitude_variance").find("EleutherAI/Pythia-1.4b")
    assert pythia is not None
    reported = {
        (claim.id, case.key): claim.reported(pythia, case)
        for claim in SOURCE_C
        for case in claim.cases
        if claim.reported is not None
    }
    assert reported == {
        ("magnitude.peak_depth", ""): 15 / 24,
        ("magnitude.variance_inversion", ""): 2.3,
        ("magnitude.parallel_means", "raw"): 0.99,
        ("magnitude.parallel_means", "centred"): None,
    }


@pytest.mark.parametrize(
    ("claim", "value", "expected"),
    [
        ("variance_inversion", 0.8, "DIFFERS"),  # both positive, on either side of 1
        ("variance_inversion", 1.2, "REPRODUCED"),
        ("peak_depth", 0.5, "DIFFERS"),
        ("peak_depth", 0.65, "REPRODUCED"),
        ("peak_depth", 0.875, "DIFFERS"),
    ],
)
def test_other_prompts_are_compared_by_side_alone(claim: str, value: float, expected: str) -> None:
    one = made_up(f"magnitude.{claim}", value, "EleutherAI/pythia-1.4b", layers=24)
    answer = judge_published(CLAIMS[one.claim], one)
    assert answer.verdict == expected
    assert ("place in 0.6 to 0.7 only" if claim == "peak_depth" else "side of 1 only") in answer.sentence
    namesake = made_up(one.claim, value, "EleutherAI/pythia-1.4b")  # of another depth
    assert judge_published(CLAIMS[one.claim], namesake).verdict == "NO_FIGURE"


# Real models


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lengths_alone_invert_variances_in_the_published_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Two classes of safe requests, one said at greater length, and weights that know nothing: a mean over more tokens
    varies less, so the longer class passes for the tighter one. Partners of equal length show nothing."""
    from geometry_bench.claims import requests

    lab = lab_of(tiny_model("llama", tmp_path, seed=seed, max_position_embeddings=1024))

    def published(safe: str, harmful: str) -> tuple[ClaimVerdict, Estimate]:
        monkeypatch.setitem(requests._SETS, "published", (safe, harmful))
        lab.forget()
        estimate = measure("magnitude.variance_inversion", lab, variant="published")
        criterion = CLAIMS["magnitude.variance_inversion"].published_criterion
        assert criterion is not None
        return criterion.judge(estimate).verdict, estimate

    longer, estimate = published("safe", "safe-long")
    assert longer is ClaimVerdict.HOLDS
    assert estimate.value is not None
    assert estimate.value > 1.4
    assert estimate.null is not None
    assert estimate.value > estimate.null.high  # labels alone do not do that
    assert published("safe-long", "safe")[0] is ClaimVerdict.FAILS  # the other way round, by length again
    assert published("safe-long", "unsafe")[0] is ClaimVerdict.FAILS
    corrected = measure("magnitude.variance_inversion", lab)
    assert verdict("magnitude.variance_inversion", corrected) in (ClaimVerdict.INCONCLUSIVE, ClaimVerdict.FAILS)
    assert corrected.value == pytest.approx(1, abs=0.1)
    parallel = measure("magnitude.parallel_means", lab, "raw")  # above 0.99, as any two groups of prompts are
    assert (parallel.value or 0) > 0.99
    assert verdict("magnitude.parallel_means", parallel) is ClaimVerdict.INCONCLUSIVE


def test_one_model_from_end_to_end(tmp_path: Path) -> None:
    folder = tiny_model("llama", tmp_path, num_hidden_layers=3, max_position_embeddings=1024)

    def planned(count: int) -> Plan:
        settings = Settings(requests=RequestSettings(count), capture=NOT_SHOWN, cache=False)
        claims = {one.id: one for one in SOURCE_C if one.asked_by is None}
        return plan(Request((SubjectSpec(str(folder)),), claims=claims, settings=settings))

    found = list(execute(Session(planned(20))))
    assert len(found) == 11
    for one in found:
        assert isinstance(one, Measurement)
        assert one.estimate is not None
        assert None not in (one.estimate.low, one.estimate.high, one.estimate.null)
        assert len(one.estimate.profile or []) == 3
        assert isinstance(one.inputs, PromptInputs)
        required = CLAIMS[one.claim].requires
        assert [(drawn.name, drawn.seed) for drawn in one.inputs.requests] == [(name, 0) for name in required.sets]
        assert {drawn.count for drawn in one.inputs.requests} <= {20, 40}
        assert (one.inputs.pack, one.inputs.template_hash) == ("requests", None)
        assert one.inputs.pooling == ", ".join(pooling.name for pooling in required.poolings)
    earlier = [one for one in found if isinstance(one, Measurement)]
    again, other = (Session(planned(count), earlier) for count in (20, 24))
    assert again.is_resumed(again.measure(again.plan.tasks[0]))
    # Other requests are other inputs: nothing to resume.
    keys = {task.target.key(task.claim, task.case, other.prompts) for task in other.plan.tasks}
    assert not keys & {Key.of(one) for one in earlier}


def test_number_of_requests_by_option() -> None:
    (option,) = [one for one in OPTIONS if one.flag == "--requests"]
    assert (option.parse("all"), option.parse("12")) == (300, 12)
    with pytest.raises(GeometryBenchError, match="'some' is not a count"):
        option.parse("some")


def test_only_the_sets_that_are_read_enter_the_hash() -> None:
    pack, few = load_pack(), RequestSettings(20)
    read = Requirements(messages=("suffering",)), Requirements(sets=("safe",)), Requirements(sets=("safe", "unsafe"))
    hashes = [one.inputs_hash(pack, few) for one in (*read, replace(read[1], messages=("suffering",)))]
    assert hashes[0] == pack.hash
    assert len({*hashes, read[1].inputs_hash(pack, RequestSettings(21))}) == 5


def test_requests_are_captured_once_for_all_poolings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = lab_of(tiny_model("llama", tmp_path, num_hidden_layers=2), 4)
    seen = []
    pooled = lab._pooled
    monkeypatch.setattr(lab, "_pooled", lambda *arguments: seen.append(arguments[1]) or pooled(*arguments))
    first = lab.requests("safe", rendering="text")
    assert set(first.states) == {MEAN, MEAN_KEPT, LAST_KEPT}
    assert lab.requests("safe", rendering="text", poolings=(MEAN,)) is first
    more = lab.requests("safe", rendering="text", poolings=(Pooling("last"),))
    assert seen == [[MEAN, MEAN_KEPT, LAST_KEPT], [Pooling("last")]]
    assert set(more.states) == {*first.states, Pooling("last")}
    chat = lab.requests("safe", rendering="chat")
    assert chat.lengths[0] > first.lengths[0]
    assert set(chat.states) == {MEAN_LAST_FIVE, Pooling("last")}  # sources B and D, and the gate
