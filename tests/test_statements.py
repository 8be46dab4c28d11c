"""The audits: what they find, and that each finding follows the data when the data change."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from geometry_bench.claims import audited
from geometry_bench.claims.audit import AUDITED, Finding, audit, examine
from geometry_bench.errors import GeometryBenchError
from geometry_bench.judging import judge_run
from geometry_bench.published.load import SOURCES, load_publication, parse_publication
from geometry_bench.records.judgement import ClaimVerdict
from geometry_bench.records.measurement import Measurement
from geometry_bench.resources import data_root
from geometry_bench.run.execute import Session, execute
from geometry_bench.run.plan import plan
from geometry_bench.run.request import Request

Raw = dict[str, Any]
Change = Callable[[Raw], object]
A, B, _, D = SOURCES
FOLDER = data_root() / "baselines" / "published"
RAW: dict[str, Raw] = {s: json.loads((FOLDER / f"{s}.json").read_text(encoding="utf-8")) for s in AUDITED}
STORED = {finding.statement: finding for source in AUDITED for finding in audit(load_publication(source))}
SOURCE = {key: source for source in AUDITED for key in RAW[source]["statements"]}


def changed(key: str, change: Change) -> Finding:
    """The finding of a statement on changed data."""
    raw = copy.deepcopy(RAW[SOURCE[key]])
    change(raw)
    return examine(parse_publication(raw, "changed data"), key)


def test_all_statements_are_audited_and_say_where_they_stand() -> None:
    assert list(STORED) == list(SOURCE)
    assert len(STORED) == 48
    assert {source for source in SOURCES if load_publication(source).statements} == set(AUDITED)
    for finding in STORED.values():
        assert finding.sentence.endswith(".")
        assert len(finding.where) > 10
        assert finding.stated
        assert finding.explanation.endswith(".")
        assert all(isinstance(value, int | float | str | list) for value in finding.found.values())
    assert audit(load_publication("magnitude_variance")) == ()


CONTRADICTED: dict[str, tuple[str, ...]] = {
    "setup.suffering_messages": ("says 6", "used 8"),
    "table.safety": ("1 of 16", "Gemma 2 9B safety↔baseline", "-0.31", "-0.3047"),
    "table.traditions": ("1 of 32", "KE v9 chenrezig↔agape", "+0.81", "+0.8047"),
    "table.sorted_by_baseline": ("order is that", "2 of 8"),
    "table.finetune": ("1 of 12",),
    "safety.association_is_of_the_model": ("0.76", "0.11", "L-2", "0.806"),
    "compassion.range": ("0.3379", "0.9141", "0.43"),
    "compassion.buddhist_pair_rule": ("4 of 6", "Llama 3.1 8B", "Phi-4", "0.7422"),
    "compassion.phi4_both": ("tara↔agape is printed +0.81", "+0.8047"),
    "finetune.deltas": ("2 of 6", "chenrezig↔agape is printed +0.04", "+0.0313"),
    "finetune.all_pairs_increased": ("5 of 6", "tara↔agape -0.0312"),
    "companion.buddhist_range": ("0.8398 (block 30)", "0.85 to 0.9"),
    "companion.default_on_one_side": ("49 of 50", "empty↔secular block 31 -0.0588"),
    "shared_axis.mean_cosine": ("0.7700 over 7", "0.7300 in small", "0.8000 in large", "0.7440 without", "0.72"),
    "reference.above_half": ("4 of 5", "Pythia 410M 0.19"),
    "auroc.matches_overall": ("2 of 7", "-0.0817"),
    "alignment_error.moderate": ("0.4876 at λ = 1, an end", "0.4834 at λ = 1, an end"),
    "tables.5_extends_2": ("10 of 102", "Qwen-2.5 1.5B (aligned) top_k/utility at 0.5: 0.55 against 0.52"),
    "tables.2_orthogonal": ("section on orthogonal", "caption says parallel", "9 of 9"),
    "parallel.top_k_consistently": ("Of 70", "in 51", "below it in 7", "Llama-3.2 1B (safety-tuned) utility"),
    "orthogonal.removal_lowers_both": ("0 of 42",),
    "training.contamination": ("4,000 of 24,000", "16.7%", "20%"),
}


def test_audits_are_claims_and_just_these_fail_with_their_numbers() -> None:
    claims = {claim.id: claim for claim in audited.CLAIMS}
    found = execute(Session(plan(Request(publications=SOURCES, claims=claims))))
    judged = judge_run([one for one in found if isinstance(one, Measurement)], claims=claims)
    assert [one.measurement.case for one in judged] == list(STORED)
    failed = {one.measurement.case: one.claim.sentence for one in judged if one.claim.verdict is ClaimVerdict.FAILS}
    assert failed.keys() == CONTRADICTED.keys()
    assert all(fragment in failed[key] for key, fragments in CONTRADICTED.items() for fragment in fragments)
    assert {key for key, finding in STORED.items() if not finding.consistent} == failed.keys()


def cosine(subject: str, name: str, value: float) -> Change:
    """A cosine at the final block."""

    def change(raw: Raw) -> None:
        model = raw["subjects"][subject]
        model["curves"][name][str(model["layers"] - 1)] = value

    return change


def values(subject: str, **given: float) -> Change:
    return lambda raw: raw["subjects"][subject]["values"].update(given)


def together(*changes: Change) -> Change:
    return lambda raw: [change(raw) for change in changes]


def sweeps(raw: Raw, matching: str) -> list[Raw]:
    return [y for s in raw["subjects"].values() for name, y in s.get("curves", {}).items() if matching in name]


def entry(subject: str, name: str, fraction: str, value: float) -> Change:
    return lambda raw: raw["subjects"][subject]["curves"][name].update({fraction: value})


def _into_stated_range(raw: Raw) -> None:
    for model in raw["subjects"].values():
        for name in raw["lists"]["tradition_pairs"]:
            last = str(model["layers"] - 1)
            model["curves"][name][last] = min(max(model["curves"][name][last], 0.43), 0.90)


def _same_at_both_blocks(raw: Raw) -> None:
    for model in raw["subjects"].values():
        for name in ("benign/safety|chenrezig", "benign/safety|empty"):
            curve, last = model["curves"][name], model["layers"] - 1
            curve[str(last - 1)] = curve[str(last)]


def _buddhist_floor(raw: Raw) -> None:
    curve = raw["subjects"]["apertus-8b"]["curves"]["suffering/chenrezig|tara"]
    curve.update({block: max(value, 0.8516) for block, value in curve.items()})


def _all_universal_cosines_lower(raw: Raw) -> None:
    for subject in raw["subjects"].values():
        subject["values"]["universal_cosine"] -= 0.05


def _universal_as_native(raw: Raw) -> None:
    for subject in raw["subjects"].values():
        subject["values"]["auroc_universal"] = subject["values"]["auroc_native"]


def _table_2_again_in_5(raw: Raw) -> None:
    for subject in raw["subjects"].values():
        for kind in ("values", "curves"):
            again = {n.replace("table2", "table5"): y for n, y in subject[kind].items() if n.startswith("table2/")}
            subject[kind].update(copy.deepcopy(again))


def _top_k_at_the_ceiling(raw: Raw) -> None:
    for measure, ceiling in (("utility", 1.0), ("harm", 5.0)):
        for curve in sweeps(raw, f"top_k/{measure}"):
            curve.update(dict.fromkeys(curve, ceiling))


def _reversed_sweeps(raw: Raw) -> None:
    for curve in sweeps(raw, "table5/"):
        curve.update(zip(curve, [*reversed(curve.values())], strict=True))


FLIPS: dict[str, Change] = {
    "setup.suffering_messages": lambda raw: raw["protocol"]["suffering_messages"]["ids"].__delitem__(slice(6, None)),
    "setup.analysis_layers": lambda raw: raw["subjects"]["phi-4"]["curves"]["benign/safety|empty"].update({"27": -0.2}),
    "table.safety": cosine("gemma-2-9b", "benign/safety|empty", -0.3066),
    "table.traditions": cosine("ke-v9", "suffering/chenrezig|agape", 0.8086),
    "table.sorted_by_baseline": together(
        cosine("gemma-2-9b", "benign/safety|empty", -0.3066), cosine("llama-3.1-8b", "benign/safety|empty", -0.27)
    ),
    "table.finetune": cosine("ke-v9", "suffering/chenrezig|agape", 0.8086),
    "safety.compassion_range": cosine("yi-1.5-9b", "benign/safety|chenrezig", 0.60),
    "safety.nonnegative_group": cosine("yi-1.5-9b", "benign/safety|empty", -0.10),
    "safety.negative_group": cosine("gemma-2-9b", "benign/safety|empty", 0.10),
    "safety.mistral_between": cosine("mistral-7b", "benign/safety|empty", 0.10),
    "safety.ke_most_negative": cosine("ke-v9", "benign/safety|empty", -0.10),
    "safety.strict_range": cosine("yi-1.5-9b", "benign/safety|safety_strict", 0.60),
    "safety.association_final_block": cosine("apertus-8b", "benign/safety|empty", -0.60),
    "safety.association_is_of_the_model": _same_at_both_blocks,
    "compassion.all_positive": cosine("phi-4", "suffering/tara|rahma", -0.01),
    "compassion.range": _into_stated_range,
    "compassion.buddhist_pair_most": cosine("mistral-7b", "suffering/chenrezig|tara", 0.50),
    "compassion.buddhist_pair_rule": together(
        cosine("llama-3.1-8b", "suffering/chenrezig|tara", 0.85), cosine("phi-4", "suffering/chenrezig|tara", 0.85)
    ),
    "compassion.deepseek_tightest": cosine("deepseek-r1-distill", "suffering/tara|agape", 0.95),
    "compassion.phi4_both": cosine("phi-4", "suffering/tara|agape", 0.8086),
    "compassion.yi_highest": cosine("apertus-8b", "suffering/chenrezig|tara", 0.95),
    "finetune.deltas": together(
        cosine("ke-v9", "suffering/chenrezig|agape", 0.8134), cosine("ke-v9", "benign/safety|chenrezig", 0.3559)
    ),
    "finetune.all_pairs_increased": cosine("ke-v9", "suffering/tara|agape", 0.84),
    "finetune.secular_gap": cosine("ke-v9", "suffering/chenrezig|tara", -1.0),
    "finetune.safety_shift": cosine("ke-v9", "benign/safety|empty", -0.10),
    "companion.buddhist_range": _buddhist_floor,
    "companion.norms_grow": lambda raw: raw["subjects"]["apertus-8b"]["curves"]["norm/suffering/tara"].update(
        {"20": 1.0}
    ),
    "companion.default_on_one_side": cosine("apertus-8b", "suffering/empty|secular", 0.0588),
    "shared_axis.mean_cosine": _all_universal_cosines_lower,
    "shared_axis.clusters": values("pythia-160m", universal_cosine=0.3),
    "shared_axis.svd_rule": values("qwen2.5-7b-instruct", universal_cosine=0.82),
    "reference.above_half": values("pythia-410m", reference_cosine=0.51),
    "auroc.matches_overall": _universal_as_native,
    "auroc.small_models_most": values("llama2-13b-chat", auroc_universal=1.0, auroc_native=0.5),
    "auroc.weak_directions_gain": values("pythia-410m", auroc_universal=0.60),
    "regime_break.llama2": values("llama2-13b-chat", auroc_universal=0.7653),
    "alignment_error.moderate": lambda raw: [curve.update({"0.1": 0.3}) for curve in sweeps(raw, "alignment_error")],
    "tables.4_extends_1": entry("llama-3.2-1b", "table4/aligned/random/harm", "0.5", 3.35),
    "tables.5_extends_2": _table_2_again_in_5,
    "tables.same_start": values("qwen-2.5-1.5b", **{"table5/aligned/base/harm": 3.3}),
    "tables.2_orthogonal": lambda raw: raw["tables"]["2"].update(caption="orthogonal"),
    "parallel.top_k_consistently": _top_k_at_the_ceiling,
    "parallel.together": entry("qwen-2.5-3b", "table4/aligned/top_k/harm", "0.99", 1.40),
    "orthogonal.removal_lowers_both": _reversed_sweeps,
    "orthogonal.no_selective_removal": entry("qwen-2.5-7b", "table5/aligned/top_k/utility", "0.5", 0.80),
    "training.contamination": lambda raw: raw["protocol"]["training_examples"].update(harmful=5000),
    "general_ability.mmlu": values("qwen-2.5-3b", mmlu_high=0.66),
    "over_refusal.xstest": values("qwen-2.5-3b", over_refusal_high=0.09),
}


@pytest.mark.parametrize("key", list(STORED))
def test_every_finding_flips_with_the_data(key: str) -> None:
    finding = changed(key, FLIPS[key])
    assert finding.consistent is not STORED[key].consistent, finding.explanation
    assert finding.explanation != STORED[key].explanation


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("safety.nonnegative_group", lambda raw: raw["subjects"]["yi-1.5-9b"].update(alignment_method="DPO")),
        ("safety.nonnegative_group", cosine("ke-v9", "benign/safety|chenrezig", 0.48)),
        ("safety.nonnegative_group", cosine("ke-v9", "benign/safety|empty", 0.1)),
        ("safety.negative_group", lambda raw: raw["subjects"]["phi-4"].update(alignment_method="SFT")),
        ("safety.ke_most_negative", cosine("ke-v9", "benign/safety|chenrezig", 0.2)),
        ("compassion.deepseek_tightest", cosine("deepseek-r1-distill", "suffering/agape|rahma", 0.9)),
        ("compassion.all_positive", lambda raw: raw["subjects"].pop("mistral-7b") and _without(raw, "mistral-7b")),
        ("auroc.small_models_most", values("pythia-410m", auroc_universal=0.60)),
        ("regime_break.llama2", values("llama2-13b-chat", reference_cosine=0.4)),
        ("shared_axis.svd_rule", lambda raw: raw["groups"]["large"]["cosines"].update(_ONE_PAIR)),
        ("tables.4_extends_1", lambda raw: raw["tables"]["4"]["rows"].pop(1)),
    ],
)
def test_every_part_of_a_sentence_counts(key: str, change: Change) -> None:
    assert STORED[key].consistent
    assert not changed(key, change).consistent


_ONE_PAIR = {"mistral-7b-instruct|llama2-13b-chat": 0.35}


def _without(raw: Raw, subject: str) -> None:
    for table in raw["tables"].values():
        table["rows"] = [row for row in table["rows"] if row["subject"] != subject]


def test_what_is_stated_is_read_not_remembered() -> None:
    for key, stated in (
        ("compassion.range", {"low": 0.34, "high": 0.91}),
        ("shared_axis.mean_cosine", {"value": 0.77}),
    ):
        assert changed(key, lambda raw, k=key, s=stated: raw["statements"][k]["stated"].update(s)).consistent  # type: ignore[misc]


def test_numbers_are_found_not_only_told() -> None:
    ranged = STORED["compassion.range"].found
    assert (ranged["low"], ranged["high"], ranged["count"]) == (0.3379, 0.9141, 48)
    assert all(max(lower) < min(upper) for lower, upper in pairwise(STORED["safety.mistral_between"].found.values()))
    assert STORED["safety.association_is_of_the_model"].found["p"] == pytest.approx(0.806, abs=5e-4)
    assert max(STORED["shared_axis.svd_rule"].found.values()) < 0.01


def test_one_exception_is_enough_and_a_tie_is_none() -> None:
    tie = together(_top_k_at_the_ceiling, entry("qwen-2.5-7b", "table4/aligned/random/harm", "0.5", 5.0))
    exception = together(tie, entry("qwen-2.5-7b", "table4/aligned/top_k/harm", "0.5", 4.99))
    assert changed("parallel.top_k_consistently", tie).consistent
    found = changed("parallel.top_k_consistently", exception)
    assert not found.consistent
    assert found.found["exceptions"] == ["Qwen-2.5 7B harm at ρ=0.5 (4.99, random 5)"]


def test_missing_values_and_checks_are_errors() -> None:
    no_such = {"sentence": "S.", "where": "nowhere", "stated": {}, "check": {"kind": "function"}}
    for key, change, message in (
        ("auroc.matches_overall", lambda raw: raw["subjects"]["pythia-1b"]["values"].pop("auroc_native"), "no auroc_n"),
        ("alignment_error.moderate", lambda raw: [s.pop("curves", 0) for s in raw["subjects"].values()], "to check"),
        ("general_ability.mmlu", lambda raw: _no_text_values(raw), r"mmlu_\* to check"),
        ("safety.mistral_between", lambda raw: _stated(raw).update(subject="gpt"), "on one of its rungs"),
        ("compassion.range", lambda raw: raw["statements"]["compassion.range"]["stated"].pop("low"), "needs 'low'"),
    ):
        with pytest.raises(GeometryBenchError, match=message):
            changed(key, change)
    raw = copy.deepcopy(RAW[B])
    raw["statements"]["new.sentence"] = no_such
    publication = parse_publication(raw, "changed data")
    for run in (audit, lambda publication: examine(publication, "new.sentence")):
        with pytest.raises(GeometryBenchError, match=r"new\.sentence"):
            run(publication)
    with pytest.raises(GeometryBenchError, match="no statement 'gossip'"):
        examine(publication, "gossip")


def _no_text_values(raw: Raw) -> None:
    for subject in raw["subjects"].values():
        subject["values"] = {name: value for name, value in subject["values"].items() if name.startswith("table")}


def _stated(raw: Raw) -> Raw:
    stated: Raw = raw["statements"]["safety.mistral_between"]["stated"]
    return stated
