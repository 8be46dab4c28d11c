"""The board: published values alone, measured ones among them, in every format."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace

import pytest
from planted import made_up

from geometry_bench.claims.registry import CLAIMS
from geometry_bench.errors import GeometryBenchError
from geometry_bench.judging import judge_run
from geometry_bench.report.board import Table, board
from geometry_bench.report.formats import formats, render

NAME = "org/a_b | & <c>"
STRICT, CROSS = (CLAIMS[name] for name in ("safety.compassion_alignment", "compassion.cross_tradition_cosine"))
CLAIMED = {STRICT.id: STRICT, CROSS.id: CROSS}


@pytest.fixture(scope="module")
def tables() -> list[Table]:
    measured = [
        made_up(STRICT.id, 0.9),
        made_up(STRICT.id, 0.41234567, NAME, error=0.0312),
        made_up(CROSS.id, -0.1204, NAME, "tara-agape", error=0.041),
        made_up(STRICT.id, 0.8),
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


def test_a_board_of_measurements_alone_has_the_later_of_two_and_parts_revisions_of_one_name() -> None:
    first, later = made_up(STRICT.id, 0.9), made_up(STRICT.id, 0.8)
    other = later.model_copy(update={"subject": later.subject.model_copy(update={"revision": "r2"})})
    (table,) = board(judge_run([first, later, other]), published=False)
    assert [(row.revision, row.cells[""].value) for row in table.rows] == [("r1", 0.8), ("r2", 0.8)]
    assert "org/model@r1" in render([table], "markdown")
    assert board([], published=False) == []


@pytest.mark.parametrize("name", formats())
def test_every_format_holds_all_values_and_an_empty_board_is_no_crash(name: str, tables: list[Table]) -> None:
    text = render(tables, name)
    assert text.endswith("\n")
    for value in ("0.412", "0.031", "0.120", "Gemma 2 9B"):
        assert value in text
    assert "published" not in render([], name)


def test_csv_and_json_lose_no_digits(tables: list[Table]) -> None:
    lines = list(csv.DictReader(io.StringIO(render(tables, "csv"))))
    assert len(lines) == sum(len(row.cells) for table in tables for row in table.rows)
    (own,) = (line for line in lines if line["subject"] == NAME and line["claim"] == STRICT.id)
    assert (own["value"], own["error"], own["revision"]) == ("0.41234567", "0.0312", "r1")
    assert json.loads(render(tables, "json"))[0]["rows"][-1]["cells"][""]["value"] == 0.41234567


def test_names_are_escaped(tables: list[Table]) -> None:
    page = render(tables, "html")
    assert "org/a_b | &amp; &lt;c&gt;" in page
    assert "<c>" not in page
    assert not re.search(r"(src|href)=|https?://|<script", page)
    assert r"org/a_b \| & <c>" in render(tables, "markdown")
    latex = render(tables, "latex")
    assert latex.isascii()
    assert r"org/a\_b | \& " in latex
    assert r"$-$0.120 $\pm$ 0.041" in latex


def test_latex_captions_escape_what_latex_reserves(tables: list[Table]) -> None:
    assert r"50\% \& more \_" in render([replace(tables[0], statement="50% & more _")], "latex")


def test_an_unknown_format_is_refused(tables: list[Table]) -> None:
    with pytest.raises(GeometryBenchError, match=r"no format 'pdf': choose one of csv, html, json, latex, markdown"):
        render(tables, "pdf")
