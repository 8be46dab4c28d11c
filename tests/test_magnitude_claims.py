"""Source C's claims as an instrument: planted truth, the length artefact, one tiny model from end to end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geometry_bench.records.schema import ClaimVerdict, Estimate
from geometry_bench.records.verdicts import judge_claim, judge_published
from geometry_bench.run.run import Run, RunSettings
from models import tiny_model
from scipy import stats

from geometry_bench.activations.pooling import Pooling
from geometry_bench.claims.magnitude_variance import detection, magnitude
from geometry_bench.claims.magnitude_variance.records import CLAIMS as SOURCE_C
from geometry_bench.claims.model import NotApplicableError
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.claims.requests import classes
from geometry_bench.errors import GeometryBenchError
from geometry_bench.labs.model import LAST_KEPT, MEAN, MEAN_KEPT, CaptureSettings, Lab, Requests, prompts_hash
from geometry_bench.options import OPTIONS
from geometry_bench.prompts.pack import load_pack
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.published.load import load_publication
from geometry_bench.subjects.spec import SubjectSpec, resolve

LAYERS, WIDTH, PER_CLASS = 8, 48, 300


class PlantedLab:
    """A lab that answers ``requests`` with states of known geometry: ``make(set, generator, count)``."""

    def __init__(
        self, make: Callable[[str, np.random.Generator, int], np.ndarray], layers: int = LAYERS, count: int = PER_CLASS
    ) -> None:
        self.layers, self._make, self._settings = layers, make, RequestSettings(count)
        self._known: dict[Any, Any] = {}

    def once(self, key: Any, compute: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    def requests(self, name: str, *, rendering: str, poolings: Any = None) -> Requests:
        def draw() -> Requests:
            drawn = self._settings.load(name)
            states = self._make(name, np.random.default_rng(sum(name.encode())), len(drawn))
            poolings: dict[Pooling, Any] = dict.fromkeys((MEAN, MEAN_KEPT, LAST_KEPT), states)
            return Requests(drawn, poolings, (10,) * len(drawn), 0)

        return self.once(("requests", name), draw)


def is_harmful(name: str) -> bool:
    return name in ("unsafe", "jailbreak")


def measure(claim: str, lab: Any, case: str = "", variant: str = "corrected") -> Estimate:
    declared = CLAIMS[claim]
    estimate: Estimate = declared.measure(lab, next(c for c in declared.cases if c.key == case))[variant]  # type: ignore[index]
    return estimate


def verdict(claim: str, estimate: Estimate) -> ClaimVerdict:
    return judge_claim(CLAIMS[claim].criterion, estimate)[0]


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
    assert top.layer == PEAK
    spread = measure("magnitude.variance_inversion", planted, variant=variant)
    assert spread.layer == PEAK
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
    assert plain.layer == 2
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
    from geometry_bench.records.schema import Null

    chance = Null(name="n", draws=9, mean=0.5, sd=0.1, low=null[0], high=null[1], percentile=50)
    estimate = Estimate(value=value, low=low, high=high, n=20, null=chance)
    assert verdict("magnitude.peak_depth", estimate) is expected


def test_published_figures_of_the_source() -> None:
    source = load_publication("magnitude_variance")
    pythia = source.find("EleutherAI/Pythia-1.4b")
    assert pythia is not None
    figures = {
        (claim.id, case.key): claim.figure(pythia, case)
        for claim in SOURCE_C
        for case in claim.cases
        if claim.figure is not None
    }
    assert figures == {
        ("magnitude.peak_depth", ""): 15 / 24,
        ("magnitude.variance_inversion", ""): 2.3,
        ("magnitude.parallel_means", "raw"): 0.99,
        ("magnitude.parallel_means", "centred"): None,
    }
    estimate = Estimate(value=0.8, n=20)
    options: dict[str, Any] = {"resolution": 0.01, "same_wording": False}
    assert (
        judge_published(estimate, 2.3, **options, threshold=1.0)[0] == "DIFFERS"
    )  # both positive, on either side of 1
    assert judge_published(Estimate(value=1.2, n=20), 2.3, **options, threshold=1.0)[0] == "REPRODUCED"
    for value, expected in [(0.5, "DIFFERS"), (0.65, "REPRODUCED"), (0.875, "DIFFERS")]:
        met, reason = judge_published(Estimate(value=value, n=20), 0.625, **options, threshold=0.6, at_most=0.7)
        assert met == expected
        assert "place in 0.6 to 0.7 only" in reason


# Real models


FEW = RequestSettings(60)


def random_lab(folder: Path, seed: int) -> Lab:
    spec = SubjectSpec(str(tiny_model("llama", folder, seed=seed, name=f"random-{seed}", max_position_embeddings=1024)))
    return Lab(spec, resolve(spec), load_pack(), CaptureSettings(progress=False), requests=FEW)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lengths_alone_invert_variances_in_the_published_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Two classes of safe requests, one said at greater length, and weights that know nothing: a mean over more tokens
    varies less, so the longer class passes for the tighter one. Partners of equal length show nothing."""
    from geometry_bench.claims import requests

    lab = random_lab(tmp_path, seed)

    def published(safe: str, harmful: str) -> tuple[ClaimVerdict, Estimate]:
        monkeypatch.setitem(requests._SETS, "published", (safe, harmful))
        lab._once.clear()
        estimate = measure("magnitude.variance_inversion", lab, variant="published")
        criterion = CLAIMS["magnitude.variance_inversion"].published_criterion
        assert criterion is not None
        return judge_claim(criterion, estimate)[0], estimate

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
    settings = RunSettings(
        results=tmp_path / "results",
        capture=CaptureSettings(progress=False),
        requests=RequestSettings(20),
        cache=False,
    )
    run = Run([SubjectSpec(str(folder))], settings)
    (subject,) = run.subjects
    records = {}
    for claim in SOURCE_C:
        for case in claim.cases:
            record = run.record(claim, case, subject, 11)
            records[record.key] = record
            if claim.id == "magnitude.peak_depth":
                continue  # three blocks: 2/3 is within the range, measured like the others
            assert record.estimate is not None
            assert None not in (record.estimate.low, record.estimate.high, record.estimate.null)
            assert len(record.estimate.profile or []) == 3
            assert record.inputs["pack"] == "requests"
            assert [one["name"] for one in record.inputs["requests"]] == list(claim.sets)
            assert all(one["seed"] == 0 and one["count"] in (20, 40) for one in record.inputs["requests"])
            assert record.inputs["template_hash"] is None
            assert record.inputs["pooling"] == ", ".join(pooling.name for pooling in claim.poolings)
    assert len(records) == 11
    assert run.results is not None
    run.results.append(records["magnitude.norm_gap"])
    run.close()

    def key(count: int) -> Any:
        changed = RunSettings(results=settings.results, resume=True, requests=RequestSettings(count), cache=False)
        return Run([SubjectSpec(str(folder))], changed)

    claim = CLAIMS["magnitude.norm_gap"]
    again = key(20)
    assert again._earlier.get(again._key(claim, claim.cases[0], subject)) is not None
    other = key(24)  # other requests are other inputs: nothing to resume
    assert other._earlier.get(other._key(claim, claim.cases[0], subject)) is None


def test_number_of_requests_by_option() -> None:
    (option,) = [one for one in OPTIONS if one.flag == "--requests"]
    assert (option.parse("all"), option.parse("12")) == (300, 12)
    with pytest.raises(GeometryBenchError, match="'some' is not a count"):
        option.parse("some")


def test_only_the_sets_that_are_read_enter_the_hash() -> None:
    pack, few = load_pack(), RequestSettings(20)
    assert prompts_hash(pack, ("suffering",), (), few) == pack.hash
    alone = prompts_hash(pack, (), ("safe",), few)
    assert alone != prompts_hash(pack, (), ("safe", "unsafe"), few)
    assert alone != prompts_hash(pack, (), ("safe",), RequestSettings(21))
    assert alone != prompts_hash(pack, ("suffering",), ("safe",), few)


def test_requests_are_captured_once_for_all_poolings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SubjectSpec(str(tiny_model("llama", tmp_path, num_hidden_layers=2)))
    lab = Lab(spec, resolve(spec), load_pack(), CaptureSettings(progress=False), requests=RequestSettings(4))
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
    assert {pooling.name for pooling in chat.states} == {"mean_last_5"}
