"""The site: pure, whole, linked, and safe to open whatever its subjects are called."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from posixpath import dirname, join, normpath
from urllib.parse import unquote, urlsplit

import pytest
from conftest import Shell, read_lines
from planted import made_up
from sites import EVIL, bundled, everything

from geometry_bench.claims.registry import CLAIMS
from geometry_bench.records.facts import RequestFacts
from geometry_bench.records.files import ResultsFile
from geometry_bench.records.measurement import Measurement
from geometry_bench.report.board import grouped, headline
from geometry_bench.report.command import command_of
from geometry_bench.report.site import build, contents_of
from geometry_bench.report.site.places import anchor, subject_page

STRICT = "safety.compassion_alignment"


class Read(HTMLParser):
    """What a browser makes of a page: ids, links, scripts, and text outside of them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.tags: Counter[str] = Counter()
        self.handlers: list[str] = []
        self.data: list[object] = []
        self.text = ""
        self._kind: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.tags[tag] += 1
        self.ids.update([given["id"]] if "id" in given else [])
        self.links += [given["href"]] if tag == "a" else []
        self.fetched += [given[name] for name in ("src", "href") if name in given and tag != "a"]
        self.handlers += [name for name in given if name.startswith("on") or name == "style"]
        self._kind = given.get("type", "script") if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._kind = None if tag == "script" else self._kind

    def handle_data(self, data: str) -> None:
        if self._kind == "application/json":
            self.data.append(json.loads(data))
        elif self._kind is None:
            self.text += data


@pytest.fixture(scope="module")
def site() -> Mapping[str, str | bytes]:
    return build(contents_of(everything()))


@pytest.fixture(scope="module")
def read(site: Mapping[str, str | bytes]) -> Mapping[str, Read]:
    return {place: Read(str(text)) for place, text in site.items() if place.endswith(".html")}


def test_the_same_files_give_the_same_bytes_in_whatever_order_they_are_read(site: Mapping[str, str | bytes]) -> None:
    again = build(contents_of([*reversed(everything()), *bundled()]))
    assert list(again) == list(site)
    assert [place for place in site if site[place] != again[place]] == []


def test_every_link_leads_to_a_place_of_the_site_and_nothing_is_fetched_from_elsewhere(
    site: Mapping[str, str | bytes], read: Mapping[str, Read]
) -> None:
    lost = []
    for place, page in read.items():
        assert not [id for id, count in page.ids.items() if count > 1], place
        for link in (*page.links, *page.fetched):
            target = urlsplit(link)
            assert not target.scheme, (place, link)
            assert not target.netloc, (place, link)
            there = normpath(join(dirname(place), target.path)) if target.path else place
            known = there in site and (not target.fragment or unquote(target.fragment) in read[there].ids)
            lost += [] if known else [(place, link)]
    assert lost == []


def test_cells_of_the_board_lead_to_their_measurements(read: Mapping[str, Read]) -> None:
    boards = {place: page for place, page in read.items() if place == "index.html" or place.startswith("board/")}
    assert len(boards) > 5
    for place, page in boards.items():
        data = page.data[0]
        assert isinstance(data, dict)
        for row in data["rows"]:
            there = read[normpath(join(dirname(place), row["page"]))]
            assert [cell for cell in row["cells"] if cell is not None and unquote(cell[6]) not in there.ids] == []


def test_hostile_text_is_text(site: Mapping[str, str | bytes], read: Mapping[str, Read]) -> None:
    """Names, notes, labels and prompts with tags, quotes, marks of direction and very long words."""
    own = subject_page((EVIL, "r1", EVIL))
    assert own in site
    assert read[own].text.count(EVIL) >= 8
    for place, page in read.items():
        assert page.handlers == [], place
        assert page.tags["img"] == 0, place
        scripts = re.findall(r"<script[^>]*>(.*?)</script>", str(site[place]), re.DOTALL)
        assert len(scripts) == page.tags["script"]
        assert all("<" not in script for script in scripts), place
    board = read["index.html"].data[0]
    assert isinstance(board, dict)
    assert EVIL in [row["name"] for row in board["rows"]]
    assert re.search(r"<bdi>&lt;script&gt;", str(site[own]))


def test_values_of_text_that_a_model_cannot_read_are_flagged(read: Mapping[str, Read]) -> None:
    board = read["index.html"].data[0]
    assert isinstance(board, dict)
    flagged = {row["name"] for row in board["rows"] if any(cell and len(cell) > 7 for cell in row["cells"])}
    assert flagged == {EVIL}
    assert "unreadable" in read[subject_page((EVIL, "r1", EVIL))].text
    assert "unreadable" in read["claims/safety.compassion_alignment.html"].text


def test_pages_allow_no_script_but_their_own(site: Mapping[str, str | bytes]) -> None:
    policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data: blob:;"
    assert all(policy in str(text) for place, text in site.items() if place.endswith(".html"))


def test_names_of_files_are_plain_and_no_two_differ_in_case_alone(site: Mapping[str, str | bytes]) -> None:
    assert all(re.fullmatch(r"([a-z0-9_.-]+/)?[a-z0-9_.-]{1,90}", place) for place in site)
    names = ["Org/A", "org/a", "org-a", "org a", "../../etc/passwd", "", "ß", "a" * 500, "a" * 501, "\ud800"]
    pages = {subject_page((name, "r", "s")) for name in names}
    assert len({page.casefold() for page in pages}) == len(names)
    assert all(re.fullmatch(r"subjects/[a-z0-9-]{1,70}\.html", page) for page in pages)
    assert len({anchor(key) for key in ("a.b[c]", "a.b.c]", "A.b[c]", "a.b[c/d]", "a.b[c d]")}) == 5


def test_a_measurement_is_told_whole(read: Mapping[str, Read]) -> None:
    place = next(place for place in read if "smollm2" in place and place.startswith("subjects/"))
    text = " ".join(read[place].text.split())
    for told in (
        "+0.242 ± 0.162",
        "95 % −0.161 … +0.575",
        "null +0.25 … +0.64, p3",
        "INCONCLUSIVE: +0.242 [-0.161, +0.575] straddles the criterion > 0",
        "geometry-bench run --model FOLDER --name FOLDER=HuggingFaceTB/SmolLM2-135M-Instruct",
        "--dtype float32 --attention sdpa --claim safety.compassion_alignment",
        "FOLDER: a folder of content sha256:6670d59cfa93410cd539835355e523f7c82d1cf5e19d698b1db0828c5b0ba42c",
        "transformers 5.23.0",
        "git commit of geometry-bench",
        "the model refuses 0 of 31 requests, so there is nothing to lower; give others with --set unsafe=SET",
    ):
        assert told in text, told


def test_nothing_measured_still_shows_what_is_published(tmp_path: Path) -> None:
    page = Read(str(build(contents_of([]))["index.html"]))
    data = page.data[0]
    assert isinstance(data, dict)
    assert [data["kinds"][row["kind"]] for row in data["rows"]] == ["published"] * 9


def test_the_board_opens_with_cases_that_are_declared_and_its_groups_hold_them_all() -> None:
    assert len(headline().columns) == 11
    keys = [column.key for group in grouped() for column in group.columns]
    assert len(keys) == len(set(keys))
    assert {column.claim.id for group in grouped() for column in group.columns} == set(CLAIMS)


# The command


def test_a_report_is_written_whole_replaced_and_no_other_folder_is_touched(shell: Shell, tmp_path: Path) -> None:
    out, results = tmp_path / "deep" / "out", tmp_path / "results"
    ResultsFile(results).write(made_up(STRICT, 0.5))
    ResultsFile(results).write(made_up("mine.own", 0.5))
    code, said, err = shell("report", results, "--out", out)
    assert (code, err) == (0, "warning: left out, since no such claims are declared: mine.own\n")
    assert said.splitlines()[-1] == f"written: {out / 'index.html'}"
    (out / "index.html").write_text("old")
    assert shell("report", results, "--out", out)[0] == 0
    assert "Board" in (out / "index.html").read_text(encoding="utf-8")
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    code, _, err = shell("report", results, "--out", results)
    assert code == 2
    assert "was not written by this command" in err
    assert len(read_lines(results)) == 2


def test_two_runs_that_differ_are_refused_and_nothing_is_written(shell: Shell, tmp_path: Path) -> None:
    for name, value in (("a", 0.5), ("b", 0.4)):
        ResultsFile(tmp_path / name).write(made_up(STRICT, value))
    for arguments in (
        ("report", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out"),
        ("leaderboard", "--results", tmp_path / "a", "--results", tmp_path / "b", "--output", tmp_path / "out"),
    ):
        code, said, err = shell(*arguments)
        assert (code, said) == (2, "")
        assert str(tmp_path / "a" / "records.jsonl") in err
        assert str(tmp_path / "b" / "records.jsonl") in err
    assert not (tmp_path / "out").exists()


def test_a_printed_command_gives_the_printed_value(
    shell: Shell, tmp_path: Path, read: Mapping[str, Read], site: Mapping[str, str | bytes]
) -> None:
    (kept,) = [
        one.measurement
        for one in bundled()
        if (one.measurement.key, one.measurement.subject.id) == ("magnitude.norm_gap", "zoo/llama-d80/aligned")
    ]
    line = command_of(kept, CLAIMS["magnitude.norm_gap"]).line
    subject = kept.subject
    place = subject_page((subject.id, subject.revision, subject.settings))
    assert line in read[place].text
    program, *words = shlex.split(line)
    assert program == "geometry-bench"
    code, _, err = shell(*words, "--results", tmp_path)
    assert code == 0, err
    (again,) = (Measurement.model_validate(one) for one in read_lines(tmp_path))
    assert again.estimate is not None
    assert kept.estimate is not None
    assert again.estimate.value == pytest.approx(kept.estimate.value, abs=1e-6)


def test_commands_name_what_decides() -> None:
    one = made_up("gate.refusal", 0.5, "org/name")
    sets = [
        RequestFacts(name="safe", origin="pack", revision="r", hash="h", count=20, available=300),
        RequestFacts(
            name="my.csv",
            origin="file",
            revision="sha256:f",
            hash="h",
            column="text",
            where={"a": "1"},
            count=20,
            available=90,
        ),
    ]
    facts = one.subject.model_copy(
        update={"revision": "c" * 40, "alignment": "SFT + DPO", "dtype": "bfloat16", "attention": "eager"}
    )
    inputs = one.inputs.model_copy(update={"requests": sets, "pack": "requests"}) if one.inputs else None
    line = command_of(one.model_copy(update={"subject": facts, "inputs": inputs}), CLAIMS["gate.refusal"]).line
    assert line == (
        f"geometry-bench run --model org/name --revision {'c' * 40} --alignment 'org/name=SFT + DPO' --dtype bfloat16 "
        "--attention eager --requests 20 --set 'unsafe=my.csv:text?a=1' --claim gate.refusal"
    )
    asked = command_of(one, CLAIMS["gate.answers"]).line
    assert asked.endswith("--answers --claim gate.answers")
    assert all(
        command_of(found.measurement, CLAIMS[found.measurement.claim]).line.startswith("geometry-bench ")
        for found in bundled()
    )
