"""Models in memory: measured as a loaded folder is, and left as they were."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import random_model, tiny_model, tiny_tokenizer

from geometry_bench.activations.cache import Cache
from geometry_bench.activations.capture import capture, capture_batches
from geometry_bench.activations.pooling import LAST, Pooling
from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects.load import load
from geometry_bench.subjects.spec import SubjectSpec
from geometry_bench.subjects.subject import Subject

PROMPTS = [(1, 50, 60, 70), (1, 50, 60), (1, 90, 91, 92, 93)]


def wrapped(model: Any = None, **options: Any) -> Subject:
    model = random_model("llama") if model is None else model
    return Subject.wrap(model, tiny_tokenizer(chat_template="native"), **options)


def in_training() -> Any:
    """A model with dropout in the midst of training, one of its blocks frozen, that reports hidden states unasked."""
    model = random_model("gpt2").train()
    model.transformer.h[1].eval().requires_grad_(False)
    model.config.output_hidden_states = True
    return model


def state_of(model: Any) -> list[Any]:
    """All that a measurement must leave alone."""
    modules = [
        (name, module.training, list(module._forward_hooks.items()), list(module._forward_pre_hooks.items()))
        for name, module in model.named_modules()
    ]
    weights = [
        (name, value.requires_grad, value.dtype, value.device, value.detach().numpy().tobytes())
        for name, value in model.state_dict(keep_vars=True).items()
    ]
    attributes = [sorted(module.__dict__) for module in model.modules()]
    generators = [torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()]
    return [modules, weights, attributes, generators, torch.is_grad_enabled()]


def drawn() -> list[float]:
    return [torch.rand(1).item(), np.random.rand(), random.random()]


def double(_module: Any, _inputs: Any, output: Any) -> Any:
    return (2 * output[0], *output[1:]) if isinstance(output, tuple) else 2 * output


def test_a_wrapped_model_measures_as_the_loaded_folder(tmp_path: Path) -> None:
    loaded, model = load(SubjectSpec(str(tiny_model("llama", tmp_path)))), random_model("llama")
    subject = wrapped(model, name="mine", alignment="DPO")
    for pooling, values in capture(loaded, PROMPTS, (LAST, Pooling("mean"))).items():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            np.testing.assert_array_equal(capture(subject, PROMPTS, (pooling,))[pooling], values)
    facts, theirs = subject.facts(), loaded.facts()
    assert {key for key in facts if facts[key] != theirs[key]} == {
        *("id", "name", "origin", "revision", "alignment", "tokenizer_hash")
    }
    assert (subject.id, subject.identity.origin, subject.identity.path) == ("mine", "memory", None)
    assert not loaded.intervened, "the self-check leaves no hooks"
    subject.close()
    assert len(list(model.parameters())) == 39
    assert subject.facts() == facts


def test_training_goes_on_as_if_nothing_had_been_measured() -> None:
    model, plain = in_training(), random_model("gpt2")
    before = state_of(model)
    subject = wrapped(model)
    values = capture(subject, PROMPTS)[LAST]
    assert state_of(model) == before
    for _ in capture_batches(subject, PROMPTS, batch_size=1):
        assert state_of(model) == before, "between two batches as well"
    np.testing.assert_array_equal(values, capture(wrapped(plain), PROMPTS)[LAST])
    loss = model(input_ids=torch.tensor(PROMPTS[:1]), labels=torch.tensor(PROMPTS[:1])).loss
    assert loss.requires_grad


def test_every_pass_draws_from_one_stream_that_is_given_back() -> None:
    subject, noise = wrapped(), []
    subject.blocks[0].register_forward_hook(lambda *_: noise.append(drawn()))
    before = state_of(subject.model)
    capture(subject, PROMPTS, batch_size=1)
    assert len({str(one) for one in noise}) == len(noise) > 1
    assert state_of(subject.model) == before
    assert drawn() == noise[0]


@pytest.mark.parametrize("recorded", [False, True])
def test_hooks_of_others_stay_and_act_and_no_cache_is_used(recorded: bool, tmp_path: Path) -> None:
    model, cache = random_model("llama"), Cache(tmp_path)
    if recorded:  # transformers puts its recorders on the model for good, before the others
        model(input_ids=torch.tensor(PROMPTS[:1]), output_hidden_states=True)
    plain = wrapped(model)
    values = capture(plain, PROMPTS, cache=cache, cache_live=True)[LAST]
    assert not plain.intervened
    (entry,) = cache.entries()
    model.model.layers[2].register_forward_hook(double)
    before = state_of(model)
    subject = wrapped(model)
    assert plain.intervened
    assert subject.intervened
    assert subject.identity.revision == plain.identity.revision
    changed = capture(subject, PROMPTS, cache=cache, cache_live=True)[LAST]
    np.testing.assert_array_equal(changed[:, :2], values[:, :2])
    np.testing.assert_array_equal(changed[:, 2], 2 * values[:, 2])
    assert state_of(model) == before
    assert [row.path for row in cache.entries()] == [entry.path]


def test_a_marked_intervention_is_not_cached(tmp_path: Path) -> None:
    subject, cache = load(SubjectSpec(str(tiny_model("llama", tmp_path)))), Cache(tmp_path / "cache")
    with subject.intervene():
        with subject.intervene():
            pass
        assert subject.intervened
        capture(subject, PROMPTS, cache=cache)
    assert not subject.intervened
    assert cache.entries() == []
    capture(subject, PROMPTS, cache=cache)
    assert len(cache.entries()) == 1


def test_a_live_model_is_cached_only_when_asked(tmp_path: Path) -> None:
    subject, cache = wrapped(), Cache(tmp_path)
    capture(subject, PROMPTS, cache=cache)
    assert cache.entries() == []
    capture(subject, PROMPTS, cache=cache, cache_live=True)
    assert len(cache.entries()) == 1


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_within_a_pass_leaves_the_model_as_it_was(error: type[BaseException]) -> None:
    model = in_training()

    def fail(*_: Any) -> None:
        raise error

    subject = wrapped(model)
    model.transformer.h[2].register_forward_hook(fail)
    before = state_of(model)
    for measure in (lambda: capture(subject, PROMPTS), lambda: wrapped(model)):
        with pytest.raises(error):
            measure()
        assert state_of(model) == before
    assert not subject._measuring


def test_peft_models() -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj"], lora_dropout=0.5, init_lora_weights=False)
    base = capture(wrapped(), PROMPTS)[LAST]
    model = get_peft_model(random_model("llama"), config).train()
    before = state_of(model)
    subject = wrapped(model)
    assert (subject.id, subject.identity.architecture) == ("model+default", "LlamaForCausalLM")
    values = capture(subject, PROMPTS)[LAST]
    assert not np.allclose(values, base, rtol=1e-2)
    assert state_of(model) == before
    with model.disable_adapter():
        off = wrapped(model)
        np.testing.assert_array_equal(capture(off, PROMPTS)[LAST], base)
    assert off.identity.adapter is None
    assert off.identity.revision != subject.identity.revision, "the same bytes, but not all in effect"
    np.testing.assert_allclose(capture(wrapped(model.merge_and_unload()), PROMPTS)[LAST], values, rtol=1e-3, atol=1e-5)


def test_the_revision_follows_weights_buffers_and_tokenizer() -> None:
    model = random_model("llama", tie_word_embeddings=True)
    first = wrapped(model).identity
    assert first.revision.startswith("memory:")
    assert wrapped(random_model("llama", tie_word_embeddings=True)).identity == first
    tokenizer = tiny_tokenizer(chat_template="native")
    tokenizer(["a", "longer"], padding=True)
    assert Subject.wrap(model, tokenizer).identity == first, "nor does the last call's padding count"
    revisions = {first.revision, Subject.wrap(model, tiny_tokenizer(chat_template="clock")).identity.revision}
    model.model.register_buffer("scale", torch.ones(()))
    revisions.add(wrapped(model).identity.revision)
    model.to(torch.bfloat16)
    revisions.add(wrapped(model).identity.revision)
    ids = torch.tensor(PROMPTS[:1])
    model(input_ids=ids, labels=ids).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    revisions.add(wrapped(model).identity.revision)
    assert len(revisions) == 5


def broken(value: float) -> Any:
    model = random_model("llama")
    model.model.layers[1].mlp.up_proj.weight.data[2, 3] = value
    return model


def on_meta() -> Any:
    return random_model("llama").to("meta")


def encoder() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2))


def classifier() -> Any:
    from transformers import LlamaForSequenceClassification

    return LlamaForSequenceClassification(random_model("llama").config)


def prompt_learner() -> Any:
    from peft import PromptTuningConfig, get_peft_model

    return get_peft_model(random_model("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: torch.nn.Linear(2, 2), "is a Linear without the configuration of a text decoder"),
        (encoder, "is not a generating language model (BertModel"),
        (classifier, "is not a generating language model (LlamaForSequenceClassification"),
        (prompt_learner, "The adapter default learns a prompt"),
        (lambda: broken(float("nan")), "The weight model.layers.1.mlp.up_proj.weight of mine holds NaN or infinite"),
        (lambda: broken(float("-inf")), "The weight model.layers.1.mlp.up_proj.weight of mine holds NaN or infinite"),
        (on_meta, "The weight model.embed_tokens.weight of mine has no values in memory (meta device)"),
        (lambda: random_model("llama", vocab_size=64), "but LlamaModel has only 64 embeddings"),
    ],
)
def test_what_cannot_be_measured_is_refused(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(GeometryBenchError) as caught:
        wrapped(make(), name="mine")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_must_be_one() -> None:
    with pytest.raises(GeometryBenchError, match="The tokenizer of model is a NoneType"):
        Subject.wrap(random_model("llama"), None)
