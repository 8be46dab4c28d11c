"""Steering, ablating and capping: against NumPy, against edited weights, and gone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geometry_bench.activations.capture import capture
from geometry_bench.activations.pooling import LAST
from geometry_bench.behavior.ablated import ablated
from geometry_bench.behavior.interventions import Ablate, Cap, Intervention, Steer, applied, facts
from geometry_bench.errors import GeometryBenchError
from geometry_bench.storage import digest
from geometry_bench.subjects.load import load
from geometry_bench.subjects.measuring import has_hooks
from geometry_bench.subjects.spec import SubjectSpec
from geometry_bench.subjects.streams import block_output
from geometry_bench.subjects.subject import Subject
from tests.models import random_model, tiny_tokenizer

ARCHITECTURES = ("llama", "qwen2", "gpt_neox", "gpt2", "gemma2", "olmo2", "phi3", "opt", "mixtral")
WITH_PLAIN_WEIGHTS = ("llama", "qwen2", "gpt_neox", "gpt2", "phi3", "opt", "mixtral", "qwen3_moe")
IDS = tuple(range(6, 26))
WIDTH = 32


def subject_of(architecture: str, **overrides: Any) -> Subject:
    return Subject.wrap(random_model(architecture, **overrides), tiny_tokenizer(chat_template="native"))


@pytest.fixture(scope="module")
def subject() -> Subject:
    return subject_of("llama")


@pytest.fixture
def direction() -> np.ndarray:
    return 3 * np.random.default_rng(0).standard_normal(WIDTH)


def logits(subject: Subject, ids: tuple[int, ...] = IDS) -> torch.Tensor:
    with subject.measuring():
        return subject.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def outputs(subject: Subject, ids: tuple[int, ...] = IDS) -> np.ndarray:
    """(blocks, positions, width) of one pass, float64."""
    found: list[torch.Tensor] = []
    handles = [
        block.register_forward_hook(lambda _m, _a, out: found.append(block_output(out))) for block in subject.blocks
    ]
    try:
        logits(subject, ids)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([one[0] for one in found]).double().numpy()


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


# What each does


@pytest.mark.parametrize("scale", ["activation", "direction"])
def test_steering_adds_the_dose(subject: Subject, direction: np.ndarray, scale: Any) -> None:
    plain = outputs(subject)
    with applied(subject, Steer(direction, -0.4, [1], scale=scale)):
        steered = outputs(subject)
    lengths = np.linalg.norm(plain[1], axis=-1, keepdims=True) if scale == "activation" else np.linalg.norm(direction)
    np.testing.assert_array_equal(steered[0], plain[0])
    np.testing.assert_allclose(steered[1], plain[1] - 0.4 * lengths * unit(direction), atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_steering_the_last_token_leaves_the_others(subject: Subject, direction: np.ndarray, side: str) -> None:
    prompts = [IDS, IDS[:7], IDS[3:15]]
    alone = []
    with applied(subject, Steer(direction, 0.5, [1], positions="last")):
        for ids in prompts:
            steered, plain = outputs(subject, ids), None
            alone.append(steered)
        size = max(map(len, prompts))
        pads = [size - len(ids) for ids in prompts]
        rows = [
            [0] * n + list(ids) if side == "left" else list(ids) + [0] * n for ids, n in zip(prompts, pads, strict=True)
        ]
        mask = (torch.tensor(rows) != 0).long()
        read: list[torch.Tensor] = []
        handle = subject.blocks[2].register_forward_hook(lambda _m, _a, out: read.append(block_output(out)))
        with subject.measuring():
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            subject.backbone(input_ids=torch.tensor(rows), attention_mask=mask, position_ids=positions, use_cache=False)
        handle.remove()
    for ids, steered, row, present in zip(prompts, alone, read[0], mask, strict=True):
        plain = outputs(subject, ids)
        np.testing.assert_array_equal(steered[:, :-1], plain[:, :-1])
        assert np.abs(steered[1, -1] - plain[1, -1]).max() > 0.1
        np.testing.assert_allclose(row[present.bool()].numpy(), steered[2], atol=1e-4)


def test_the_last_tokens_of_padded_rows_without_a_mask_are_not_guessed(subject: Subject, direction: np.ndarray) -> None:
    with applied(subject, Steer(direction, 0.5, positions="last")):
        with pytest.raises(GeometryBenchError, match="without an attention mask"):
            capture(subject, [IDS, IDS[:5]], progress=False)
        left = capture(subject, [IDS, IDS[:5]], padding="left", progress=False)[LAST]
        one = capture(subject, [IDS[:5]], progress=False)[LAST]
    np.testing.assert_allclose(left[1], one[0], atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_after_ablation_no_block_has_the_direction(architecture: str, direction: np.ndarray) -> None:
    subject = subject_of(architecture)
    before = np.abs(outputs(subject) @ unit(direction)).max()
    with applied(subject, Ablate(direction)):
        after = np.abs(outputs(subject) @ unit(direction)).max()
    assert before > 0.1
    assert after < 1e-5 * max(1, before)


@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize("blocks", [None, (1, 2)])
@pytest.mark.parametrize("architecture", WITH_PLAIN_WEIGHTS)
def test_ablated_weights_give_the_logits_of_ablated_activations(
    architecture: str, blocks: Any, strength: float, direction: np.ndarray
) -> None:
    subject = subject_of(architecture)
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    plain = logits(subject)
    with applied(subject, Ablate(direction, blocks, strength)):
        hooked = logits(subject)
    with ablated(subject, direction, strength=strength, blocks=blocks):
        edited = logits(subject)
    assert (hooked - plain).abs().max() > 1e-2
    assert (hooked - edited).abs().max() < 1e-4
    after = subject.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert torch.equal(logits(subject), plain)


@pytest.mark.parametrize("member", ["zoo/llama-d80/aligned", "zoo/neox-d64/aligned"])
def test_on_a_trained_model_with_a_tied_head_too(member: str) -> None:
    subject = load(SubjectSpec(member))
    direction = np.random.default_rng(1).standard_normal(subject.width)
    ids = subject.chat.encode("", "How do I bake a cake?").ids
    head = subject.model.get_output_embeddings()
    shared = head.weight
    with applied(subject, Ablate(direction)):
        hooked = logits(subject, ids)
    with ablated(subject, direction):
        edited = logits(subject, ids)
    assert (hooked - edited).abs().max() < 1e-4
    assert head.weight is shared
    if subject.text_config.tie_word_embeddings:
        assert shared is subject.backbone.get_input_embeddings().weight


def test_weights_whose_writing_a_norm_changes_are_refused(direction: np.ndarray) -> None:
    subject = subject_of("gemma2")
    plain = logits(subject)
    with pytest.raises(GeometryBenchError, match=r"block 0 .* cannot be edited"), ablated(subject, direction):
        pass
    assert torch.equal(logits(subject), plain)


def test_a_block_that_adds_something_else_cannot_be_ablated(direction: np.ndarray) -> None:
    subject = subject_of("llama")
    subject.blocks[2].register_forward_hook(lambda _m, _a, out: out)  # harmless: it adds nothing
    with applied(subject, Ablate(direction)):
        pass
    attention = subject.blocks[2].self_attn
    subject.blocks[2].attention_of_its_own = attention
    del subject.blocks[2].self_attn
    object.__setattr__(subject.blocks[2], "self_attn", attention)
    with pytest.raises(GeometryBenchError, match=r"Block 2 .* does not add"), applied(subject, Ablate(direction)):
        pass


def test_a_cap_of_no_strength_changes_no_logit(subject: Subject, direction: np.ndarray) -> None:
    plain = logits(subject)
    with applied(subject, Cap(direction, threshold=-1.0, alpha=0.0)):
        assert subject.intervened
        assert torch.equal(logits(subject), plain)


@settings(max_examples=25)
@given(threshold=st.floats(-3, 3), alpha=st.floats(0, 1), seed=st.integers(0, 10**6))
def test_a_cap_lowers_what_exceeds_it(subject: Subject, threshold: float, alpha: float, seed: int) -> None:
    direction = np.random.default_rng(seed).standard_normal(WIDTH)
    plain = outputs(subject)[2]
    with applied(subject, Cap(direction, threshold, alpha, [2])):
        capped = outputs(subject)[2]
    v = unit(direction)
    excess = np.maximum(0, plain @ v - threshold)
    np.testing.assert_allclose(capped, plain - alpha * excess[:, None] * v, atol=2e-5)
    if alpha == 1:
        assert (capped @ v).max() <= threshold + 1e-5


def test_at_full_strength_nothing_exceeds_the_cap(subject: Subject, direction: np.ndarray) -> None:
    before = outputs(subject) @ unit(direction)
    threshold = float(np.median(before))
    with applied(subject, Cap(direction, threshold, 1.0)):
        after = outputs(subject) @ unit(direction)
    assert (before > threshold).mean() > 0.3
    assert after.max() <= threshold + 1e-5


# Together, and gone


def test_interventions_act_in_the_order_given_and_nest(subject: Subject, direction: np.ndarray) -> None:
    v = unit(direction)
    first, second = Steer(direction, 1.0, [3]), Cap(direction, 0.5, 1.0, [3])
    with applied(subject, first, second):
        together = outputs(subject)
    with applied(subject, first), applied(subject, second):
        nested = outputs(subject)
    with applied(subject, second, first):
        otherwise = outputs(subject)
    np.testing.assert_array_equal(together, nested)
    assert (together[3] @ v).max() <= 0.5 + 1e-5 < (otherwise[3] @ v).max()


def test_ablation_within_steering_is_known_to_be_sound(subject: Subject, direction: np.ndarray) -> None:
    other = np.random.default_rng(9).standard_normal(WIDTH)
    with applied(subject, Steer(other, 0.5)), applied(subject, Ablate(direction)):
        nested = outputs(subject)
    with applied(subject, Ablate(direction), Steer(other, 0.5)):
        np.testing.assert_array_equal(nested, outputs(subject))


EVERY: list[Callable[[np.ndarray], Intervention]] = [
    lambda v: Steer(v, 0.5, positions="last"),
    lambda v: Ablate(v),
    lambda v: Cap(v, 0.0),
]


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_hooks_are_gone_whatever_happens(subject: Subject, direction: np.ndarray, stop: type[BaseException]) -> None:
    plain = logits(subject)
    with pytest.raises(stop), applied(subject, *(make(direction) for make in EVERY)):  # noqa: PT012
        assert subject.intervened
        assert has_hooks(subject.model)
        raise stop
    assert not has_hooks(subject.model)
    assert not subject.intervened
    assert torch.equal(logits(subject), plain)


def test_weights_come_back_after_an_interrupt(direction: np.ndarray) -> None:
    subject = subject_of("llama", tie_word_embeddings=True)
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), ablated(subject, direction):
        raise KeyboardInterrupt
    assert all(torch.equal(value, before[name]) for name, value in subject.model.state_dict().items())
    assert not subject.intervened


def test_a_capture_within_is_not_cached(tmp_path: Path, tiny: Path, direction: np.ndarray) -> None:
    from geometry_bench.activations.cache import Cache

    subject, cache = load(SubjectSpec(str(tiny))), Cache(tmp_path)
    plain = capture(subject, [IDS], cache=cache, progress=False)[LAST]
    with applied(subject, Steer(direction[: subject.width], 0.5)):
        steered = capture(subject, [IDS], cache=cache, progress=False)[LAST]
    assert np.abs(steered - plain).max() > 0.1
    np.testing.assert_array_equal(capture(subject, [IDS], cache=cache, progress=False)[LAST], plain)


def test_facts_tell_all_interventions_apart(direction: np.ndarray) -> None:
    other = direction + 1e-9
    made = [
        Steer(direction, 0.5),
        Steer(other, 0.5),
        Steer(direction, 0.6),
        Steer(direction, 0.5, [1]),
        Steer(direction, 0.5, positions="last"),
        Steer(direction, 0.5, scale="direction"),
        Ablate(direction),
        Ablate(direction, strength=0.5),
        Cap(direction, 0.5),
        Cap(direction, 0.5, 0.5),
    ]
    digests = [digest(facts([one])) for one in made]
    assert len(set(digests)) == len(made)
    assert digest(facts([Steer(direction.copy(), 0.5)])) == digests[0]


# Bad input


def bad() -> Iterator[Any]:
    good = np.ones(WIDTH)
    nan = np.where(np.arange(WIDTH) == 3, np.nan, 1.0)
    for make in (lambda v: Steer(v, 1.0), Ablate, lambda v: Cap(v, 0.0)):
        yield pytest.param(lambda make=make: make(np.ones(WIDTH - 1)), "width 31", id="width")
        yield pytest.param(lambda make=make: make(nan), "NaN", id="nan")
        yield pytest.param(lambda make=make: make(np.zeros(WIDTH)), "is zero", id="zero")
        yield pytest.param(lambda make=make: make(np.ones((2, WIDTH))), "one vector", id="shape")
    yield pytest.param(lambda: Cap(good), "no threshold", id="no-threshold")
    yield pytest.param(lambda: Cap(good, 0.0, 1.5), "alpha of a Cap is 1.5", id="alpha")
    yield pytest.param(lambda: Ablate(good, strength=-1), "The strength of an Ablate is -1", id="strength")
    yield pytest.param(lambda: Steer(good, float("nan")), "dose of a Steer is nan", id="dose")
    yield pytest.param(lambda: Steer(good, 1.0, [0, 4]), "block 4, and model has blocks 0 to 3", id="block")
    yield pytest.param(lambda: Steer(good, 1.0, [-1]), "block -1", id="negative")
    yield pytest.param(lambda: Steer(good, 1.0, []), "names no block", id="none")
    yield pytest.param(lambda: Steer(good, 1.0, positions="first"), "Unknown positions 'first'", id="positions")  # type: ignore[arg-type]


@pytest.mark.parametrize(("make", "sentence"), list(bad()))
def test_bad_input_gets_a_sentence(subject: Subject, make: Callable[[], Intervention], sentence: str) -> None:
    with pytest.raises(GeometryBenchError, match=sentence), applied(subject, make()):
        pass
    assert not has_hooks(subject.model)
    assert not subject.intervened
