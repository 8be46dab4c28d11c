"""A model card's part: metadata that the Hub's library reads, markdown that no name breaks, a README otherwise untouched."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Shell
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard import metadata_load
from made import SUBJECT, measured

from geometry_bench import api
from geometry_bench.errors import GeometryBenchError
from geometry_bench.judging import judge_run
from geometry_bench.records.estimates import Estimate, Null
from geometry_bench.records.judgement import Judgement
from geometry_bench.records.measurement import Absence, Missing
from geometry_bench.report.card import BEGIN, END, eval_results, section
from geometry_bench.report.readme import new_readme, with_card

MODEL = "zoo/llama-d64/aligned"
STORED = "baselines/measured/zoo__llama-d64__aligned"
HOSTILE = "a|b`c<script>alert(1)</script>\n| d |‮x *y* [z](http://e)"


def results_of(data: object) -> list[object]:
    assert isinstance(data, ModelCardData)
    return list(data.eval_results or [])


@pytest.fixture(scope="module")
def stored() -> list[Judgement]:
    from geometry_bench.resources import data_root

    return judge_run(api.load(data_root() / STORED).measurements)


def of(value: float, claim: str = "safety.baseline_sign", **fields: object) -> Judgement:
    null = Null(name="unrelated prompts", draws=100, mean=0.3, sd=0.1, low=0.1, high=0.5, percentile=99)
    found = Estimate(value=value, error=0.02, low=value - 0.04, high=value + 0.04, n=8, null=null)
    (judged,) = judge_run([measured(claim=claim, estimate=found, **fields)])
    return judged


def test_the_hubs_library_reads_every_value_with_its_interval_null_and_verdicts(stored: list[Judgement]) -> None:
    data = ModelCard(new_readme(stored)).data
    assert isinstance(data, ModelCardData)
    found = {one.metric_name: one for one in data.eval_results or []}
    valued = {one.measurement.key: one for one in stored if one.measurement.estimate and one.measurement.estimate.value}
    assert data.model_name == MODEL
    assert valued.keys() == found.keys()
    for key, judged in valued.items():
        estimate, arguments = judged.measurement.estimate, found[key].metric_args or {}
        assert estimate is not None
        assert found[key].metric_value == pytest.approx(estimate.value, abs=1e-6)
        assert arguments["holds"] == judged.claim.verdict
        assert arguments["revision"] == judged.measurement.subject.revision
        assert arguments.get("null_5_to_95", [None])[0] == (
            pytest.approx(estimate.null.low, abs=1e-6) if estimate.null else None
        )


def test_what_fails_is_said_first_with_its_numbers_and_all_cases_are_there(stored: list[Judgement]) -> None:
    text = section(stored)
    assert (
        text.index("### Fails") < text.index("### Cannot be told") < text.index("### Holds") < text.index("### Values")
    )
    failing = [one for one in stored if one.claim.verdict == "FAILS"]
    assert f"**{len(failing)} fail**" in text
    assert "is not &gt; 0.99" in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == sum(one.measurement.estimate is not None for one in stored)
    absent = [one for one in stored if one.measurement.missing is not None]
    assert absent
    assert all(one.measurement.claim in text for one in absent)


def test_its_commands_are_of_this_command_line_and_name_every_claim(stored: list[Judgement]) -> None:
    import typer.main

    from geometry_bench.cli.app import app

    (block,) = re.findall(r"```sh\n(.*?)\n```", section(stored), re.DOTALL)
    named: list[str] = []
    for line in block.splitlines():
        program, command, *words = shlex.split(line)
        assert (program, command) == ("geometry-bench", "run")
        run = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
        named += run.make_context("run", words).params["claim"]
    assert set(named) == {one.measurement.claim for one in stored if one.was_asked}


def test_no_name_or_label_makes_markdown_html_or_a_wider_table() -> None:
    subject = SUBJECT.model_copy(update={"id": HOSTILE, "name": HOSTILE, "revision": HOSTILE})
    one = of(0.9, subject=subject, case="x|y`z")
    estimate = one.measurement.estimate.model_copy(update={"label": HOSTILE})  # type: ignore[union-attr]
    measurement = one.measurement.model_copy(update={"estimates": {"corrected": estimate}})
    text = section([replace(one, measurement=measurement)])
    before_commands = text[: text.index("### Measure it again")]
    assert "<script" not in before_commands
    assert "\u202e" not in before_commands
    table = [line for line in before_commands.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    data = ModelCard(new_readme([one])).data
    assert isinstance(data, ModelCardData)
    assert data.model_name == HOSTILE


README = """---
license: apache-2.0   # as the base
tags: [a,   b]
model-index:
- name: theirs
  results:
  - task: {type: text-generation}
    dataset: {name: Other, type: other/set}
    metrics: [{type: accuracy, value: 0.5}]
language:
- en
---
# A model

Text | with pipes, <b>html</b> and no more.

"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_readme_keeps_all_but_our_part_and_merging_again_changes_nothing(
    end: str, start: str, tmp_path: Path
) -> None:
    readme = start + README.replace("\n", end)
    once = with_card(readme, [of(-0.4)])
    assert with_card(once, [of(-0.4)]) == once
    path = tmp_path / "README.md"
    path.write_bytes(once.encode())
    assert b"\r\n" in path.read_bytes() or end == "\n"
    assert "\n" not in once.replace(end, "")
    for part in ("license: apache-2.0   # as the base", "tags: [a,   b]", f"language:{end}- en{end}---"):
        assert part in once
    assert once[: once.index("model-index")] == readme[: readme.index("model-index")]
    assert once[once.index("# A model") : once.index(BEGIN)].rstrip() == readme[readme.index("# A model") :].rstrip()
    loaded = metadata_load(path)
    assert loaded is not None
    (index,) = loaded["model-index"]
    assert index["name"] == "theirs"
    assert [one["dataset"]["type"] for one in index["results"]] == ["other/set", "geometry-bench"]
    later = with_card(once, [of(0.7)])
    assert ("-0.400" in once, "-0.400" in later, "+0.700" in later) == (True, False, True)
    assert results_of(ModelCard(later.removeprefix(start)).data)[1:] == eval_results([of(0.7)])


def test_a_readme_without_metadata_and_an_empty_one() -> None:
    merged = with_card("# Plain\n", [of(0.7)])
    assert merged.startswith("---\nmodel-index:")
    assert "# Plain\n" in merged
    assert with_card(merged, [of(0.7)]) == merged
    assert with_card("", [of(0.7)]) == new_readme([of(0.7)])


@pytest.mark.parametrize(
    ("readme", "words"),
    [
        (f"{BEGIN}\n", "1 opening and 0 closing lines"),
        (f"{END}\n{BEGIN}\n", "in order"),
        (f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n", "2 opening"),
        ("---\na: [\n---\n", "metadata cannot be read"),
        ("---\n- a\n---\n", "no list of keys"),
        ("---\n{model-index: [{name: x, results: []}]}\n---\n", "put it on lines of its own"),
        ("---\nmodel-index: 3\n---\n", "is not a list of models"),
    ],
)
def test_a_readme_that_cannot_be_merged_is_refused(readme: str, words: str) -> None:
    with pytest.raises(GeometryBenchError, match=re.escape(words)):
        with_card(readme, [of(0.7)])


def test_what_was_not_asked_for_is_not_told() -> None:
    absent = Missing(reason=Absence.NOT_ASKED, sentence="only with --answers")
    (unasked,) = judge_run([measured(claim="gate.answers", case="safe", estimates={}, missing=absent)])
    assert "gate.answers" not in section([of(0.7), unasked])


def test_the_command_prints_writes_and_merges(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, printed, _ = shell("card", MODEL, "--claim", "safety.baseline_sign")
    assert code == 0
    assert ModelCard(printed).data.to_dict()["model-index"][0]["name"] == MODEL
    from geometry_bench.resources import data_root

    api.load(data_root() / STORED).save("results")
    assert shell("card", MODEL, "--results", "results", "--out", "card.md")[1] == "written: card.md\n"
    assert "SAME" in (tmp_path / "card.md").read_text()
    (tmp_path / "README.md").write_text(README)
    for _ in range(2):
        assert shell("card", MODEL, "--results", "results", "--into", "README.md")[0] == 0
    assert (tmp_path / "README.md").read_text().count(BEGIN) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["zoo/llama-d64/aligne"], "Nothing was measured on zoo/llama-d64/aligne (did you mean zoo/llama-d64/aligned"),
        ([f"{MODEL}@abc"], "is to be of one revision and one kind of settings: there are none"),
        ([MODEL, "--claim", "audit.*"], "None of the claims asked for was measured on"),
        ([MODEL, "--into", "absent.md"], "absent.md cannot be read (No such file"),
        ([MODEL, "--into", "a.md", "--out", "b.md"], "give one of them"),
        ([MODEL, "--results", "nowhere"], "nowhere holds no measurements"),
    ],
)
def test_bad_input_is_one_sentence(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = shell("card", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert sentence in err
    assert not list(tmp_path.iterdir())
