"""Answers: one at a time, in batches and by transformers' own loop; resumed; and the first token's distribution."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from geometry_bench.behavior import generation, passes
from geometry_bench.behavior.end_tokens import end_tokens
from geometry_bench.behavior.first_token import first_token_logprobs
from geometry_bench.behavior.generation import Settings, generate
from geometry_bench.behavior.interventions import Ablate, Cap, Steer, applied
from geometry_bench.behavior.store import Answer, Answers
from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.categorical import log_odds
from geometry_bench.subjects.load import load
from geometry_bench.subjects.spec import SubjectSpec
from geometry_bench.subjects.subject import Subject
from tests.models import random_model, tiny_model, tiny_tokenizer

PROMPTS = [
    [1, *(6 + (7 * row + 3 * place) % 250 for place in range(length))]
    for row, length in enumerate((3, 17, 8, 8, 30, 1))
]
V = np.random.default_rng(0).standard_normal(32)
EFFECTS: dict[str, list[Any]] = {
    "plain": [],
    "changed": [Steer(V, 0.6, [1], positions="last"), Ablate(np.roll(V, 1)), Cap(np.roll(V, 2), 0.0, 0.7, [2])],
}
TWELVE = Settings(new_tokens=12)


def subject_of(architecture: str, *, eos: Any = 2, **overrides: Any) -> Subject:
    model = random_model(architecture, **overrides)
    model.generation_config.eos_token_id = eos
    return Subject.wrap(model, tiny_tokenizer(chat_template="native"))


def by_transformers(subject: Subject, ids: list[int], **settings: Any) -> tuple[int, ...]:
    config = GenerationConfig(max_new_tokens=12, do_sample=False, pad_token_id=0, **settings)
    given = torch.tensor([ids])
    found = subject.model.generate(input_ids=given, attention_mask=torch.ones_like(given), generation_config=config)
    return tuple(found[0, len(ids) :].tolist())


@pytest.mark.parametrize("effects", EFFECTS)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt_neox", "gpt2"])
def test_a_batch_says_what_each_says_alone_and_what_transformers_says(architecture: str, effects: str) -> None:
    subject = subject_of(architecture)
    changes = EFFECTS[effects]
    together = generate(subject, PROMPTS, TWELVE, interventions=changes)
    alone = [generate(subject, [ids], TWELVE, interventions=changes)[0] for ids in PROMPTS]
    assert together == alone
    with applied(subject, *changes):
        assert [answer.ids for answer in together] == [by_transformers(subject, ids, eos_token_id=2) for ids in PROMPTS]
    assert len({answer.ids for answer in together}) > 3
    if changes:
        assert [one.ids for one in together] != [one.ids for one in generate(subject, PROMPTS, TWELVE)]


SHARED = [[1, *(9 + place for place in range(12)), *ids[1:], 7] for ids in [*PROMPTS, [1], [1, 8, 8], [1, 8, 9, 10]]]
"""Enough prompts with enough tokens in common that these are computed once."""


@pytest.mark.parametrize("effects", EFFECTS)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt_neox", "gpt2", "gemma2", "opt"])
def test_a_beginning_that_is_computed_once_changes_nothing(
    architecture: str, effects: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, changes = subject_of(architecture), EFFECTS[effects]
    alone = [generate(subject, [ids], TWELVE, interventions=changes)[0] for ids in SHARED]
    with applied(subject, *changes):
        logits = np.concatenate([first_token_logprobs(subject, [ids]) for ids in SHARED])
    prefixes: list[int] = []
    inputs_of = passes.inputs_of

    def noted(subject: Subject, prompts: Any, prefix: int = 0) -> Any:
        prefixes.append(prefix)
        return inputs_of(subject, prompts, prefix)

    for module in (generation, passes):
        monkeypatch.setattr(module, "inputs_of", noted)
    assert generate(subject, SHARED, TWELVE, interventions=changes) == alone
    assert prefixes[-1] == 13
    with applied(subject, *changes):
        np.testing.assert_allclose(first_token_logprobs(subject, SHARED), logits, atol=5e-5)
    assert prefixes[-1] == 13


def test_a_window_shorter_than_the_prompts_changes_nothing() -> None:
    subject = subject_of("gemma2", sliding_window=24)
    alone = [generate(subject, [ids], TWELVE)[0] for ids in SHARED]
    assert generate(subject, SHARED, TWELVE) == alone


def test_small_batches_say_the_same() -> None:
    subject = subject_of("llama")
    assert generate(subject, PROMPTS, TWELVE, token_budget=1) == generate(subject, PROMPTS, TWELVE, token_budget=10**6)


def test_models_that_see_padding_get_none(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of("llama")
    alone = [generate(subject, [ids], TWELVE)[0] for ids in PROMPTS]
    forward = subject.model.forward

    def blind(*args: Any, attention_mask: Any = None, position_ids: Any = None, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    monkeypatch.setattr(subject.model, "forward", blind)
    assert generate(subject, PROMPTS, TWELVE) == alone


def test_defaults_of_the_model_are_not_taken_over() -> None:
    subject = subject_of("llama")
    plain = generate(subject, PROMPTS, TWELVE)
    own = subject.model.generation_config = GenerationConfig(
        eos_token_id=2, do_sample=True, repetition_penalty=5.0, temperature=3.0, min_new_tokens=12
    )
    assert generate(subject, PROMPTS, TWELVE) == plain
    assert subject.model.generation_config is own


# Where answers end


def test_an_answer_ends_at_any_end_token() -> None:
    subject = subject_of("llama", eos=None)
    whole = generate(subject, PROMPTS[:1], TWELVE)[0]
    assert (len(whole.ids), whole.finish) == (12, "length")
    third = whole.ids[3]
    subject.model.generation_config.eos_token_id = [300, third]
    cut = generate(subject, PROMPTS, TWELVE)[0]
    stop = whole.ids.index(third)
    assert cut.ids == whole.ids[: stop + 1]
    assert cut.finish == "end"


def test_end_tokens_are_those_of_all_that_state_them() -> None:
    subject = subject_of("llama", eos=[7, 9])
    subject.text_config.eos_token_id = 11
    assert end_tokens(subject) == (2, 7, 9, 11)  # 2: the tokenizer's
    turn_ends_otherwise = (
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% if m['role'] == 'assistant' %}<|system|>{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tokenizer = tiny_tokenizer(chat_template=turn_ends_otherwise)
    assert 3 in end_tokens(Subject.wrap(subject.model, tokenizer))


def test_text_is_without_control_tokens() -> None:
    subject = load(SubjectSpec("zoo/llama-d80/aligned"))
    prompts = [list(subject.chat.encode("", text).ids) for text in ("How do I bake a cake?", "How do I rob the bank?")]
    answers = generate(subject, prompts, Settings(new_tokens=80))
    assert all(answer.finish == "end" and answer.ids[-1] == 2 for answer in answers)
    assert all("<" not in answer.text and answer.text[0].isupper() for answer in answers)


# Samples


def test_a_sample_belongs_to_its_prompt() -> None:
    subject = subject_of("llama")
    hot = Settings(new_tokens=8, temperature=1.5, seed=3)
    given = [*PROMPTS, PROMPTS[2]]
    answers = generate(subject, given, hot)
    assert answers[2] != answers[6]  # another draw
    assert answers == generate(subject, given, hot, token_budget=1)
    assert answers[:6] == generate(subject, given[5::-1], hot)[::-1]
    assert answers != generate(subject, given, Settings(new_tokens=8, temperature=1.5, seed=4))


@pytest.mark.parametrize("top_p", [1.0, 0.6])
def test_samples_have_the_models_distribution(top_p: float) -> None:
    subject = subject_of("llama")
    n = 4000
    first = [
        answer.ids[0] for answer in generate(subject, [PROMPTS[0]] * n, Settings(1, 0.7, top_p), token_budget=4 * n)
    ]
    logits = first_token_logprobs(subject, [PROMPTS[0]])[0].astype(np.float64) / 0.7
    p = np.exp(logits - np.logaddexp.reduce(logits))
    order = np.argsort(-p)
    kept = order[: int(np.searchsorted(p[order].cumsum(), top_p)) + 1] if top_p < 1 else order
    expected = np.zeros_like(p)
    expected[kept] = p[kept] / p[kept].sum()
    counts = np.bincount(first, minlength=len(p))
    assert counts[expected == 0].sum() == 0
    # 5 standard errors for the most frequent tokens: a false alarm in a million runs.
    most = order[:5]
    errors = np.sqrt(n * expected[most] * (1 - expected[most]))
    assert (np.abs(counts[most] - n * expected[most]) < 5 * errors).all()


# Kept and resumed


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Subject, Answers]:
    return load(SubjectSpec(str(tiny_model("llama", tmp_path)))), Answers(tmp_path / "cache")


def lines(store: Answers) -> list[Path]:
    return sorted(store.root.glob("??/*.jsonl"))


def test_a_stopped_run_goes_on_where_it_was(kept: tuple[Subject, Answers], monkeypatch: pytest.MonkeyPatch) -> None:
    subject, store = kept
    expected = generate(subject, PROMPTS, TWELVE)
    run, done = generation._run, []

    def stops(subject: Subject, items: Any, *rest: Any) -> list[Answer]:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.extend(items)
        return run(subject, items, *rest)

    monkeypatch.setattr(generation, "_run", stops)
    with pytest.raises(KeyboardInterrupt):
        generate(subject, PROMPTS, TWELVE, token_budget=1, store=store)
    monkeypatch.undo()
    (file,) = lines(store)
    with file.open("a") as torn:
        torn.write('{"key": "abc", "ids": [1, 2')
    again: list[Any] = []

    def counts(subject: Subject, items: Any, *rest: Any) -> list[Answer]:
        again.extend(items)
        return run(subject, items, *rest)

    monkeypatch.setattr(generation, "_run", counts)
    assert generate(subject, PROMPTS, TWELVE, token_budget=1, store=store) == expected
    assert len(again) == len(PROMPTS) - 2
    assert not set(again) & set(done)
    assert generate(subject, PROMPTS, TWELVE, store=store) == expected
    assert len(again) == len(PROMPTS) - 2
    assert json.loads(file.read_text().splitlines()[0])["facts"]["subject"] == subject.identity.name


def test_whatever_decides_an_answer_has_answers_of_its_own(kept: tuple[Subject, Answers], tmp_path: Path) -> None:
    subject, store = kept
    other = load(SubjectSpec(str(tiny_model("llama", tmp_path, name="other", seed=1))))
    ways: list[tuple[Subject, Settings, list[Any]]] = [
        (subject, TWELVE, []),
        (other, TWELVE, []),
        (subject, Settings(new_tokens=11), []),
        (subject, Settings(new_tokens=12, temperature=1.0), []),
        (subject, TWELVE, [Steer(V, 0.6)]),
        (subject, TWELVE, [Steer(V, 0.7)]),
    ]
    for count, (one, settings, changes) in enumerate(ways, start=1):
        fresh = generate(one, PROMPTS, settings, interventions=changes)
        for _ in range(2):
            assert generate(one, PROMPTS, settings, interventions=changes, store=store) == fresh
        assert len(lines(store)) == count


def test_what_is_not_the_weights_doing_alone_is_not_kept(kept: tuple[Subject, Answers]) -> None:
    subject, store = kept
    with applied(subject, Steer(V, 0.6)):
        generate(subject, PROMPTS, TWELVE, store=store)
    wrapped = subject_of("llama")
    generate(wrapped, PROMPTS, TWELVE, store=store)
    assert lines(store) == []


# Memory and bad input


def test_logits_that_are_no_numbers_give_no_answer() -> None:
    subject = subject_of("llama")
    subject.model.lm_head.weight.data[5, 3] = torch.nan
    for read in (lambda: generate(subject, PROMPTS, TWELVE), lambda: first_token_logprobs(subject, PROMPTS)):
        with pytest.raises(GeometryBenchError, match="logits of model are not finite"):
            read()


def test_batches_that_do_not_fit_run_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of("llama")
    expected, run = generate(subject, PROMPTS, TWELVE), generation._run

    def small(subject: Subject, items: Any, *rest: Any) -> list[Answer]:
        if len(items) > 2:
            raise torch.OutOfMemoryError
        return run(subject, items, *rest)

    monkeypatch.setattr(generation, "_run", small)
    with pytest.warns(RuntimeWarning, match="Out of memory with 6 prompts"):
        assert generate(subject, PROMPTS, TWELVE, token_budget=10**6) == expected

    def none(*_: Any) -> list[Answer]:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(generation, "_run", none)
    with pytest.raises(GeometryBenchError, match=r"Prompt 4 .* does not fit the memory"), pytest.warns(RuntimeWarning):
        generate(subject, PROMPTS, TWELVE, token_budget=10**6)


@pytest.mark.parametrize(
    ("prompts", "sentence"),
    [
        ([], "No prompts"),
        ([[1, 6], []], "Prompt 1 has no tokens"),
        ([[1, 320]], r"outside 0\.\.319"),
        ([[1], [6] * 501], "Prompt 1 has 501 tokens and 12 more are asked for, beyond the 512 positions of model"),
    ],
)
def test_bad_prompts_get_a_sentence(prompts: list[list[int]], sentence: str) -> None:
    with pytest.raises(GeometryBenchError, match=sentence):
        generate(subject_of("llama"), prompts, TWELVE)


@pytest.mark.parametrize(
    "settings", [{"new_tokens": 0}, {"temperature": -1}, {"temperature": float("nan")}, {"top_p": 0}]
)
def test_bad_settings_get_a_sentence(settings: dict[str, Any]) -> None:
    with pytest.raises(GeometryBenchError, match=next(iter(settings))):
        Settings(**settings)


# The first token


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "qwen2", "gpt2", "gemma2", "opt"])
def test_the_first_tokens_distribution_is_that_of_the_model(architecture: str) -> None:
    subject = subject_of(architecture)
    expected = []
    with torch.no_grad():
        for ids in PROMPTS:
            expected.append(subject.model(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(0).numpy())
    found = first_token_logprobs(subject, PROMPTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.stack(expected), atol=2e-5)
    some = first_token_logprobs(subject, PROMPTS, [9, 4])
    np.testing.assert_allclose(some[:, :2], found[:, [9, 4]], atol=1e-6)
    np.testing.assert_allclose(np.exp(some).sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(log_odds(some, [0, 1]), log_odds(found, [9, 4]), atol=1e-4)


def test_the_first_token_under_interventions_is_the_one_that_is_generated() -> None:
    subject = subject_of("qwen2")
    answers = generate(subject, PROMPTS, TWELVE, interventions=EFFECTS["changed"])
    with applied(subject, *EFFECTS["changed"]):
        found = first_token_logprobs(subject, PROMPTS)
    assert found.argmax(axis=1).tolist() == [answer.ids[0] for answer in answers]


def test_tokens_must_be_different_ids_of_the_vocabulary() -> None:
    for tokens in ([4, 4], [320], [-1]):
        with pytest.raises(GeometryBenchError, match="not different ids"):
            first_token_logprobs(subject_of("llama"), PROMPTS, tokens)
