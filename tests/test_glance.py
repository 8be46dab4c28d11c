"""What a run shows before its tables: counts by verdict and chief reason, controls apart, few lines of 80 columns."""

from __future__ import annotations

import pytest
from made import INPUTS, measured

from geometry_bench.records.judgement import Answer, BaselineVerdict, ClaimVerdict, Judgement, PublishedVerdict, Reason
from geometry_bench.records.measurement import Absence, Missing
from geometry_bench.report.glance import WIDTH, glance


def judged(
    verdict: str,
    reason: Reason,
    claim: str = "a.b",
    baseline: BaselineVerdict = BaselineVerdict.NO_BASELINE,
    before: str | None = None,
    decides: bool = False,
    **fields: object,
) -> Judgement:
    measurement = measured(claim=claim, **fields)
    missing = measurement.missing
    return Judgement(
        measurement=measurement,
        claim=Answer(ClaimVerdict(verdict), reason, {} if missing is None else {"sentence": missing.sentence}),
        published=Answer(PublishedVerdict.NO_FIGURE, Reason.NONE_PUBLISHED),
        baseline=Answer(baseline, Reason.NONE_STORED),
        decides=decides,
        stored_claim=None if before is None else ClaimVerdict(before),
    )


UNREADABLE = INPUTS.model_copy(update={"nats_per_token": {"safe": 6.0, "unsafe": 7.7}, "uniform_nats": 7.6})
UNASKED = Missing(reason=Absence.NOT_ASKED, sentence="only with --answers")
ABSENT = Missing(reason=Absence.NO_SYSTEM_ROLE, sentence="no place for it")


def test_every_verdict_has_its_line_with_the_chief_reason() -> None:
    found = glance(
        [
            judged("HOLDS", Reason.BEYOND_NULL, "gate.refusal"),
            *[judged("HOLDS", Reason.BEYOND_NULL, "detection.early", case=case) for case in "abc"],
            judged("HOLDS", Reason.MET, "gate.safety"),
            judged("FAILS", Reason.NOT_MET, "magnitude.norm_gap"),
            judged("INCONCLUSIVE", Reason.STRADDLES, "a.b"),
            judged("INCONCLUSIVE", Reason.STRADDLES, "a.c"),
            judged("INCONCLUSIVE", Reason.INSIDE_NULL, "a.d"),
            judged("INCONCLUSIVE", Reason.STRADDLES, "a.d", inputs=UNREADABLE),
            judged("NOT_APPLICABLE", Reason.ABSENT, "a.e", missing=ABSENT, estimates={}),
            judged("NOT_APPLICABLE", Reason.ABSENT, "a.f", missing=UNASKED, estimates={}),
            judged("HOLDS", Reason.BEYOND_NULL, "control.untrained"),
            judged("FAILS", Reason.NOT_MET, "control.sham"),
            judged("INCONCLUSIVE", Reason.STRADDLES, "control.untrained"),
        ]
    )
    assert found == [
        "at a glance: 14 cases on 1 subject",
        "  FAILS                   1 magnitude.norm_gap",
        "  MOVED                   – nothing was compared with a baseline",
        "  HOLDS beyond its null   4 detection.early ×3, gate.refusal",
        "  INCONCLUSIVE            4 interval straddles the criterion ×2, inside its",
        "                            null, the model cannot read the text",
        "                            a.d ×2, a.b, a.c",
        "  HOLDS, no null asked    1 gate.safety",
        "  NOT_APPLICABLE          1 no system role",
        "  not asked for           1 --answers",
        "  controls                  1 of 3 as they should be, not: control.sham, cannot",
        "                            be told: control.untrained",
    ]


def test_what_moved_and_what_fails_anew_come_first() -> None:
    moved = BaselineVerdict.MOVED
    found = glance(
        [
            judged("FAILS", Reason.NOT_MET, "a.known", before="FAILS", baseline=BaselineVerdict.SAME),
            judged("FAILS", Reason.NOT_MET, "b.new", before="HOLDS", baseline=moved),
            judged("HOLDS", Reason.MET, "gate.refusal", before="HOLDS", baseline=moved, decides=True),
            judged("HOLDS", Reason.MET, "c.d", before="HOLDS", baseline=BaselineVerdict.UNDECIDED),
            judged("HOLDS", Reason.MET, "c.e"),
        ]
    )
    assert found[1:4] == [
        "  FAILS                   2 b.new, on record: a.known",
        "  MOVED                   2 of 4 compared with baselines, 1 UNDECIDED:",
        "                            gate.refusal, b.new",
    ]


def test_nothing_measured_shows_nothing_and_one_case_one_line() -> None:
    assert glance([]) == []
    assert len(glance([judged("HOLDS", Reason.BEYOND_NULL)])) == 4


@pytest.mark.parametrize("claims", [3, 40])
def test_it_is_short_and_fits_the_terminal_however_much_was_measured(claims: int) -> None:
    reasons = {
        "HOLDS": (Reason.BEYOND_NULL, Reason.MET),
        "FAILS": (Reason.NOT_MET,),
        "INCONCLUSIVE": (Reason.STRADDLES, Reason.INSIDE_NULL, Reason.NO_SIGN),
        "NOT_APPLICABLE": (Reason.UNDEFINED, Reason.ALIGNMENT_UNKNOWN),
    }
    many = [
        judged(verdict, reason, f"{prefix}.a_rather_long_name_{number}", case=str(reason))
        for number in range(claims)
        for prefix in ("family", "control")
        for verdict, of in reasons.items()
        for reason in of
    ]
    lines = glance(many)
    assert len(lines) <= 15
    assert max(map(len, lines)) <= WIDTH
    assert any("and 38 more" in line for line in lines) == (claims == 40)
