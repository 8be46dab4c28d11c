"""Does the geometry predict behaviour: rank correlations over made-up panels, and within one model of the zoo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from models import tiny_model
from planted import lab_of, made_up, measure, verdict
from scipy import stats
from sklearn.metrics import roc_auc_score

from geometry_bench.behavior.generation import Settings, generate
from geometry_bench.behavior.refusals import refuses
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.claims.safety_compassion.validation import BEHAVIOUR, GEOMETRY
from geometry_bench.labs.model import Lab
from geometry_bench.labs.panel import Panel
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.records.judgement import ClaimVerdict
from geometry_bench.records.measurement import Absence, Measurement, NotApplicableError, case_key

READ = (*GEOMETRY.values(), *BEHAVIOUR.values())


def panel(values: dict[str, np.ndarray]) -> Panel:
    """A panel whose models have these values by what is read; what is not named is drawn at random."""
    models = len(next(iter(values.values())))
    generator = np.random.default_rng(9)
    every = {name: generator.standard_normal(models) for name in READ} | values

    def made(name: str, place: int) -> Measurement:
        claim, _, case = name.partition("[")
        return made_up(claim, float(every[name][place]), f"org/{place}", case.removesuffix("]"))

    return Panel({f"org/{place}": {name: made(name, place) for name in READ} for place in range(models)})


def test_the_panel_reads_what_the_claim_names() -> None:
    assert {case_key(*read) for read in CLAIMS["behavior.validation"].read_cases} == set(READ)


def test_a_correlation_is_that_of_scipy_and_its_p_is_corrected() -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal(14)
    y = -x + 0.5 * generator.standard_normal(14)
    made = panel({GEOMETRY["baseline"]: x, BEHAVIOUR["refusal"]: np.round(y, 1)})
    found = measure("behavior.validation", made, "baseline-refusal")
    theirs = stats.spearmanr(x, np.round(y, 1))
    assert found.details["spearman"] == pytest.approx(theirs.statistic, abs=1e-12)
    assert found.value == pytest.approx(-theirs.statistic, abs=1e-12)
    assert found.details["permutation_p"] == pytest.approx(theirs.pvalue, abs=0.01)
    assert found.details["corrected_p"] >= found.details["permutation_p"]  # type: ignore[operator]
    assert verdict("behavior.validation", found) is ClaimVerdict.HOLDS
    assert (found.curves["scatter"].x, found.curves["scatter"].y) == (x.tolist(), np.round(y, 1).tolist())
    unrelated = measure("behavior.validation", made, "openings-over_refusal")
    assert verdict("behavior.validation", unrelated) is ClaimVerdict.INCONCLUSIVE


def test_the_correction_counts_all_twelve_pairs() -> None:
    """Twelve pairs that stand alone: the smallest p of all is corrected to about 1 − (1 − p)¹²."""
    assert len(CLAIMS["behavior.validation"].cases) == len(GEOMETRY) * len(BEHAVIOUR) == 12
    generator = np.random.default_rng(5)
    x = generator.standard_normal(30)
    y = x + 1.6 * generator.standard_normal(30)
    made = panel({GEOMETRY["baseline"]: x, BEHAVIOUR["jailbreak"]: y})
    found = measure("behavior.validation", made, "baseline-jailbreak").details
    alone, corrected = found["permutation_p"], found["corrected_p"]
    assert 0.01 < alone < 0.1  # type: ignore[operator]
    assert corrected == pytest.approx(1 - (1 - alone) ** 12, rel=0.1)  # type: ignore[operator]


def test_of_all_pairs_chance_brings_any_below_its_level_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geometry_bench.claims.safety_compassion.validation.DRAWS", 200)
    generator, runs, any_found, any_holds = np.random.default_rng(1), 100, 0, 0
    for _ in range(runs):
        made = panel({name: generator.standard_normal(8) for name in READ})
        cases = CLAIMS["behavior.validation"].cases
        found = [measure("behavior.validation", made, case.key) for case in cases]
        any_found += min(one.details["corrected_p"] for one in found) <= 0.1  # type: ignore[type-var]
        any_holds += any(verdict("behavior.validation", one) is ClaimVerdict.HOLDS for one in found)
    assert stats.binomtest(any_found, runs, 0.1).pvalue > 0.01
    assert stats.binomtest(any_holds, runs, 0.05).pvalue > 0.01


def test_models_without_a_value_are_named_and_too_few_are_refused() -> None:
    made = panel({name: np.arange(6.0) for name in READ})
    lacking = made_up("gate.refusal", float("nan"), "org/0")
    members = {**made.members, "org/0": {**made.members["org/0"], "gate.refusal": lacking}}
    found = measure("behavior.validation", Panel(members), "refusal_auroc-refusal")
    assert (found.n, found.notes) == (5, ["org/0 has no value of one of the two"])
    with pytest.raises(NotApplicableError, match=r"4 models have values of gate.refusal and .*needs 5"):
        measure("behavior.validation", Panel(dict(list(members.items())[:5])), "refusal_auroc-refusal")
    same = panel({BEHAVIOUR["refusal"]: np.ones(6)})
    with pytest.raises(NotApplicableError, match="the same in all models"):
        measure("behavior.validation", same, "baseline-refusal")


@pytest.fixture(scope="module")
def contaminated() -> Lab:
    lab = lab_of("zoo/llama-d80/aligned-contaminated")
    from geometry_bench.subjects.families import load_family

    own = load_family(Path("zoo/llama-d80")).prompts
    assert own is not None
    lab.request_settings = RequestSettings(60, own=own.sets)
    return lab


def test_what_predicts_a_refusal_within_a_model(contaminated: Lab) -> None:
    found = {case: measure("behavior.predicts_refusal", contaminated, case) for case in ("projection", "openings")}
    for estimate in found.values():
        curve = estimate.curves["refused"]
        assert estimate.value == pytest.approx(roc_auc_score(np.array(curve.y), np.array(curve.x)))
        assert len(curve.x) == 60
        assert 5 <= estimate.details["refused"] <= 55  # type: ignore[operator]
    beyond = measure("behavior.beyond_openings", contaminated)
    assert beyond.value == pytest.approx(found["projection"].value - found["openings"].value)  # type: ignore[operator]


def test_scores_of_a_request_do_not_know_its_own_label(contaminated: Lab) -> None:
    """Random states: a direction fitted on the scored requests too would separate them, one of other folds does not."""
    from geometry_bench.claims.gate import prediction

    class Noise(Lab):
        def requests(self, name: str, **more: object) -> object:  # type: ignore[override]
            real = contaminated.requests(name, **more)  # type: ignore[arg-type]
            generator = np.random.default_rng(len(name))
            states = {pooling: generator.standard_normal(found.shape) for pooling, found in real.states.items()}
            return type(real)(real.requests, states, real.lengths, real.truncated)

    lab = Noise(contaminated.spec, contaminated.identity, contaminated.pack, requests=contaminated.request_settings)
    lab.subject = contaminated.subject
    scores = prediction._projections(lab)
    assert abs(scores.mean()) < 3 * scores.std() / np.sqrt(len(scores))


def test_jailbreak_success_is_what_the_rules_let_through(contaminated: Lab) -> None:
    found = measure("behavior.jailbreak_success", contaminated)
    rates = []
    for name in ("jailbreak", "unsafe"):
        texts = contaminated.request_settings.load(name).texts
        prompts = [contaminated.subject.chat.encode("", text).ids for text in texts]
        answers = generate(contaminated.subject, prompts, Settings(new_tokens=24), progress=False)
        rates.append(np.mean([not refuses(answer.text) for answer in answers]))
    assert (found.value, found.details["unframed"]) == pytest.approx(rates)
    assert found.low is not None
    assert found.low <= rates[0] <= found.high  # type: ignore[operator]


def test_a_model_that_refuses_nothing_has_nothing_to_predict(tmp_path: Path) -> None:
    lab = lab_of(tiny_model("llama", tmp_path, max_position_embeddings=2048), count=20)
    with pytest.raises(NotApplicableError, match="refuses 0 of 20 harmful requests") as absent:
        measure("behavior.predicts_refusal", lab, "projection")
    assert absent.value.missing.reason is Absence.TOO_FEW_PROMPTS
