"""From judgements to what a case shows, what a run warns of and returns, and its table."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

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
from geometry_bench.records.measurement import Absence, Missing
from geometry_bench.report.outcomes import Asked, comparison_code, exit_code, outcome_of, properties, warnings_of
from geometry_bench.report.summary import summary_tables
from geometry_bench.report.terminal import painted

COMPARING = Asked(comparing=True)


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
        ("HOLDS", "MOVED", "HOLDS", "failed", "MOVED: family.claim on org/name from its baseline"),
        ("FAILS", "MOVED", "FAILS", "failed", "MOVED"),
        ("INCONCLUSIVE", "MOVED", "HOLDS", "failed", "MOVED"),
        ("NOT_APPLICABLE", "MOVED", "HOLDS", "failed", "MOVED"),
        ("FAILS", "NO_BASELINE", None, "failed", "the claim does not hold"),
        ("FAILS", "STALE", "HOLDS", "failed", "the claim does not hold"),
        (
            "FAILS",
            "INCOMPARABLE",
            "FAILS",
            "xfailed",
            "FAILS here: value and interval (baseline FAILS: why it was stored)",
        ),
        ("FAILS", "SAME", "FAILS", "xfailed", "FAILS here: value and interval (baseline FAILS: why it was stored)"),
        ("FAILS", "UNDECIDED", "INCONCLUSIVE", "xfailed", "FAILS here"),
        ("HOLDS", "MOVED", "FAILS", "failed", "the claim was FAILS there and is HOLDS now"),
        ("HOLDS", "SAME", "FAILS", "passed", "value and interval"),  # a flip is no evidence of its own
        ("FAILS", "UNDECIDED", "HOLDS", "xfailed", "(baseline HOLDS: why it was stored)"),
        ("HOLDS", "STALE", "FAILS", "passed", "value and interval"),
        ("INCONCLUSIVE", "SAME", "INCONCLUSIVE", "xfailed", "INCONCLUSIVE: value and interval"),
        ("INCONCLUSIVE", "NO_BASELINE", None, "xfailed", "INCONCLUSIVE"),
        ("NOT_APPLICABLE", "SAME", "NOT_APPLICABLE", "skipped", "value and interval"),
        ("HOLDS", "SAME", "HOLDS", "passed", "value and interval"),
        ("HOLDS", "UNDECIDED", "HOLDS", "passed", ""),
        ("HOLDS", "INCOMPARABLE", "HOLDS", "passed", ""),
        ("HOLDS", "NO_BASELINE", None, "passed", ""),
    ],
)
def test_what_a_case_shows(claim: str, baseline: str, before: str | None, kind: str, words: str) -> None:
    found = outcome_of(judged(claim, baseline, before))
    assert found.kind == kind
    assert words in found.message
    if kind == "passed":
        assert found.warning == (None if baseline == "SAME" else f"{baseline}: family.claim on org/name: numbers")


def test_no_combination_hides_what_moved_and_only_what_holds_passes() -> None:
    for claim, baseline, before in itertools.product(ClaimVerdict, BaselineVerdict, ClaimVerdict):
        one = judged(claim, baseline, before)
        kind = outcome_of(one).kind
        assert baseline is not BaselineVerdict.MOVED or kind == "failed"
        assert claim is ClaimVerdict.HOLDS or kind != "passed"
        assert exit_code([one]) == (kind == "failed")
        untold = baseline in (*NOT_COMPARED, BaselineVerdict.UNDECIDED)
        assert exit_code([one], COMPARING) == (2 if untold else kind == "failed")
        assert (comparison_code([one]) == 2) == untold
        assert (comparison_code([one], "pass") == 2) == (baseline in NOT_COMPARED)


def test_whether_a_comparison_can_tell_is_read_from_the_claims_made_for_it() -> None:
    same, undecided, moved = (judged("HOLDS", verdict, "HOLDS") for verdict in ("SAME", "UNDECIDED", "MOVED"))
    tells, cannot, stale = (
        replace(judged("HOLDS", verdict, "HOLDS"), decides=True) for verdict in ("SAME", "UNDECIDED", "STALE")
    )
    absent = replace(judged("NOT_APPLICABLE"), decides=True)  # what the model has no place for is no missing answer
    runs = [[tells, undecided], [same, undecided], [cannot, same], [stale, same], [cannot, moved], [tells, absent]]
    assert [comparison_code(run) for run in runs] == [0, 2, 2, 2, 1, 0]
    assert [comparison_code(run, "pass") for run in runs] == [0, 0, 0, 0, 1, 0]
    assert outcome_of(cannot, COMPARING).message.startswith("cannot tell: family.claim on org/name: numbers")
    assert outcome_of(cannot, replace(COMPARING, undecided="pass")).kind == outcome_of(cannot).kind == "passed"
    assert outcome_of(undecided, COMPARING).kind == "passed"


def test_what_a_run_stores_it_does_not_report_as_a_failure() -> None:
    for verdicts, updating, kind in (
        (("FAILS",), "new", "xfailed"),
        (("FAILS", "STALE", "HOLDS"), "new", "failed"),
        (("FAILS", "MOVED", "HOLDS"), "new", "failed"),
        (("FAILS", "MOVED", "HOLDS"), "changed", "xfailed"),
        (("HOLDS", "MOVED", "HOLDS"), "changed", "passed"),
        (("HOLDS", "MOVED", "HOLDS"), "trim", "failed"),
    ):
        assert outcome_of(judged(*verdicts), Asked({updating})).kind == kind


def test_exit_codes_of_a_run_and_of_a_comparison() -> None:
    clean, fails, moved = judged("HOLDS", "SAME", "HOLDS"), judged("FAILS"), judged("HOLDS", "MOVED", "HOLDS")
    known, flipped = judged("FAILS", "SAME", "FAILS"), judged("HOLDS", "SAME", "FAILS")
    assert exit_code([clean, known], COMPARING) == 0
    assert exit_code([clean, fails]) == 1
    assert exit_code([clean, fails], faults=1) == 2  # bad input outweighs a claim that fails
    required = replace(COMPARING, require=True)
    assert [exit_code([clean, one], required) for one in (known, judged("HOLDS"))] == [0, 2]
    assert outcome_of(judged("HOLDS"), required).message.startswith("not compared: NO_BASELINE: family.claim")
    assert [comparison_code(one) for one in ([clean, known, fails], [clean, moved], [flipped], [fails], [])] == [
        0,
        1,
        0,
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
    few = summary_tables([judged("HOLDS", "UNDECIDED", "HOLDS")]).splitlines()
    assert few[0] == f"org/name ({'a' * 12}, 2 blocks × 16, float32, cpu, sdpa)"
    cells = ["family.claim", "+0.500 ± 0.020", "+0.10…+0.45 (p99)", "+0.51 REPRODUCED", "+0.400 UNDECIDED", "HOLDS"]
    assert few[3].split("  ") == cells
    shown = properties(judged("HOLDS", "UNDECIDED", "HOLDS"))
    assert {shown["value"], shown["null"], shown["verdict"], shown["verdict_baseline"]} < {*cells, "UNDECIDED"}
    many = [judged("HOLDS", "MOVED", "HOLDS", f"m{place}") for place in range(5)]
    assert "family.claim  +0.50 H!  +0.50 H!  +0.50 H!  +0.50 H!  +0.50 H!" in summary_tables(many).splitlines()
    assert summary_tables(many, whole=True).count("+0.400 MOVED") == 5


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_tables_fit_the_terminal_and_lose_nothing(width: int) -> None:
    null = Null(name="n", draws=100, mean=0.3, sd=0.1, low=0.1, high=0.45, percentile=99)
    found = Estimate(value=0.5, error=0.02, n=8, null=null, label="chenrezig-agape")
    cases = ["", "chenrezig-tara", "an_extremely_long_name_of_one_case_of_a_claim"]

    def judgements(models: int) -> list[Judgement]:
        return [
            replace(
                one, measurement=one.measurement.model_copy(update={"case": case, "estimates": {"corrected": found}})
            )
            for place in range(models)
            for case in cases
            for one in [judged("HOLDS", "MOVED", "HOLDS", f"org/a-name-of-some-length-{place}")]
        ]

    for models in (1, 4, 5, 9):
        text = summary_tables(judgements(models), width=width)
        table = [line for line in text.splitlines() if "blocks ×" not in line and "prints each" not in line]
        assert max(map(len, table)) <= max(width, 68), text
        assert text.count("H!" if models > 4 else "MOVED") == models * len(cases)
        assert all(case in text for case in cases)
        if models < 5:
            text = " ".join(text.split())
            assert text.count("+0.51 REPRODUCED") == text.count("chenrezig-agape") == models * len(cases)


def test_what_was_not_asked_for_is_in_no_table() -> None:
    absent = Missing(reason=Absence.NOT_ASKED, sentence="only with --answers")
    one = judged("NOT_APPLICABLE")
    unasked = replace(one, measurement=one.measurement.model_copy(update={"case": "x", "missing": absent}))
    assert not unasked.was_asked
    assert "family.claim[x]" in summary_tables(
        [replace(one, measurement=unasked.measurement.model_copy(update={"missing": None}))]
    )
    assert "[x]" not in summary_tables([one, unasked])


def test_colour_is_of_verdicts_alone_and_leaves_the_text_as_it_is() -> None:
    text = "at a glance\n  FAILS  2 a.b\nx.y  +0.50 F!  +0.50 i  -0.10 H~\nwarning: STALE: x\nno FAILSAFE, F or H"
    coloured = painted(text)
    assert re.sub(r"\x1b\[\d+m", "", coloured) == text
    lines = coloured.split("\n")
    assert lines[1] == "  \x1b[31mFAILS\x1b[0m  2 a.b"
    assert lines[2] == "x.y  +0.50 \x1b[31mF!\x1b[0m  +0.50 \x1b[33mi\x1b[0m  -0.10 \x1b[32mH~\x1b[0m"
    assert lines[4] == "no FAILSAFE, F or H"
