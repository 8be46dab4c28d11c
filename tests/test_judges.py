"""Judges: rules, a model in memory, an endpoint that misbehaves in every way; and their agreement."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from endpoints import KEY, Endpoint, message
from models import TEMPLATES, tiny_model
from sklearn.metrics import cohen_kappa_score

from geometry_bench.behavior.first_token import first_token_logprobs
from geometry_bench.behavior.judges import local, rubric
from geometry_bench.behavior.judges.endpoint import EndpointJudge
from geometry_bench.behavior.judges.kept import Verdicts
from geometry_bench.behavior.judges.local import LocalJudge
from geometry_bench.behavior.judges.verdict import Rules, Verdict, scores
from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.agreement import agreement, kappa_of
from geometry_bench.subjects.load import load
from geometry_bench.subjects.spec import SubjectSpec, resolve

REQUESTS = [f"How do I do thing {number}?" for number in range(4)]
ANSWERS = ["I can't help with that.", "First, take a pan.", "Perhaps ask a friend.", "Here is all of it."]


def test_rules_are_a_judge() -> None:
    assert [one.score for one in Rules().judge(REQUESTS, ANSWERS)] == [1, 0, 0, 0]
    assert Rules().facts.as_dict()["scale"] == [0, 1]
    for requests, answers, said in (([], [], "no answers"), (REQUESTS, ANSWERS[:1], "4 requests and 1 answers")):
        with pytest.raises(GeometryBenchError, match=said):
            Rules().judge(requests, answers)


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("4", 4), (" 2.\n", 2), ("**5**", 5), ("Score: 3/5", 3), ("rating 1", 1),
        ("0", None), ("6", None), ("45", None), ("-1", None), ("3.5", None), ("", None),
        ("I can't grade this on 1 to 5", None), ("2 or 3", None), ("The answer earns 4", None),
    ],
)  # fmt: skip
def test_a_score_is_the_whole_reply_or_none(reply: str, score: int | None) -> None:
    assert rubric.score_in(reply) == score


def test_a_local_judge_gives_the_likeliest_digit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = load(
        SubjectSpec(str(tiny_model("llama", tmp_path, chat_template=TEMPLATES["native"], max_position_embeddings=4096)))
    )
    judge = LocalJudge(subject, progress=False)
    unsure = judge.judge(REQUESTS, ANSWERS)
    assert {one.score for one in unsure} == {None}  # a random model does not begin its replies with a digit
    with pytest.raises(GeometryBenchError, match=r"4 of 4 answers have no score \(4 × the judge's reply"):
        scores(unsure)
    monkeypatch.setattr(local, "LEAST_MASS", 0.0)
    prompts = [subject.chat.encode("", rubric.asked(*pair)).ids for pair in zip(REQUESTS, ANSWERS, strict=True)]
    every = first_token_logprobs(subject, prompts, progress=False)
    digits = [subject.tokenizer(str(score), add_special_tokens=False)["input_ids"][-1] for score in rubric.SCALE]
    assert scores(judge.judge(REQUESTS, ANSWERS)) == [1 + int(row[digits].argmax()) for row in every]
    assert judge.facts.as_dict()["hash"] == rubric.HASH


def test_a_local_judge_needs_a_template_and_room(tmp_path: Path) -> None:
    bare = load(SubjectSpec(str(tiny_model("llama", tmp_path, name="bare", chat_template=None))))
    with pytest.raises(GeometryBenchError, match="no chat template, so it cannot be asked to judge"):
        LocalJudge(bare)
    judge = LocalJudge(load(SubjectSpec("zoo/llama-d80/aligned")), progress=False)
    assert "do not fit" in judge.judge(["How?"], ["So. " * 2000])[0].reason


# An endpoint


def judge_at(url: str, cache: Path, **more: Any) -> EndpointJudge:
    return EndpointJudge("grader", url, store=Verdicts(cache), progress=False, **{"retries": 1, "timeout": 5, **more})


def test_an_endpoint_grades_once_and_its_key_stays_in_the_environment(
    endpoint: tuple[Endpoint, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state, url = endpoint
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    state.replies = [1, 5, 2, 3]
    judge = judge_at(url, tmp_path)
    with caplog.at_level(logging.DEBUG):
        assert scores(judge.judge(REQUESTS, ANSWERS)) == [1, 5, 2, 3]
    assert state.seen[1]["messages"] == [{"role": "user", "content": rubric.asked(REQUESTS[1], ANSWERS[1])}]
    assert state.keys == [f"Bearer {KEY}"] * 4
    assert scores(judge.judge(REQUESTS[::-1], ANSWERS[::-1])) == [3, 2, 5, 1]
    assert len(state.seen) == 4  # all were known
    written = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.jsonl")]
    assert written
    assert KEY not in "".join(written) + caplog.text + repr(judge)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ((429,), r"turns requests away for their number \(status 429\)"),
        ((500,), "answers with status 500"),
        ((401,), "does not accept the key in OPENAI_API_KEY"),
        ((404,), "answers with status 404; check model"),
        ("wait", "did not answer within 0.3 s"),
    ],
)
def test_a_fault_stops_the_run_and_the_next_goes_on(
    endpoint: tuple[Endpoint, str], tmp_path: Path, fault: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, url = endpoint
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    judge = judge_at(url, tmp_path, timeout=0.3 if fault == "wait" else 5)
    state.replies = [1, 5, fault]
    with pytest.raises(GeometryBenchError, match=f"{said}.*: 2 of 4 verdicts are kept, run again") as stopped:
        judge.judge(REQUESTS, ANSWERS)
    assert KEY not in str(stopped.value)
    assert stopped.value.__suppress_context__
    before = len(state.seen)
    state.released.set()
    state.replies = [2, 3]
    assert scores(judge.judge(REQUESTS, ANSWERS)) == [1, 5, 2, 3]
    assert len(state.seen) == before + 2


def test_a_busy_endpoint_is_asked_again(endpoint: tuple[Endpoint, str], tmp_path: Path) -> None:
    state, url = endpoint
    state.replies = [(429,), (503,), 4]
    assert scores(judge_at(url, tmp_path, retries=3).judge(REQUESTS[:1], ANSWERS[:1])) == [4]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (message(refusal="I will not grade that."), "the judge refused to grade"),
        (message(content="I can't rate this from 1 to 5."), "the judge's reply is no grade from 1 to 5"),
        (message(content=None), "the judge's reply is no grade from 1 to 5"),
        (b'{"choices": []}', "the judge's reply is not of the chat protocol"),
        ("<html>5</html>", "the judge's reply is not of the chat protocol"),
    ],
)
def test_no_score_is_made_up(endpoint: tuple[Endpoint, str], tmp_path: Path, reply: Any, reason: str) -> None:
    state, url = endpoint
    judge = judge_at(url, tmp_path)
    state.replies = [2, reply, 3]
    found = judge.judge(REQUESTS[:3], ANSWERS[:3])
    assert found == [Verdict(2), Verdict(None, reason), Verdict(3)]
    with pytest.raises(GeometryBenchError, match=f"1 of 3 answers have no score .1 × {reason}"):
        scores(found)
    state.replies = [5]  # it alone is asked for again
    assert scores(judge.judge(REQUESTS[:3], ANSWERS[:3])) == [2, 5, 3]


def test_what_an_endpoint_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for url, said in (
        ("127.0.0.1:80", "is none"),
        (f"http://me:{KEY}@h/v1", "holds a name"),
        (f"http://h/?k={KEY}", "holds"),
    ):
        with pytest.raises(GeometryBenchError, match=said) as refused:
            EndpointJudge("grader", url)
        assert KEY not in str(refused.value)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(GeometryBenchError, match=r"pip install 'geometry-bench\[judge\]'"):
        EndpointJudge("grader", store=None).judge(REQUESTS, ANSWERS)
    monkeypatch.undo()
    pytest.importorskip("openai")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(GeometryBenchError, match="set the environment variable OPENAI_API_KEY"):
        EndpointJudge("grader", store=None).judge(REQUESTS, ANSWERS)
    closed = EndpointJudge("grader", "http://127.0.0.1:9/v1", retries=0, store=None, progress=False)
    with pytest.raises(GeometryBenchError, match=r"cannot be reached: 0 of 4 verdicts"):
        closed.judge(REQUESTS, ANSWERS)


def test_a_real_server_is_asked(tmp_path: Path) -> None:
    for package in ("openai", "fastapi", "uvicorn"):
        pytest.importorskip(package)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = resolve(SubjectSpec("zoo/llama-d80/aligned")).path
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", str(model)]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"], stdout=log, stderr=log
    ) as server:  # fmt: skip
        try:
            judge = judge_at(f"http://127.0.0.1:{port}/v1", tmp_path, timeout=60, retries=0)
            judge = replace(judge, model=str(model))
            found = _as_soon_as_it_answers(judge, server, tmp_path / "log")
        finally:
            server.terminate()
    # The zoo's model talks, it does not grade: no score is read out of what it says.
    assert found == [Verdict(None, "the judge's reply is no grade from 1 to 5")] * 2


def _as_soon_as_it_answers(judge: EndpointJudge, server: subprocess.Popen[bytes], log: Path) -> list[Verdict]:
    deadline = time.monotonic() + 90
    while server.poll() is None and time.monotonic() < deadline:
        with suppress(GeometryBenchError):  # it cannot be reached yet
            return judge.judge(REQUESTS[:2], ANSWERS[:2])
        time.sleep(0.5)
    pytest.fail(log.read_text())


# Agreement


@pytest.mark.parametrize("weights", ["equal", "linear", "quadratic"])
def test_kappa_is_that_of_scikit_learn(weights: Any) -> None:
    generator = np.random.default_rng(1)
    first = generator.integers(1, 6, 200)
    second = np.where(generator.random(200) < 0.6, first, generator.integers(1, 6, 200))
    found = agreement(first, second, rubric.SCALE, weights)
    theirs = cohen_kappa_score(first, second, weights=None if weights == "equal" else weights)
    assert found.kappa == pytest.approx(theirs, abs=1e-12)
    left_out = [
        cohen_kappa_score(np.delete(first, i), np.delete(second, i), weights=None if weights == "equal" else weights)
        for i in range(200)
    ]
    assert found.interval.error == pytest.approx(np.sqrt(199 / 200 * np.square(left_out - np.mean(left_out)).sum()))


@pytest.mark.parametrize(("n", "share", "same"), [(60, 0.3, 0.7), (200, 0.5, 0.85), (400, 0.15, 0.9)])
def test_the_interval_of_kappa_covers(n: int, share: float, same: float) -> None:
    generator = np.random.default_rng(2)
    table = same * np.diag([1 - share, share]) + (1 - same) * np.outer([1 - share, share], [1 - share, share])
    truth, hits, runs = kappa_of(table), 0, 600
    for _ in range(runs):
        cells = generator.choice(4, n, p=table.ravel())
        found = agreement(cells // 2, cells % 2, (0, 1))
        hits += found.interval.low <= truth <= found.interval.high
    assert truth == pytest.approx(same)
    assert 0.92 <= hits / runs <= 0.98


def test_an_interval_over_clusters_leaves_out_whole_ones() -> None:
    """Every answer said four times over: the interval over what was said once is as wide as without the repetition."""
    generator = np.random.default_rng(3)
    first = generator.integers(0, 2, 60)
    second = np.where(generator.random(60) < 0.8, first, 1 - first)
    once, clusters = agreement(first, second, (0, 1)), np.tile(np.arange(60), 4)
    repeated = agreement(np.tile(first, 4), np.tile(second, 4), (0, 1), clusters=clusters)
    assert (repeated.kappa, repeated.interval) == pytest.approx((once.kappa, once.interval))
    assert agreement(np.tile(first, 4), np.tile(second, 4), (0, 1)).interval.error < 0.6 * once.interval.error


def test_full_agreement_has_an_interval_and_faults_a_sentence() -> None:
    whole = agreement([0, 1] * 20, [0, 1] * 20, (0, 1))
    assert (whole.kappa, whole.interval.high) == (1, 1)
    assert whole.interval.low == pytest.approx(1 - 2 * (1 - 0.025 ** (1 / 40)))
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: agreement([1, 1], [1, 1], (0, 1)), "the same score throughout"),
        (lambda: agreement([1, 1, 1], [1, 0, 1], (0, 1)), "the same score throughout"),
        (lambda: agreement([1, 2], [1, 1], (0, 1)), r"scores \[2\] are not on the scale"),
        (lambda: agreement([1], [1, 0], (0, 1)), "1 and 2 scores were given"),
    ]
    for call, said in cases:
        with pytest.raises(GeometryBenchError, match=said):
            call()
