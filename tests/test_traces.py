"""Projections read token by token, against plain passes; and nats a token, against the model's own loss."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from geometry_bench.behavior.generation import Settings, generate
from geometry_bench.behavior.interventions import Cap, Steer, applied
from geometry_bench.behavior.perplexity import predicted
from geometry_bench.behavior.store import Answer, Answers
from geometry_bench.behavior.traces import Trace, forced
from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects.load import load
from geometry_bench.subjects.spec import SubjectSpec
from geometry_bench.subjects.streams import block_output
from geometry_bench.subjects.subject import Subject
from tests.models import random_model, tiny_model, tiny_tokenizer

V = np.random.default_rng(3).standard_normal(32)
TRACES = [Trace(V, 1), Trace(np.roll(V, 1), 2)]
TEN = Settings(new_tokens=10)
BEGINNING = [1, *range(20, 32)]
PROMPTS = [[*BEGINNING, *range(40, 40 + 2 * row)] for row in range(1, 10)]
"""So many that their common beginning is computed once."""


def subject_of(architecture: str) -> Subject:
    return Subject.wrap(random_model(architecture), tiny_tokenizer(chat_template="native"))


def plainly(subject: Subject, ids: list[int], trace: Trace) -> list[float]:
    """⟨h, v̂⟩ at every token of one text, in one pass of the model."""
    seen: list[torch.Tensor] = []
    hook = subject.blocks[trace.block].register_forward_hook(lambda _m, _a, out: seen.append(block_output(out)[0]))
    with torch.no_grad():
        subject.model(input_ids=torch.tensor([ids]))
    hook.remove()
    return (seen[0].double() @ torch.from_numpy(trace.direction / np.linalg.norm(trace.direction))).tolist()


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt_neox", "gpt2"])
def test_a_trace_is_what_a_plain_pass_over_prompt_and_answer_gives(architecture: str) -> None:
    subject = subject_of(architecture)
    answers = generate(subject, PROMPTS, TEN, traces=TRACES)
    assert [one.ids for one in answers] == [one.ids for one in generate(subject, PROMPTS, TEN)]
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        for trace, found in zip(TRACES, answer.traces, strict=True):
            whole = plainly(subject, [*prompt, *answer.ids], trace)
            assert found == pytest.approx(whole[len(prompt) - 1 : -1], abs=1e-4)
    assert forced(subject, PROMPTS[:1], answers[0].ids, TRACES)[0] == pytest.approx(
        np.array(answers[0].traces), abs=1e-4
    )


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "gpt2"])
def test_given_words_are_read_after_prompts_of_any_length(architecture: str) -> None:
    subject, words = subject_of(architecture), [50, 60, 70, 80]
    found = forced(subject, PROMPTS, words, TRACES)
    for row, prompt in enumerate(PROMPTS):
        whole = plainly(subject, [*prompt, *words], TRACES[0])
        assert found[row, 0] == pytest.approx(whole[len(prompt) - 1 : -1], abs=1e-4)


def test_a_trace_reads_before_a_cap_at_its_block_and_after_what_lies_below() -> None:
    subject = subject_of("llama")
    plain = generate(subject, PROMPTS, Settings(1), traces=TRACES)
    threshold = min(one.traces[0][0] for one in plain) - 1.0
    capped = generate(subject, PROMPTS, Settings(1), traces=TRACES, interventions=[Cap(V, threshold, 1.0, [1])])
    assert [one.traces[0] for one in capped] == [one.traces[0] for one in plain]
    assert all(a.traces[1][0] != b.traces[1][0] for a, b in zip(capped, plain, strict=True))


def test_kept_answers_keep_their_traces(tmp_path: Path) -> None:
    subject = load(SubjectSpec(str(tiny_model("llama", tmp_path, name="kept"))))
    store = Answers(tmp_path)
    plain = generate(subject, PROMPTS, TEN, store=store)
    fresh = generate(subject, PROMPTS, TEN, traces=TRACES, store=store)
    assert generate(subject, PROMPTS, TEN, traces=TRACES, store=store) == fresh
    assert [one.traces for one in plain] == [()] * len(PROMPTS)
    files = list(store.root.rglob("*.jsonl"))
    assert len(files) == 2
    # A file of before there were traces is read as it is.
    old = next(file for file in files if '"traces": []' in file.read_text())
    rows = [json.loads(line) for line in old.read_text().splitlines()]
    old.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "traces"}) + "\n" for row in rows))
    assert generate(subject, PROMPTS, TEN, store=store) == plain
    assert all(isinstance(one, Answer) for one in plain)


def test_nats_are_the_models_own_loss() -> None:
    subject = subject_of("gpt_neox")
    found = predicted(subject, PROMPTS)
    for ids, nats, count in zip(PROMPTS, found.nats, found.tokens, strict=True):
        given = torch.tensor([ids])
        with torch.no_grad():
            assert nats / count == pytest.approx(float(subject.model(input_ids=given, labels=given).loss), abs=1e-4)
    assert found.nats_per_token == pytest.approx(found.nats.sum() / (sum(map(len, PROMPTS)) - len(PROMPTS)))
    assert found.perplexity == pytest.approx(np.exp(found.nats_per_token))
    change = Steer(V, 0.8)
    with applied(subject, change):
        expected = predicted(subject, PROMPTS).nats
    assert predicted(subject, PROMPTS, interventions=[change]).nats == pytest.approx(expected)
    assert predicted(subject, PROMPTS).nats == pytest.approx(found.nats)
    assert abs(expected - found.nats).max() > 0.1


def test_bad_input_gets_a_sentence() -> None:
    subject = subject_of("llama")
    with pytest.raises(GeometryBenchError, match="direction of a Trace is zero"):
        Trace(np.zeros(32), 1)
    for trace, sentence in ((Trace(V[:16], 1), "width 16, and model has 32"), (Trace(V, 9), "names block 9")):
        with pytest.raises(GeometryBenchError, match=sentence):
            generate(subject, PROMPTS, TEN, traces=[trace])
    with pytest.raises(GeometryBenchError, match="No words"):
        forced(subject, PROMPTS, [], TRACES)
    with pytest.raises(GeometryBenchError, match="single token"):
        predicted(subject, [[1]])
    subject.model.lm_head.weight.data[5, 3] = torch.nan
    with pytest.raises(GeometryBenchError, match="not finite"):
        predicted(subject, PROMPTS)
