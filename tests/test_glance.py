"""What a run shows before its tables: counts by verdict and chief reason, controls apart, few lines of 80 columns."""

from __future__ import annotations

import pytest
from made import INPUTS, measured

from geometry_bench.records.judgement import Answer, BaselineVerdict, ClaimVerdict, Judgement, PublishedVerdict, Reason
from geometry_bench.records.measurement import Absence, Missing
from geometry_bench.report.glance import WIDTH, glance


def judged(verdict: str, reason: Reason, claim: str = "a.b", **fields: object) -> Judgement:
    return Judgement(
        measurement=measured(claim=claim, **fields),
        claim=Answer(ClaimVerdict(verdict), reason),
        published=Answer(PublishedVerdict.NO_FIGURE, Reason.NONE_PUBLISHED),
        baseline=Answer(BaselineVerdict.NO_BASELINE, Reason.NONE_STORED),
    )


UNREADABLE = INPUTS.model_copy(update={"nats_per_token": {"safe": 6.0, "unsafe": 7.7}, "uniform_nats": 7.6})
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
            judged("HOLDS", Reason.BEYOND_NULL, "control.untrained"),
            judged("FAILS", Reason.NOT_MET, "control.sham"),
            judged("INCONCLUSIVE", Reason.STRADDLES, "control.untrained"),
        ]
    )
    assert found == [
        "at a glance: 14 cases on 1 subject",
        "  holds beyond its null   4 detection.early ×3, gate.refusal",
        "  holds, no null asked    1 gate.safety",
        "  fails                   1 magnitude.norm_gap",
        "  cannot be told          4 interval straddles the criterion ×2, inside its",
        "                            null, the model cannot read the text",
        "                            a.d ×2, a.b, a.c",
        "  not applicable          1 no system role",
        "  controls                  1 of 3 as they should be, not: control.sham, cannot",
        "                            be told: control.untrained",
    ]


def test_nothing_measured_shows_nothing_and_one_case_one_line() -> None:
    assert glance([]) == []
    assert len(glance([judged("HOLDS", Reason.BEYOND_NULL)])) == 2


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
    assert len(lines) <= 12
    assert max(map(len, lines)) <= WIDTH
    assert any("and 38 more" in line for line in lines) == (claims == 40)
