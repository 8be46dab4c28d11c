"""The leaderboard on published figures alone, with measured rows among them, in every format."""

from __future__ import annotations

import csv
import io
import re

import pytest
from geometry_bench.report.leaderboard import (
    BOARDS,
    Figure,
    LeaderboardRow,
    leaderboard,
    published_rows,
    render_leaderboard,
)
from geometry_bench.report.tables import FORMATS, Table, format_rows

from geometry_bench.errors import GeometryBenchError
from geometry_bench.published.load import load_publication
from geometry_bench.published.publication import Publication


@pytest.fixture(scope="module")
def published() -> Publication:
    return load_publication("safety_compassion")


@pytest.fixture(scope="module")
def rows(published: Publication) -> list[LeaderboardRow]:
    return published_rows(published)


MEASURED = LeaderboardRow(
    "org/a_b & <c>",
    "measured",
    None,
    {"safety_compassion": Figure(0.4123, 0.0312), "safety_baseline": Figure(-0.1204, 0.041)},
)


def test_the_two_tables_are_the_source_s(published: Publication, rows: list[LeaderboardRow]) -> None:
    """Rows in the printed order; every cell is the printed one, or carries a footnote that gives it."""
    slips = []
    for table, key in zip(leaderboard(rows), ("safety", "traditions"), strict=True):
        printed = published.tables[key]
        labels = [published.subjects[row.subject].label for row in printed.rows]
        assert [re.sub(r" \[\d+\]$", "", row[0]) for row in table.rows] == labels
        for row, source in zip(table.rows, printed.rows, strict=True):
            assert source.values is not None
            for cell, value in zip(row[-len(source.values) :], source.values, strict=True):
                if "[" in cell:
                    slips.append((source.subject, cell, value))
                    note = table.notes[int(cell.split("[")[1][:-1]) - 1]
                    assert f"the source prints {value:.2f}" in note
                else:
                    assert float(cell) == value
    assert slips == [("gemma-2-9b", "-0.30 [1]", -0.31), ("ke-v9", "0.80 [1]", 0.81)]


def test_three_slips_are_shown(rows: list[LeaderboardRow]) -> None:
    notes = [note for table in leaderboard(rows) for note in table.notes]
    assert len(notes) == 3
    for fragment in ("Gemma 2 9B, safety↔baseline", "KE v9, chenrezig↔agape", "Phi-4, tara↔agape"):
        assert sum(fragment in note for note in notes) == 1


def test_measured_rows_rank_among_published_ones_with_their_error(rows: list[LeaderboardRow]) -> None:
    safety, traditions = leaderboard([MEASURED, *rows])
    names = [row[0] for row in safety.rows]
    assert names.index("DeepSeek R1-Distill 7B") < names.index(MEASURED.subject) < names.index("KE v9")
    cells = safety.rows[names.index(MEASURED.subject)]
    assert list(cells[1:]) == ["measured", "not declared", "0.412 ± 0.031", "-0.120 ± 0.041"]
    assert MEASURED.subject not in [row[0] for row in traditions.rows], "it has no figure of that table"


def test_an_unknown_ranking_figure_goes_last_and_is_no_zero() -> None:
    low = LeaderboardRow("low", "measured", "SFT", {"safety_compassion": Figure(-0.9)})
    unknown = LeaderboardRow("unknown", "measured", "SFT", {"safety_baseline": Figure(0.9)})
    table = leaderboard([unknown, low])[0]
    assert [row[0] for row in table.rows] == ["low", "unknown"]
    assert list(table.rows[1][3:]) == ["–", "+0.900"]
    assert list(table.rows[0][3:]) == ["-0.900", "–"]


def test_csv_loses_nothing(rows: list[LeaderboardRow]) -> None:
    lines = list(csv.DictReader(io.StringIO(render_leaderboard([*rows, MEASURED], "csv"))))
    figures = {(line["table"], line["subject"], line["figure"]): line for line in lines}
    assert len(figures) == len(lines) == 8 * 2 + 2 + 8 * 4 + 1
    gemma = figures["safety", "Gemma 2 9B", "safety_baseline"]
    assert (gemma["value"], gemma["printed"]) == ("-0.3047", "-0.31")
    assert "round to -0.30" in gemma["note"]
    assert figures["safety", MEASURED.subject, "safety_compassion"]["error"] == "0.0312"
    assert figures["traditions", "Phi-4", "tara_agape"]["note"]


def test_html_is_self_contained_and_escaped(rows: list[LeaderboardRow]) -> None:
    page = render_leaderboard([*rows, MEASURED], "html")
    assert page.startswith("<!doctype html>")
    assert page.count("<table>") == page.count("</table>") == len(BOARDS)
    assert "org/a_b &amp; &lt;c&gt;" in page
    assert "<c>" not in page
    assert not re.search(r"(src|href)=|https?://|<script", page)
    assert '<span class="minus" style="--size:0.300">-0.30<sup>1</sup></span>' in page


def test_latex_sets_with_plain_characters(rows: list[LeaderboardRow]) -> None:
    text = render_leaderboard([*rows, MEASURED], "latex")
    assert text.isascii()
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    assert r"safety$\leftrightarrow$baseline" in text
    assert r"org/a\_b \& " in text
    assert r"$-$0.120 $\pm$ 0.041" in text


def test_markdown_keeps_signs_and_columns(rows: list[LeaderboardRow]) -> None:
    text = render_leaderboard(rows)
    line = next(line for line in text.splitlines() if line.startswith("| Apertus 8B"))
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "Apertus 8B",
        "published",
        "SFT only",
        "0.51",
        "+0.59",
    ]


@pytest.mark.parametrize("fmt", FORMATS)
def test_no_rows_is_an_empty_board_and_no_crash(fmt: str) -> None:
    text = render_leaderboard([], fmt)
    assert text.endswith("\n")
    assert "published" not in text


def test_unknown_format_is_refused(rows: list[LeaderboardRow]) -> None:
    with pytest.raises(GeometryBenchError, match=r"no format 'pdf'.*markdown, csv, latex, html"):
        render_leaderboard(rows, "pdf")


@pytest.mark.parametrize("fmt", FORMATS)
def test_plain_rows_in_every_format(fmt: str) -> None:
    text = format_rows(["claim", "value"], [["a_b", "+0.50"], ["c", "–"]], fmt)
    assert "+0.50" in text
    assert text.endswith("\n")


def test_a_pipe_in_a_cell_does_not_split_it() -> None:
    assert r"a\|b" in format_rows(["name"], [["a|b"]], "markdown")


def test_a_ragged_table_is_refused() -> None:
    with pytest.raises(ValueError, match="1 cells under 2"):
        Table("t", ["a", "b"], [["x"]])
