"""From judgements to what a case shows, what a run warns of and returns, and its table."""

from __future__ import annotations

import itertools

import pytest
from made import SUBJECT, measured

from geometry_bench.records.estimates import Estimate, Null
from geometry_bench.records.judgement import (
    NOT_COMPARED,
    Answer,
    BaselineVerdict,
    ClaimVerdict,
    Judgement,
    PublishedVerdict,
    Reason,
)
from geometry_bench.report.outcomes import comparison_code, exit_code, outcome_of, properties, warnings_of
from geometry_bench.report.summary import counts_line, summary_tables


def judged(
    claim: str, baseline: str = "NO_BASELINE", before: str | None = None, subject: str = "org/name"
) -> Judgement:
    """A judgement of these verdicts."""
    null = Null(name="n", draws=100, mean=0.3, sd=0.1, low=0.1, high=0.45, percentile=99)
    found = Estimate(value=0.5, error=0.02, n=8, null=null)
    return Judgement(
        measurement=measured(estimate=found, subject=SUBJECT.model_copy(update={"id": subject})),
        claim=Answer(ClaimVerdict(claim), Reason.CHECKED, {"sentence": "value and interval"}),
        published=Answer(PublishedVerdict.REPRODUCED, Reason.COMPARED, {"reported": 0.51}),
        baseline=Answer(BaselineVerdict(baseline), Reason.NONE_STORED, {"sentence": "numbers", "old": 0.4}),
        stored_claim=None if before is None else ClaimVerdict(before),
        stored_note=None if before is None else "why it was stored",
    )


@pytest.mark.parametrize(
    ("claim", "baseline", "before", "kind", "words"),
    [
        ("HOLDS", "REGRESSION", "HOLDS", "failed", "REGRESSION: family.claim on org/name moved"),
        ("FAILS", "REGRESSION", "FAILS", "failed", "REGRESSION"),
        ("INCONCLUSIVE", "REGRESSION", "HOLDS", "failed", "REGRESSION"),
        ("NOT_APPLICABLE", "REGRESSION", "HOLDS", "failed", "REGRESSION"),
        ("FAILS", "NO_BASELINE", None, "failed", "the claim does not hold"),
        ("FAILS", "STALE", "HOLDS", "failed", "the claim does not hold"),
        (
            "FAILS",
            "INCOMPARABLE",
            "FAILS",
            "xfailed",
            "FAILS here: value and interval (baseline FAILS: why it was stored)",
        ),
        ("FAILS", "MATCH", "FAILS", "xfailed", "FAILS here: value and interval (baseline FAILS: why it was stored)"),
        ("FAILS", "DRIFT", "INCONCLUSIVE", "xfailed", "FAILS here"),
        ("HOLDS", "MATCH", "FAILS", "failed", "verdict flipped: family.claim on org/name was FAILS"),
        ("FAILS", "DRIFT", "HOLDS", "failed", "was HOLDS in the baseline and now FAILS"),
        ("HOLDS", "STALE", "FAILS", "passed", "value and interval"),
        ("INCONCLUSIVE", "MATCH", "INCONCLUSIVE", "xfailed", "INCONCLUSIVE: value and interval"),
        ("INCONCLUSIVE", "NO_BASELINE", None, "xfailed", "INCONCLUSIVE"),
        ("NOT_APPLICABLE", "MATCH", "NOT_APPLICABLE", "skipped", "value and interval"),
        ("HOLDS", "MATCH", "HOLDS", "passed", "value and interval"),
        ("HOLDS", "DRIFT", "HOLDS", "passed", ""),
        ("HOLDS", "INCOMPARABLE", "HOLDS", "passed", ""),
        ("HOLDS", "NO_BASELINE", None, "passed", ""),
    ],
)
def test_what_a_case_shows(claim: str, baseline: str, before: str | None, kind: str, words: str) -> None:
    found = outcome_of(judged(claim, baseline, before))
    assert found.kind == kind
    assert words in found.message
    if kind == "passed":
        assert found.warning == (None if baseline == "MATCH" else f"{baseline}: family.claim on org/name: numbers")


def test_no_combination_hides_a_regression_and_only_what_holds_passes() -> None:
    for claim, baseline, before in itertools.product(ClaimVerdict, BaselineVerdict, ClaimVerdict):
        one = judged(claim, baseline, before)
        kind = outcome_of(one).kind
        assert baseline is not BaselineVerdict.REGRESSION or kind == "failed"
        assert claim is ClaimVerdict.HOLDS or kind != "passed"
        assert exit_code([one]) == (kind == "failed")
        assert exit_code([one], comparing=True) == (2 if baseline in NOT_COMPARED else kind == "failed")
        assert (comparison_code([one]) == 2) == (baseline in NOT_COMPARED)


def test_what_a_run_stores_it_does_not_report_as_a_failure() -> None:
    for verdicts, updating, kind in (
        (("FAILS",), "new", "xfailed"),
        (("FAILS", "STALE", "HOLDS"), "new", "failed"),
        (("FAILS", "REGRESSION", "HOLDS"), "new", "failed"),
        (("FAILS", "REGRESSION", "HOLDS"), "changed", "xfailed"),
        (("HOLDS", "MATCH", "FAILS"), "changed", "passed"),
        (("HOLDS", "MATCH", "FAILS"), "trim", "failed"),
    ):
        assert outcome_of(judged(*verdicts), {updating}).kind == kind


def test_exit_codes_of_a_run_and_of_a_comparison() -> None:
    clean, fails, moved = judged("HOLDS", "MATCH", "HOLDS"), judged("FAILS"), judged("HOLDS", "REGRESSION", "HOLDS")
    known, flipped = judged("FAILS", "MATCH", "FAILS"), judged("HOLDS", "MATCH", "FAILS")
    assert exit_code([clean, known], comparing=True) == 0
    assert exit_code([clean, fails]) == 1
    assert exit_code([clean, fails], faults=1) == 2  # bad input outweighs a claim that fails
    assert [exit_code([clean, one], comparing=True, require=True) for one in (known, judged("HOLDS"))] == [0, 2]
    assert outcome_of(judged("HOLDS"), require=True).message.startswith("not compared: NO_BASELINE: family.claim")
    assert [comparison_code(one) for one in ([clean, known, fails], [clean, moved], [flipped], [fails], [])] == [
        0,
        1,
        1,
        2,
        2,
    ]


def test_many_warnings_of_a_kind_are_counted_together() -> None:
    assert warnings_of([judged("HOLDS")] * 3) == ["NO_BASELINE: family.claim on org/name: numbers"] * 3
    many = warnings_of([*[judged("HOLDS")] * 12, judged("HOLDS", "STALE", "HOLDS")])
    assert many == [
        "NO_BASELINE: family.claim on org/name: numbers (and 11 more of its cases)",
        "STALE: family.claim on org/name: numbers",
    ]
    assert warnings_of([judged("NOT_APPLICABLE")] * 2) == []  # nothing could be stored of these


def test_the_table_of_a_few_subjects_and_of_many() -> None:
    few = summary_tables([judged("HOLDS", "DRIFT", "HOLDS")]).splitlines()
    assert few[0] == f"org/name ({'a' * 12}, 2 blocks × 16, float32, cpu, sdpa)"
    cells = ["family.claim", "+0.500 ± 0.020", "+0.10…+0.45 (p99)", "+0.51 REPRODUCED", "+0.400 DRIFT", "HOLDS"]
    assert few[3].split("  ") == cells
    shown = properties(judged("HOLDS", "DRIFT", "HOLDS"))
    assert {shown["value"], shown["null"], shown["verdict"], shown["verdict_baseline"]} < {*cells, "DRIFT"}
    many = [judged("HOLDS", "REGRESSION", "HOLDS", f"m{place}") for place in range(5)]
    assert "family.claim  +0.50…+0.50  H!   H!   H!   H!   H!" in summary_tables(many).splitlines()
    assert summary_tables(many, whole=True).count("+0.400 REGRESSION") == counts_line(many).count("5") * 5 == 5
