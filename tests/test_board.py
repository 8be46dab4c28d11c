"""The board: published values alone, measured ones among them, in every format."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from planted import made_up

from geometry_bench.claims.registry import CLAIMS
from geometry_bench.errors import GeometryBenchError
from geometry_bench.judging import judge_run
from geometry_bench.records.estimates import Null
from geometry_bench.records.facts import Requested
from geometry_bench.records.files import ResultsFile
from geometry_bench.records.measurement import Absence, Missing
from geometry_bench.records.reading import Kept, one_each, read_kept
from geometry_bench.report.board import Table, board, texts
from geometry_bench.report.formats import formats, render
from geometry_bench.resources import data_root

NAME = "org/x_b | & <c>"
STRICT, CROSS = (CLAIMS[name] for name in ("safety.compassion_alignment", "compassion.cross_tradition_cosine"))
BUNDLED = data_root() / "baselines" / "measured"
CLAIMED = {STRICT.id: STRICT, CROSS.id: CROSS}


@pytest.fixture(scope="module")
def tables() -> list[Table]:
    measured = [
        made_up(STRICT.id, 0.9),
        made_up(STRICT.id, 0.41234567, NAME, error=0.0312),
        made_up(CROSS.id, -0.1204, NAME, "tara-agape", error=0.041),
    ]
    return board(judge_run(measured), claims=CLAIMED)


def test_published_rows_come_first_and_hold_what_the_source_reports(tables: list[Table]) -> None:
    safety, cross = tables
    assert (safety.claim, cross.cases) == (STRICT.id, tuple(case.key for case in CROSS.cases))
    assert [row.kind for row in safety.rows] == ["published"] * 8 + ["measured"] * 2
    gemma = next(row for row in cross.rows if row.subject == "Gemma 2 9B")
    assert gemma.alignment is not None
    assert gemma.cells.keys() == {case.key for case in CROSS.cases}
    assert [table.rows[-1].subject for table in tables] == [NAME, NAME]
    assert list(cross.rows[-1].cells) == ["tara-agape"]


def test_a_row_is_a_subject_at_a_revision_with_its_settings_in_an_order_that_no_value_decides() -> None:
    first = made_up(STRICT.id, 0.1)
    others = [
        first.model_copy(update={"subject": first.subject.model_copy(update=changed)})
        for changed in ({"revision": "r0"}, {"dtype": "bfloat16"}, {"id": "zoo/a/b", "name": "zoo/a/b"})
    ]
    (table,) = board(judge_run([*others, first]), published=False)
    shown = [(row.kind, row.subject, row.revision, row.dtype) for row in table.rows]
    assert shown == [
        ("measured", "org/model", "r0", None),
        ("measured", "org/model", "r1", "bfloat16"),
        ("measured", "org/model", "r1", None),
        ("zoo", "zoo/a/b", "r1", None),
    ]
    assert board([], published=False) == []


def test_a_cell_holds_null_interval_and_verdicts_and_says_why_it_is_empty() -> None:
    null = Null(name="chance", draws=9, mean=0.0, sd=0.2, low=-0.3, high=0.6, percentile=90)
    inside = made_up(STRICT.id, 0.5, error=0.01, low=0.48, high=0.52, null=null)
    absent = inside.model_copy(
        update={
            "subject": inside.subject.model_copy(update={"revision": "r2"}),
            "estimates": {},
            "missing": Missing(reason=Absence.SAME_PROMPT, sentence="both prompts are the same"),
        }
    )
    guessed = inside.model_copy(
        update={
            "subject": inside.subject.model_copy(update={"revision": "r3"}),
            "inputs": inside.inputs.model_copy(update={"nats_per_token": {"benign": 9.0}, "uniform_nats": 8.0}),  # type: ignore[union-attr]
        }
    )
    (table,) = board(judge_run([inside, absent, guessed]), published=False)
    value, missing, unreadable = (row.cells[""] for row in table.rows)
    assert (value.low, value.null_high, value.verdict, value.reason) == (0.48, 0.6, "INCONCLUSIVE", "inside its null")
    assert (missing.value, missing.reason, missing.sentence) == (None, "same prompt", "both prompts are the same")
    assert (value.readable, unreadable.readable) == (True, False)
    told = [line[-1] for line in texts(table)]
    assert told[0] == "+0.500 ± 0.010 (null -0.30…+0.60) INCONCLUSIVE"
    assert told[1:] == ["– (same prompt)", f"{told[0]}, text not readable"]


def test_a_member_of_a_group_has_its_value_in_a_row_of_its_own() -> None:
    kept = read_kept(BUNDLED / "group__zoo-aligned")
    (found,) = [one.measurement for one in kept if one.measurement.key == "universal.auroc[neox-d64]"]
    (table,) = board(judge_run([found]), published=False)
    (row,) = table.rows
    assert (row.subject, row.within, row.kind, list(row.cells)) == (
        "zoo/neox-d64/aligned",
        "group/zoo-aligned",
        "zoo",
        ["member"],
    )


def test_of_a_case_measured_again_into_one_file_the_last_counts(tmp_path: Path) -> None:
    one, other = made_up(STRICT.id, 0.5), made_up(STRICT.id, 0.4)
    unasked = one.model_copy(
        update={"estimates": {}, "missing": Missing(reason=Absence.NOT_ASKED, sentence="it was not asked for")}
    )
    for measurement in (one, other, unasked):
        ResultsFile(tmp_path).write(measurement)
    assert [kept.measurement.estimates for kept in read_kept(tmp_path)] == [other.estimates]


def test_two_that_differ_are_refused_with_both_files_and_the_same_twice_counts_once(tmp_path: Path) -> None:
    one, other = made_up(STRICT.id, 0.5), made_up(STRICT.id, 0.4)
    unasked = one.model_copy(
        update={"estimates": {}, "missing": Missing(reason=Absence.NOT_ASKED, sentence="it was not asked for")}
    )
    files = [tmp_path / name / "records.jsonl" for name in ("a", "b", "c")]
    for file, measurement in zip(files, (one, other, unasked), strict=True):
        ResultsFile(file.parent).write(measurement)
    a, b, c = (read_kept(file.parent) for file in files)
    requested = one.subject.model_copy(update={"requested": Requested(dtype="float32")})
    asked = Kept(one.model_copy(update={"subject": requested}), files[0])
    assert [kept.measurement.estimates for kept in one_each([*c, *a, asked, *a, *c])] == [one.estimates]
    with pytest.raises(GeometryBenchError) as error:
        one_each([*a, *b])
    assert all(str(file) in str(error.value) for file in files[:2])
    assert "safety.compassion_alignment on org/model at r1" in str(error.value)
    assert "estimates" in str(error.value)


@pytest.mark.parametrize("name", formats())
def test_every_format_holds_all_values_and_an_empty_board_is_no_crash(name: str, tables: list[Table]) -> None:
    text = render(tables, name)
    assert text.endswith("\n")
    for value in ("0.412", "0.031", "0.120", "Gemma 2 9B", "r1"):
        assert value in text
    assert "org/" not in render([], name)


def test_csv_and_json_lose_no_digits(tables: list[Table]) -> None:
    lines = list(csv.DictReader(io.StringIO(render(tables, "csv"))))
    assert len(lines) == sum(len(row.cells) for table in tables for row in table.rows)
    (own,) = (line for line in lines if line["subject"] == NAME and line["claim"] == STRICT.id)
    assert (own["value"], own["error"], own["revision"]) == ("0.41234567", "0.0312", "r1")
    assert json.loads(render(tables, "json"))[0]["rows"][-1]["cells"][""]["value"] == 0.41234567


def test_names_are_escaped(tables: list[Table]) -> None:
    page = render(tables, "html")
    assert "org/x_b | &amp; &lt;c&gt;" in page
    assert "<c>" not in page
    assert not re.search(r"(src|href)=|https?://|<script", page)
    assert r"org/x_b \| & <c>" in render(tables, "markdown")
    latex = render(tables, "latex")
    assert latex.isascii()
    assert r"org/x\_b | \& " in latex
    assert r"$-$0.120 $\pm$ 0.041" in latex


def test_latex_captions_escape_what_latex_reserves(tables: list[Table]) -> None:
    assert r"50\% \& more \_" in render([replace(tables[0], statement="50% & more _")], "latex")


def test_an_unknown_format_is_refused(tables: list[Table]) -> None:
    with pytest.raises(GeometryBenchError, match=r"no format 'pdf': choose one of csv, html, json, latex, markdown"):
        render(tables, "pdf")
