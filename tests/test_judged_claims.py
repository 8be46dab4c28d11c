"""Claims on answers with a judge that a run chooses: what it lacks, what it gives, and how a run that it stops goes on."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench, Shell
from endpoints import KEY, Endpoint, message
from models import TEMPLATES, tiny_model
from planted import made_up

from geometry_bench.behavior.judges import local, rubric
from geometry_bench.behavior.judges.choice import JudgeChoice
from geometry_bench.behavior.judges.kept import Verdicts
from geometry_bench.behavior.judges.local import LocalJudge
from geometry_bench.behavior.judges.verdict import Rules, scores
from geometry_bench.behavior.projected import projected
from geometry_bench.behavior.refusals import VERSION, refuses
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.errors import GeometryBenchError
from geometry_bench.labs import projections
from geometry_bench.records.comparability import unlike
from geometry_bench.records.facts import BEFORE_JUDGES, JudgeRecord, judge_name
from geometry_bench.records.files import read_measurements
from geometry_bench.records.measurement import Absence, Measurement
from geometry_bench.subjects.load import load
from geometry_bench.subjects.spec import SubjectSpec

ONE_CASE = """
from dataclasses import replace
from geometry_bench.claims.registry import CLAIMS as ALL
found = ALL["weights.parallel_projection"]
CLAIMS = (replace(found, id="mine.parallel", cases=tuple(case for case in found.cases if case.key == "harmful")),)
"""


@pytest.fixture
def one_case(tmp_path: Path) -> list[object]:
    """Options that measure one small case in which harm is judged."""
    file = tmp_path / "mine.py"
    file.write_text(ONE_CASE, encoding="utf-8")
    return [
        *("run", "--weights", "zoo/llama-d80", "--requests", 6, "--answers", "--claims", file),
        *("--claim", "mine.parallel", "--activation-cache", tmp_path / "cache", "--baselines", tmp_path / "none"),
    ]


def answer_in(asked: str) -> str:
    return re.findall(r"<answer>\n(.*?)\n</answer>", asked, re.DOTALL)[0]


def half(asked: str) -> int:
    """The grade in the middle for every answer that the rules do not call a refusal."""
    return 1 if refuses(answer_in(asked)) else 3


def measured(folder: Path) -> Measurement:
    (found,) = read_measurements(folder / "records.jsonl")
    return found


def test_a_run_that_the_judge_stops_goes_on_and_its_value_is_that_of_the_scores(
    one_case: list[object],
    endpoint: tuple[Endpoint, str],
    shell: Shell,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state, url = endpoint
    points: list[Any] = []

    def counted(subject: Any, task: Any, source: Any, plan: Any, **more: Any) -> Any:
        points.append(plan)
        return projected(subject, task, source, plan, **more)

    monkeypatch.setattr("geometry_bench.behavior.projected.projected", counted)
    for name, value in (("SEEDS", 2), ("ANSWER_TOKENS", 12), ("GRADED_TOKENS", 12)):
        monkeypatch.setattr(projections, name, value)
    monkeypatch.setenv("MINE", KEY)
    judge = ["--judge", "openai:grader", "--judge-url", url, "--judge-key-env", "MINE"]
    judge += ["--judge-option", "max_completion_tokens=20", "--judge-option", "seed=1"]
    results = tmp_path / "judged"

    state.replies = [half, half, half, (404,)]
    code, out, err = shell(*one_case, *judge, "--results", results)
    assert code == 2
    assert re.search(
        rf"grader at {re.escape(url)} answers with status 404.*: 3 of \d+ verdicts are kept, run again", err
    )
    assert KEY not in out + err
    assert not (results / "records.jsonl").exists() or not list(read_measurements(results / "records.jsonl"))
    assert len(points) == 27  # two ends, five shares of Top-K, of two controls with two seeds

    refusal = message(refusal="No.")
    state.replies = [refusal, half]
    code, out, err = shell(*one_case, *judge, "--results", results, "--resume")
    assert code == 2
    assert re.search(r"answers have no score \(\d+ × the judge refused to grade\)", err)

    asked = len(state.seen)
    code, out, err = shell(*one_case, *judge, "--results", results, "--resume")
    assert code in (0, 1)
    assert f"harm judged by grader at {url}" in out
    assert len(state.seen) == asked + 1  # it alone had no verdict
    assert len(points) == 27
    assert len({one["messages"][0]["content"] for one in state.seen}) == len(state.seen) - 2  # none but those two again
    judged = measured(results)

    code, out, err = shell(*one_case, "--results", tmp_path / "rules")
    assert len(points) == 27  # answers are judged, not generated, once more
    rules = measured(tmp_path / "rules")

    assert judged.inputs is not None
    options = {"max_completion_tokens": 20, "seed": 1}
    assert judged.inputs.judge == JudgeRecord.of(
        JudgeChoice.of("openai:grader", url, "X", tuple(options.items())).facts
    )
    assert {key: state.seen[0][key] for key in options} == judged.inputs.judge.options == options
    assert "temperature" not in state.seen[0]
    assert (judged.inputs.judge.scale, judged.inputs.judge.hash) == (rubric.SCALE, rubric.HASH)
    assert rules.inputs is not None
    assert rules.inputs.judge == JudgeRecord.of(Rules().facts)
    difference = unlike(judged, rules)
    assert difference is not None
    assert difference.sentence.startswith("who judged the answers is grader at")
    for variant in ("published", "corrected"):
        ours, theirs = judged.estimates[variant], rules.estimates[variant]  # type: ignore[index]
        assert ours.value == pytest.approx(theirs.value / 2)  # type: ignore[operator]
        assert ours.details["fine_tuned_score"] == pytest.approx(1 + 2 * theirs.details["fine_tuned"])  # type: ignore[operator]
        assert (ours.details["judge_kappa"], ours.details["judge_agrees"]) == (1, 1)
        assert ours.details["judge_kappa_low"] < 1  # type: ignore[operator]
        assert ours.notes[0] == f"answers judged by {rubric.VERSION}, grader at {url}"
        assert theirs.notes[0] == f"answers judged by {VERSION}"
    code, out, err = shell(*one_case, *judge, "--results", tmp_path / "rules", "--resume")
    assert [one.inputs.judge for one in read_measurements(tmp_path / "rules" / "records.jsonl")] == [  # type: ignore[union-attr]
        rules.inputs.judge,
        judged.inputs.judge,
    ]  # what the rules judged is not taken over for another judge
    written = "".join(path.read_text() for path in tmp_path.rglob("*.jsonl"))
    assert KEY not in written


def test_a_judge_that_stops_is_not_waited_for_again(
    endpoint: tuple[Endpoint, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geometry_bench.run.execute import OnceFailed, SubjectFailedError

    state, url = endpoint
    state.replies = [(404,)]
    judge = OnceFailed(JudgeChoice.of("openai:grader", url).open(None, progress=False))
    with pytest.raises(GeometryBenchError, match="0 of 1 verdicts"):
        judge.judge(["Why?"], ["So."])
    with pytest.raises(SubjectFailedError, match="the judge stopped answering"):
        judge.judge(["Why?"], ["So."])
    assert len(state.seen) == 1


def no_template(tmp_path: Path) -> str:
    return str(tiny_model("llama", tmp_path, name="bare", chat_template=None))


def cut_short(tmp_path: Path) -> str:
    whole = tiny_model("llama", tmp_path, name="whole", chat_template=TEMPLATES["native"])
    folder = Path(shutil.copytree(whole, tmp_path / "cut"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return str(folder)


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        (lambda _: ["--judge", "gpt"], "'gpt' is no judge: write rules, local:MODEL or openai:MODEL"),
        (lambda _: ["--judge", "openai:"], "'openai:' is no judge"),
        (lambda _: ["--judge-url", "http://h/v1"], "go with --judge openai:MODEL"),
        (lambda _: ["--judge-option", "temperature=0"], "go with --judge openai:MODEL"),
        (lambda _: ["--judge-option", "temperature"], "write it as KEY=VALUE"),
        (lambda _: ["--judge", "openai:m", "--judge-url", "h"], "judge's URL h is none"),
        (lambda _: ["--judge", "openai:m"], "needs a key: set the environment variable OPENAI_API_KEY"),
        (
            lambda _: ["--judge", "openai:m", "--judge-url", "http://h/v1", "--judge-key-env", "ABSENT"],
            "http://h/v1 needs a key: set the environment variable ABSENT",
        ),
        (lambda _: ["--judge", "local:zoo/none"], "no embedded model 'zoo/none'"),
        (lambda place: ["--judge", f"local:{no_template(place)}"], "no chat template, so it cannot be asked to judge"),
        (lambda place: ["--judge", f"local:{cut_short(place)}"], "is cut short"),
    ],
)
def test_what_a_judge_lacks_is_told_before_anything_is_measured(
    judge: Callable[[Path], list[str]],
    said: str,
    one_case: list[object],
    shell: Shell,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("geometry_bench.run.execute.Session.measure", lambda *_: pytest.fail("measured"))
    pytest.importorskip("openai")
    code, _, err = shell(*one_case, *judge(tmp_path))
    assert code == 2
    assert said in " ".join(re.sub(r"[│╭╮╰╯─]", " ", err).split())


def test_a_judge_with_nothing_to_grade_is_refused_by_both_front_ends(shell: Shell, bench: Bench, tiny: Path) -> None:
    sentence = "nothing in this run is graded: give a family"
    code, _, err = shell("run", "--model", tiny, "--claim", "gate.answers", "--answers", "--judge", "local:zoo/x")
    assert code == 2
    assert sentence in err
    bench("--answers", "--judge=local:zoo/x", models=(tiny,)).stderr.fnmatch_lines([f"*{sentence}*"])


def test_a_model_that_judges_keeps_its_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LEAST_MASS", 0.0)
    place = tiny_model("llama", tmp_path, chat_template=TEMPLATES["native"], max_position_embeddings=4096)
    choice = JudgeChoice.of(f"local:{place}", like=SubjectSpec("", device="cpu"))
    choice.refuse_unready()
    store, requests, answers = Verdicts(tmp_path / "cache"), ["Why?", "How?", "Why?"], ["So.", "Thus.", "So."]
    first = choice.open(store, progress=False)
    assert first.facts == choice.facts  # as known before it is loaded
    given = scores(first.judge(requests, answers))
    monkeypatch.setattr(
        "geometry_bench.behavior.first_token.first_token_logprobs", lambda *_, **__: pytest.fail("asked")
    )
    again = LocalJudge(load(SubjectSpec(str(place), device="cpu")), store=store, progress=False)
    assert scores(again.judge(requests[::-1], answers[::-1])) == given[::-1]


def test_what_was_not_asked_for_is_measured_when_it_is(shell: Shell, tiny: Path, pack: Path, tmp_path: Path) -> None:
    run = ["run", "--model", tiny, "--claim", "gate.answers", "--requests", 4, "--prompts", pack, "--results", tmp_path]
    shell(*run)
    shell(*run, "--answers", "--resume")
    shell(*run, "--resume")
    found = [one.missing for one in read_measurements(tmp_path / "records.jsonl")]
    reasons = [one.reason if one is not None else None for one in found]
    assert reasons[:2] == [Absence.NOT_ASKED] * 2
    assert Absence.NOT_ASKED not in reasons[2:]
    assert len(reasons) == 4  # what has been measured is taken over


def test_values_of_before_judges_were_named_are_those_of_the_first_rules() -> None:
    assert judge_name(JudgeRecord.of(Rules().facts)) == BEFORE_JUDGES
    old = made_up("gate.answers", 0.5)
    assert old.inputs is not None
    new = old.model_copy(update={"inputs": old.inputs.model_copy(update={"judge": JudgeRecord.of(Rules().facts)})})
    assert unlike(new, old) is None


def test_every_claim_on_answers_says_what_is_judged() -> None:
    judged = {claim.id: claim.judged for claim in CLAIMS.values() if claim.asked_by == "answers"}
    # These read no verdict, or what is right.
    without = {"universal.generation_drift", "finetune.ablation", "weights.general_ability"}
    assert {id for id, what in judged.items() if what is None} == without
    assert {id for id, what in judged.items() if what == "harm"} == {
        "weights.parallel_projection",
        "weights.orthogonal_projection",
        "weights.no_selective_removal",
        "weights.layer_removal",
    }
