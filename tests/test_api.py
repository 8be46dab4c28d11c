"""Measuring from Python: ``geometry_bench.measure``, ``load``, ``compare``, and the results that they give."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL
from made import SUBJECT, measured
from models import random_model, tiny_model, tiny_tokenizer

import geometry_bench as gb
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.errors import GeometryBenchError
from geometry_bench.records.judgement import Reason
from geometry_bench.report.outcomes import comparison_code

COSINE = "compassion.cross_tradition_cosine[tara-agape]"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model("llama", tmp_path_factory.mktemp("second"), name="two", seed=3, **SMALL)


@pytest.fixture(scope="module")
def results(tiny: Path, two: Path, pack: Path) -> gb.Results:
    return gb.measure(tiny, two, claims=("compassion.*", "safety.baseline_sign"), prompts=pack, cache=False)


def refused(words: str, call: Any, *arguments: Any, **options: Any) -> None:
    with pytest.raises(GeometryBenchError) as error:
        call(*arguments, **options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_in_memory_measures_as_its_folder_does(results: gb.Results, pack: Path, tmp_path: Path) -> None:
    """The same values, units and curves; and held against the folder's, nothing has moved."""
    live = gb.measure(
        random_model("llama", **SMALL),
        tokenizer=tiny_tokenizer(chat_template="native"),
        claims=("compassion.*", "safety.baseline_sign"),
        prompts=pack,
        alignment="DPO",
    )
    folder = [one for one in results if one.measurement.subject.id == "tiny"]
    assert [one.measurement.key for one in live] == [one.measurement.key for one in folder]
    for one, other in zip(live, folder, strict=True):
        assert one.measurement.subject.id == "model"
        assert one.measurement.estimates == other.measurement.estimates
        assert one.measurement.inputs == other.measurement.inputs
    signs = (live["safety.baseline_sign"], results["safety.baseline_sign", "tiny"])
    assert [one.judgement.claim.reason is Reason.ALIGNMENT_UNKNOWN for one in signs] == [False, True]
    assert {one.judgement.baseline.verdict for one in gb.compare(live, gb.Results(results.measurements[:13]))} == {
        "SAME"
    }


def test_results_by_place_and_by_case(results: gb.Results) -> None:
    assert len(results) == len(list(results)) == 2 * 13
    assert results[0].measurement is results.measurements[0]
    assert [one.measurement for one in results[-2:]] == list(results.measurements[-2:])
    found = results[COSINE, "two"]
    assert found.measurement.subject.id == "two"
    assert found.value == found.estimate.value == found.profile[-1]
    assert found.curve("profile").axis == "block"
    refused(
        f"{COSINE} was measured on tiny, two: name one, as results['{COSINE}', SUBJECT].", results.__getitem__, COSINE
    )
    refused(f"{COSINE} on two has no curve 'at_depth': it has profile.", found.curve, "at_depth")
    several = "There is no compassion.unified_axis among these results: there are compassion.unified_axis[chenrezig], "
    refused(several, results.__getitem__, "compassion.unified_axis")
    refused("There is no x among these results: there are none.", gb.Results(()).__getitem__, "x")


def test_a_case_without_a_value_says_why(tiny: Path, pack: Path) -> None:
    absent = gb.measure(tiny, claims="safety.layer_profile", prompts=pack, cache=False)[
        "safety.layer_profile[last_block_jump]"
    ]
    refused("has no value: 2 blocks", lambda: absent.value)


def test_a_table_and_a_frame(results: gb.Results, monkeypatch: pytest.MonkeyPatch) -> None:
    assert results.table().count(COSINE) == 2
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name == "pandas":
            raise ImportError
        return real(name, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(builtins, "__import__", without)
        refused("pip install pandas", results.to_frame)
    pytest.importorskip("pandas")
    frame = results.to_frame().set_index(["claim", "case", "subject"])
    one = results[COSINE, "two"]
    row = frame.loc["compassion.cross_tradition_cosine", "tara-agape", "two"]
    assert (row["value"], row["verdict"], row["n"]) == (one.value, one.judgement.claim.verdict, one.estimate.n)
    assert len(frame) == len(results)


def test_saved_and_loaded_and_held_against_itself(results: gb.Results, tmp_path: Path) -> None:
    path = results.save(tmp_path / "results")
    results.save(tmp_path / "results")  # of what was measured twice the later line counts
    for place in (path, path.parent):
        assert gb.load(place).measurements == results.measurements
    same = gb.compare(gb.load(path), results)
    assert {one.judgement.baseline.verdict for one in same} == {"SAME"}
    assert comparison_code(same.judgements) == 0
    refused("holds no measurements", gb.load, tmp_path / "nowhere")


def test_each_subject_is_held_against_its_own_or_the_only_one(results: gb.Results) -> None:
    def old_values(new: gb.Results, old: gb.Results) -> list[float | None]:
        return [one.judgement.baseline.number("old") for one in gb.compare(new, old)]

    a, b, c = (
        measured("tara-agape", value=value, claim="compassion.cross_tradition_cosine", claim_version=1).model_copy(
            update={"subject": SUBJECT.model_copy(update={"id": name, "name": name})}
        )
        for name, value in (("a", 0.1), ("b", 0.2), ("c", 0.3))
    )
    assert old_values(gb.Results((a, b)), gb.Results((b, a))) == [0.1, 0.2]
    assert old_values(gb.Results((b, c)), gb.Results((a,))) == [0.1, 0.1]
    assert old_values(gb.Results((c,)), gb.Results((a, b))) == [None]


def test_claims_by_name_pattern_or_as_data(tiny: Path, pack: Path) -> None:
    claim = CLAIMS["compassion.tightest_pair"]
    for claims in ("compassion.tightest_*", ["compassion.tightest_pair"], {claim.id: claim}):
        found = gb.measure(tiny, claims=claims, prompts=pack)
        assert [one.measurement.key for one in found] == [claim.id]


def test_what_cannot_be_measured(tiny: Path) -> None:
    refused("There is nothing to measure: it needs a model", gb.measure, claims="safety.*")
    refused("A Llama", gb.measure, random_model("llama", **SMALL))
    refused("A tokenizer goes with one model in memory", gb.measure, tiny, tiny, tokenizer=tiny_tokenizer())
    refused(
        "There is no claim 'safety.base_sign' (did you mean safety.baseline_sign",
        gb.measure,
        tiny,
        claims="safety.base_sign",
    )
    refused("There is no folder /no/such/model", gb.measure, "/no/such/model")
