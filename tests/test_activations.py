"""Capture, pooling, batches and cache: against NumPy on `output_hidden_states`, and against each other."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geometry_bench.activations import batching, keys
from geometry_bench.activations import capture as capturing
from geometry_bench.activations.cache import TENSOR, Cache
from geometry_bench.activations.capture import capture, capture_batches
from geometry_bench.activations.pooling import LAST, Pooler, Pooling
from geometry_bench.errors import GeometryBenchError
from geometry_bench.storage import digest
from geometry_bench.subjects.load import load
from geometry_bench.subjects.spec import Identity, SubjectSpec
from geometry_bench.subjects.streams import block_output
from geometry_bench.subjects.subject import Subject
from tests import models
from tests.models import random_model, tiny_model

POOLINGS = (
    LAST,
    Pooling("mean_last", 5),
    Pooling("mean"),
    Pooling("last", skip_sinks=True),
    Pooling("mean_last", 5, skip_bos=True),
    Pooling("mean_last", 3, skip_sinks=True),
    Pooling("mean", skip_bos=True),
    Pooling("mean", skip_sinks=True),
    Pooling("mean", skip_bos=True, skip_sinks=True),
    Pooling("mean_first", 3),
    Pooling("mean_first", 4, start=1),
    Pooling("mean_first", 2, skip_bos=True, skip_sinks=True),
    Pooling("mean", start=1),
)
ARCHITECTURES = ("llama", "gpt_neox", "gpt2", "opt", "gemma2")
TOLERANCE = 2e-5


# A window shorter than the prompts, so that blocks differ in what they see.
OVERRIDES: dict[str, dict[str, Any]] = {"gemma2": {"sliding_window": 4}}


def stand_in(architecture: str, **overrides: Any) -> Subject:
    """A tiny random model as a subject, made in memory and always the same."""
    model = random_model(architecture, **{**OVERRIDES.get(architecture, {}), **overrides})
    config = model.config.get_text_config()
    identity = Identity(
        name=f"tiny/{architecture}",
        origin="local",
        path=None,
        revision="sha256:" + "a" * 64,
        architecture=type(model).__name__,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        adapter=None,
        adapter_hash=None,
    )
    return Subject(SubjectSpec("tiny"), identity, model, None, cast(Any, None), tokenizer_hash="t" * 64)


def prompts_of(lengths: Sequence[int], seed: int = 0) -> list[tuple[int, ...]]:
    rng = random.Random(seed)
    return [tuple(rng.randrange(3, 320) for _ in range(length)) for length in lengths]


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """The largest distance of a vector from its counterpart, relative to the counterpart's norm."""
    assert a.shape == b.shape
    return float((np.linalg.norm(a - b, axis=-1) / np.linalg.norm(b, axis=-1)).max())


def block_outputs(subject: Any, ids: Sequence[int]) -> np.ndarray:
    """(layers, positions, width) of one prompt by the usual way, except for the last block: there by its own hook."""
    kept: list[torch.Tensor] = []
    handle = subject.blocks[-1].register_forward_hook(
        lambda _m, _i, output: kept.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        states = subject.model(input_ids=torch.tensor([list(ids)]), output_hidden_states=True).hidden_states
    handle.remove()
    return np.stack([state[0].float().numpy() for state in [*states[1:-1], kept[0]]]).astype(np.float64)


def pooled_by_hand(outputs: np.ndarray, pooling: Pooling) -> np.ndarray:
    """(layers, width) from (layers, positions, width), one layer after the other."""
    result = []
    for states in outputs:
        norms = np.linalg.norm(states, axis=-1)
        rows = [
            position
            for position in range(len(states))
            if not (pooling.skip_bos and position == 0)
            and position >= pooling.start
            and not (pooling.skip_sinks and norms[position] > 100 * np.median(norms))
        ]
        few = {"last": rows[-1:], "mean_last": rows[-pooling.k :], "mean_first": rows[: pooling.k]}
        rows = few.get(pooling.kind, rows)
        result.append(states[rows].mean(axis=0))
    return np.stack(result)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_pooling_equals_numpy_on_hidden_states(architecture: str) -> None:
    subject = stand_in(architecture)
    sink = 7  # a token whose norm is far above all others', at every layer, as the first of real models often is
    cast(Any, subject.backbone).get_input_embeddings().weight.data[sink] *= 5000
    prompts = [*prompts_of([9, 2, 5, 14, 6]), (sink, 8, 9, 10, 11), (8, 9, 10, 11, sink)]
    result = capture(subject, prompts, POOLINGS, batch_size=3)
    outputs = [block_outputs(subject, ids) for ids in prompts]
    for pooling in POOLINGS:
        assert result[pooling].dtype == np.float32
        assert result[pooling].shape == (len(prompts), subject.n_layers, subject.width)
        expected = np.stack([pooled_by_hand(states, pooling) for states in outputs])
        assert relative(result[pooling], expected) < TOLERANCE, pooling.name
    with_sinks, without = (np.linalg.norm(result[Pooling("mean", skip_sinks=skip)], axis=-1) for skip in (False, True))
    assert (with_sinks[-2:] > 10 * without[-2:]).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batches_and_padding_side_do_not_matter(architecture: str) -> None:
    subject = stand_in(architecture)
    prompts = prompts_of([2 + 3 * (n % 7) for n in range(64)])
    alone = capture(subject, prompts, POOLINGS, batch_size=1)
    for setting in ({"batch_size": 64}, {"token_budget": 40}, {"batch_size": 64, "padding": "left"}, {}):
        together = capture(subject, prompts, POOLINGS, **setting)  # type: ignore[arg-type]
        for pooling in POOLINGS:
            assert relative(together[pooling], alone[pooling]) < TOLERANCE, (setting, pooling.name)


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(2, 24), min_size=1, max_size=12),
    budget=st.none() | st.integers(1, 100),
    size=st.none() | st.integers(1, 12),
    padding=st.sampled_from(["right", "left"]),
    seed=st.integers(0, 3),
)
def test_a_batch_of_many_equals_batches_of_one(
    lengths: list[int], budget: int | None, size: int | None, padding: Any, seed: int
) -> None:
    subject = stand_in("llama")
    prompts = prompts_of(lengths, seed)
    alone = capture(subject, prompts, POOLINGS, batch_size=1)
    together = capture(subject, prompts, POOLINGS, token_budget=budget, batch_size=size, padding=padding)
    assert all(relative(together[pooling], alone[pooling]) < TOLERANCE for pooling in POOLINGS)


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=40).map(sorted),
    budget=st.none() | st.integers(1, 200),
    size=st.none() | st.integers(1, 9),
    above=st.none() | st.integers(1, 50),
)
def test_plans_cover_all_rows_once_within_their_limits(
    lengths: list[int], budget: int | None, size: int | None, above: int | None
) -> None:
    batches = batching.plan(lengths, token_budget=budget, batch_size=size, uniform_above=above)
    assert sorted(itertools.chain.from_iterable(batch.rows for batch in batches)) == list(range(len(lengths)))
    for batch in batches:
        own = [lengths[row] for row in batch.rows]
        assert batch.length == max(own)
        assert size is None or len(own) <= size
        assert budget is None or batch.tokens <= budget or len(own) == 1
        assert above is None or max(own) <= above or len(set(own)) == 1


def conversations(systems: int = 4, messages: int = 5, length: int = 30) -> list[tuple[int, ...]]:
    """Every message under every system text, as the suite's prompts are."""
    beginnings, ends = prompts_of([length + n for n in range(systems)], 1), prompts_of(range(3, 3 + messages), 2)
    return [beginning + end for beginning in beginnings for end in ends]


@pytest.mark.parametrize("architecture", models.ARCHITECTURES)
def test_beginnings_computed_once_leave_the_values_as_they_are(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = stand_in(architecture)
    passes: list[int] = []
    once = capturing._keys_and_values
    monkeypatch.setattr(capturing, "_keys_and_values", lambda *a: passes.append(len(a[1])) or once(*a))
    prompts = conversations()
    poolings = (LAST, Pooling("mean_last", 3))
    alone = capture(subject, prompts, poolings, batch_size=1)
    assert not passes
    together = capture(subject, prompts, poolings)
    assert all(relative(together[pooling], alone[pooling]) < TOLERANCE for pooling in poolings)
    assert len(passes) == 5, "one trial, then one pass for each system text"
    assert set(passes) <= {30, 31, 32, 33}
    # A mean over all positions reads the beginnings too, so each prompt is computed whole.
    passes.clear()
    capture(subject, prompts, (LAST, Pooling("mean")))
    assert not passes


def test_a_model_that_answers_otherwise_with_keys_and_values_computes_whole_prompts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject, prompts = stand_in("llama"), conversations()
    alone = capture(subject, prompts, batch_size=1)[LAST]
    monkeypatch.setattr(capturing, "_keys_and_values", lambda *_: None)  # forgets what it read
    assert relative(capture(subject, prompts)[LAST], alone) < TOLERANCE


@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 60)),
    budget=st.none() | st.integers(1, 300),
    size=st.none() | st.integers(2, 9),
    keep=st.integers(1, 4),
)
def test_shared_plans_cover_all_rows_once_and_leave_the_end_alone(
    shape: tuple[int, int, int], budget: int | None, size: int | None, keep: int
) -> None:
    distinct, _ = batching.unique([*conversations(*shape), *prompts_of([4, 9, 70], 5)])
    batches = batching.plan_shared(distinct, token_budget=budget, batch_size=size, keep=keep)
    assert sorted(itertools.chain.from_iterable(batch.rows for batch in batches)) == list(range(len(distinct)))
    for batch in batches:
        rows = [distinct[row] for row in batch.rows]
        assert batch.length == max(map(len, rows))
        assert len({ids[: batch.prefix] for ids in rows}) == 1
        assert batch.prefix <= min(map(len, rows)) - keep or batch.prefix == 0
        assert size is None or len(rows) <= size
    whole = batching.plan([len(ids) for ids in distinct], token_budget=budget, batch_size=size)
    if budget is None and size is None:
        assert sum(b.tokens for b in batches) <= sum(b.tokens for b in whole)


@pytest.mark.parametrize("padding", ["right", "left"])
def test_what_stands_in_padded_positions_never_matters(padding: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = stand_in("llama")
    prompts = prompts_of([3, 17, 8])
    before = capture(subject, prompts, POOLINGS, batch_size=3, padding=padding)
    plain = batching.pad

    def noisy(rows: Any, length: int, side: Any, fill: int = 0) -> torch.Tensor:
        one, two = plain(rows, length, side, 0), plain(rows, length, side, 1)
        return torch.where(one == two, one, torch.randint(3, 320, one.shape, generator=torch.manual_seed(5)))

    monkeypatch.setattr(batching, "pad", noisy)
    after = capture(subject, prompts, POOLINGS, batch_size=3, padding=padding)
    assert all(relative(after[pooling], before[pooling]) < TOLERANCE for pooling in POOLINGS)


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("pooling", POOLINGS, ids=lambda pooling: pooling.name)
def test_pooling_never_reads_a_padded_position(pooling: Pooling, padding: Any) -> None:
    lengths, total = [2, 6, 4], 6
    hidden = torch.full((3, total, 4), float("nan"))
    own = [np.random.default_rng(length).normal(size=(length, 4)).astype(np.float32) for length in lengths]
    for row, states in enumerate(own):
        start = 0 if padding == "right" else total - len(states)
        hidden[row, start : start + len(states)] = torch.from_numpy(states)
    pooled = Pooler(lengths, total, padding, [pooling])(hidden)[0].numpy()
    expected = np.stack([pooled_by_hand(states[None].astype(np.float64), pooling)[0] for states in own])
    np.testing.assert_allclose(pooled, expected, rtol=1e-5, atol=1e-6)


def test_sinks_are_left_out_by_each_prompt_and_layer_of_its_own() -> None:
    ordinary = np.ones((4, 2), dtype=np.float32)
    sink = ordinary.copy()
    sink[0] = 1000  # the usual first-token sink
    large = 1000 * ordinary  # a prompt that is large throughout has no sink, whatever its neighbours are like
    hidden = torch.from_numpy(np.stack([ordinary, sink, large]))
    with_sinks, without = Pooler([4, 4, 4], 4, "right", [Pooling("mean"), Pooling("mean", skip_sinks=True)])(hidden)
    np.testing.assert_allclose(with_sinks.numpy()[:, 0], [1, 250.75, 1000])
    np.testing.assert_allclose(without.numpy()[:, 0], [1, 1, 1000])
    last = torch.from_numpy(sink[::-1].copy())[None]
    assert Pooler([4], 4, "right", [Pooling("last", skip_sinks=True)])(last)[0, 0, 0] == 1


def test_sums_are_taken_in_float32_for_bfloat16_blocks() -> None:
    hidden = torch.full((1, 4096, 1), 1.0, dtype=torch.bfloat16)
    hidden[0, ::2] = 1.0078125
    mean = Pooler([4096], 4096, "right", [Pooling("mean")])(hidden)
    assert mean.dtype == torch.float32
    assert abs(mean.item() - 1.00390625) < 1e-6  # halfway between two bfloat16 numbers


def test_identical_prompts_are_computed_once_and_returned_in_the_given_order() -> None:
    subject = stand_in("llama")
    a, b = prompts_of([7, 4])
    seen: list[int] = []
    handle = subject.blocks[0].register_forward_hook(lambda _m, _i, output: seen.append(block_output(output).shape[0]))
    result = capture(subject, [a, b, a, a])[LAST]
    handle.remove()
    assert sum(seen) == 2
    np.testing.assert_array_equal(result[0], result[2])
    np.testing.assert_array_equal(result[[1]], capture(subject, [b])[LAST])
    assert not np.allclose(result[0], result[1])


def test_the_pass_ends_after_the_last_block(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = stand_in("llama")

    def forbidden(*_: Any) -> None:
        raise AssertionError("final norm or head computed")

    monkeypatch.setattr(subject.backbone.norm, "forward", forbidden)
    monkeypatch.setattr(subject.model.lm_head, "forward", forbidden)
    assert capture(subject, prompts_of([5]))[LAST].shape == (1, subject.n_layers, subject.width)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rotary_frequencies_that_depend_on_the_longest_prompt_do_not_mix_lengths(kind: str) -> None:
    rope: dict[str, Any] = {"rope_type": kind, "factor": 4.0, "rope_theta": 10000.0}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "original_max_position_embeddings": 8}
    limit = 8 if kind == "dynamic" else 32
    prompts = prompts_of([5, 12, 12, 20])
    alone = [
        capture(stand_in("llama", rope_parameters=rope, max_position_embeddings=limit), [ids])[LAST][0]
        for ids in prompts
    ]
    subject = stand_in("llama", rope_parameters=rope, max_position_embeddings=limit)
    assert relative(capture(subject, prompts)[LAST], np.stack(alone)) < TOLERANCE
    assert relative(capture(subject, prompts[1:])[LAST], np.stack(alone[1:])) < TOLERANCE


def test_sharded_weights_give_the_same_values(tmp_path: Path) -> None:
    prompts = prompts_of([5, 9])
    single, sharded = (
        load(SubjectSpec(str(tiny_model("llama", tmp_path, name=name, max_shard_size=size))))
        for name, size in (("single", "1GB"), ("sharded", "20KB"))
    )
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    for pooling, values in capture(single, prompts, POOLINGS).items():
        np.testing.assert_array_equal(capture(sharded, prompts, POOLINGS)[pooling], values)


def test_offloaded_blocks_are_read_where_they_run(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    prompts = prompts_of([5, 9])
    subject = stand_in("llama")
    expected = capture(subject, prompts)[LAST]
    accelerate.disk_offload(subject.model, str(tmp_path), execution_device=torch.device("cpu"))
    subject.device = next(subject.backbone.parameters()).device
    assert subject.device.type == "meta"
    np.testing.assert_array_equal(capture(subject, prompts)[LAST], expected)


# Running out of memory


def failing(subject: Any, monkeypatch: pytest.MonkeyPatch, most: int, error: Exception) -> list[int]:
    """Make passes over more than `most` padded tokens fail; returns the list that all passes' sizes go to."""
    sizes: list[int] = []
    plain = subject.backbone.forward

    def forward(*args: Any, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        sizes.append(input_ids.numel())
        if input_ids.numel() > most:
            raise error
        return plain(*args, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(subject.backbone, "forward", forward)
    return sizes


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("MPS backend out of memory"), MemoryError()],
    ids=["cuda", "runtime", "host"],
)
def test_batches_are_halved_when_memory_runs_out_and_it_is_said_once(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = stand_in("llama")
    prompts = prompts_of([8] * 16 + [4] * 3)
    expected = capture(subject, prompts)[LAST]
    sizes = failing(subject, monkeypatch, most=20, error=error)
    with pytest.warns(RuntimeWarning, match="Out of memory with 16 prompts of up to 8 tokens") as caught:
        result = capture(subject, prompts, token_budget=128)[LAST]
    assert len(caught) == 1
    assert relative(result, expected) < TOLERANCE
    assert sum(size > 20 for size in sizes) == 3  # 128, 64, 32; what follows is cut before it is tried


def test_a_single_prompt_that_does_not_fit_is_an_error_naming_it(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = stand_in("llama")
    failing(subject, monkeypatch, most=20, error=torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(GeometryBenchError, match=r"Prompt 1 \(30 tokens\) does not fit"):
        capture(subject, prompts_of([5, 30, 4]))


def test_other_errors_are_not_taken_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = stand_in("llama")
    failing(subject, monkeypatch, most=0, error=RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        capture(subject, prompts_of([5]))


# Batch by batch


def gathered(batches: Any, count: int) -> dict[Pooling, np.ndarray]:
    """What `capture_batches` handed over, in the order of the prompts; each prompt must come once."""
    rows, parts = [], []
    for indices, pooled in batches:
        rows.append(indices)
        parts.append(pooled)
    order = np.argsort(np.concatenate(rows))
    assert sorted(np.concatenate(rows).tolist()) == list(range(count))
    return {pooling: np.concatenate([part[pooling] for part in parts])[order] for pooling in parts[0]}


@pytest.mark.parametrize("poolings", [POOLINGS, (LAST, Pooling("mean_last", 3))], ids=["whole", "shared"])
def test_batches_handed_over_hold_what_the_capture_holds(poolings: Any) -> None:
    subject = stand_in("llama")
    prompts = [*conversations(), *prompts_of([9, 2, 5])]
    prompts += [prompts[3], prompts[0], prompts[3]]
    whole = capture(subject, prompts, poolings)
    batches = list(capture_batches(subject, prompts, poolings))
    assert len(batches) > 1
    for pooling, values in gathered(batches, len(prompts)).items():
        np.testing.assert_array_equal(values, whole[pooling])


def test_batches_handed_over_come_once_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, prompts = stand_in("llama"), prompts_of([8] * 16 + [4] * 3)
    expected = capture(subject, prompts)[LAST]
    failing(subject, monkeypatch, most=20, error=torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.warns(RuntimeWarning, match="Out of memory with 16 prompts") as caught:
        values = gathered(capture_batches(subject, prompts, token_budget=128), len(prompts))[LAST]
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert relative(values, expected) < TOLERANCE


def test_what_receives_a_batch_may_fail_for_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error is its own: the batch is not computed again in halves, which would count prompts twice."""
    subject = stand_in("llama")
    sizes = failing(subject, monkeypatch, most=10**6, error=MemoryError())

    def receive() -> None:
        for _ in capture_batches(subject, prompts_of([8] * 16)):
            raise MemoryError

    with pytest.raises(MemoryError):
        receive()
    assert len(sizes) == 1
    assert not any(block._forward_hooks for block in subject.blocks)


# Bad input and broken numbers


def test_values_that_are_not_finite_name_prompt_and_layer(tmp_path: Path) -> None:
    subject, cache = stand_in("llama"), Cache(tmp_path)
    poisoned = 77
    given: list[torch.Tensor] = []

    def remember(_module: Any, inputs: Any, _output: Any) -> None:
        given[:] = inputs[:1]

    def poison(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output.masked_fill((given[0] == poisoned)[..., None], float("nan"))

    subject.backbone.get_input_embeddings().register_forward_hook(remember)
    subject.blocks[1].register_forward_hook(poison)
    with pytest.raises(GeometryBenchError, match="prompt 2 are not finite at layer 1 "):
        capture(subject, [(5, 6), (7, 8, 9), (5, poisoned)], cache=cache)
    with pytest.raises(GeometryBenchError, match="prompt 2 are not finite at layer 1 "):
        list(capture_batches(subject, [(5, 6), (7, 8, 9), (5, poisoned)]))
    assert not cache.entries()


@pytest.mark.parametrize(
    ("prompts", "poolings", "message"),
    [
        ([(4, 5), ()], (LAST,), "Prompt 1 has no tokens"),
        ([(4, 5), (4,)], (Pooling("mean", skip_bos=True),), "Prompt 1 has 1 tokens"),
        ([(4, 5), (4, 320)], (LAST,), "Prompt 1 holds a token id outside 0..319"),
        ([(-1, 5)], (LAST,), "Prompt 0 holds a token id outside"),
        ([(4, 5, 6), (4, 5)], (Pooling("mean_first", 3, start=2),), "Prompt 1 has 2 tokens.* the first 2 need 3"),
        ([(4, 5)], (), "No pooling"),
    ],
)
def test_bad_prompts_are_one_clear_sentence(prompts: Any, poolings: Any, message: str) -> None:
    with pytest.raises(GeometryBenchError, match=message):
        capture(stand_in("llama"), prompts, poolings)


def test_poolings_have_stable_names_and_refuse_nonsense() -> None:
    assert len({pooling.name for pooling in POOLINGS}) == len(POOLINGS)
    assert Pooling("mean_last", 5, skip_bos=True, skip_sinks=True).name == "mean_last_5+no_bos+no_sinks"
    assert Pooling("mean_first", 5, skip_sinks=True, start=7).name == "mean_first_5+from_7+no_sinks"
    negative = {"kind": "mean_first", "start": -1}
    for wrong in ({"kind": "max"}, {"kind": "mean", "k": 2}, {"kind": "mean_last", "k": 0}, negative):
        with pytest.raises(GeometryBenchError):
            Pooling(**wrong)  # type: ignore[arg-type]


# The cache


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Prompts of each forward pass that is made."""
    seen: list[int] = []
    plain = capturing._forward

    def counted(subject: Any, prompts: Any, *rest: Any) -> Any:
        seen.append(len(prompts))
        return plain(subject, prompts, *rest)

    monkeypatch.setattr(capturing, "_forward", counted)
    return seen


def test_a_hit_equals_a_fresh_pass_and_computes_nothing(tmp_path: Path, passes: list[int]) -> None:
    subject, cache = stand_in("llama"), Cache(tmp_path)
    prompts = prompts_of([5, 9, 3])
    fresh = capture(subject, prompts, POOLINGS, cache=cache)
    made = len(passes)
    again = capture(subject, prompts, POOLINGS, cache=cache)
    assert len(passes) == made
    for pooling in POOLINGS:
        np.testing.assert_array_equal(again[pooling], fresh[pooling])
    turned = capture(subject, [*prompts[::-1], prompts[0]], cache=cache)[LAST]
    assert len(passes) == made  # order and repetition are no part of the content
    np.testing.assert_array_equal(turned, fresh[LAST][[2, 1, 0, 0]])


def test_a_new_pooling_beside_stored_ones_is_all_that_is_computed(tmp_path: Path, passes: list[int]) -> None:
    subject, cache = stand_in("llama"), Cache(tmp_path)
    prompts = prompts_of([5, 9])
    stored = capture(subject, prompts, cache=cache)[LAST]
    result = capture(subject, prompts, (LAST, Pooling("mean")), cache=cache)
    np.testing.assert_array_equal(result[LAST], stored)
    assert list(result) == [LAST, Pooling("mean")]
    assert len(cache.entries()) == 2


def change_of(subject: Subject, what: str) -> None:
    if what == "weights":
        subject.identity = replace(subject.identity, revision="sha256:" + "b" * 64)
    elif what == "adapter":
        subject.identity = replace(subject.identity, adapter_hash="c" * 64)
    else:
        setattr(subject, {"tokenizer": "tokenizer_hash"}.get(what, what), "another")


@pytest.mark.parametrize(
    "change", ["weights", "adapter", "tokenizer", "dtype", "quantisation", "attention", "ids", "code"]
)
def test_whatever_a_number_depends_on_is_in_its_key(
    change: str, tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, prompts = Cache(tmp_path), prompts_of([5, 9])
    capture(stand_in("llama"), prompts, cache=cache)
    made = len(passes)
    subject = stand_in("llama")
    if change == "code":
        monkeypatch.setattr(keys, "CODE_VERSION", keys.CODE_VERSION + 1)
    elif change == "ids":
        prompts = [prompts[0], (*prompts[1][:-1], 3 + (prompts[1][-1] - 2) % 300)]
    else:
        change_of(subject, change)
    capture(subject, prompts, cache=cache)
    assert len(passes) > made


def damage_header(path: Path) -> None:
    path.write_bytes(b"\xff" * 40)


def damage_data(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def damage_length(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("damage", [damage_header, damage_data, damage_length, lambda path: path.write_bytes(b"")])
def test_a_damaged_entry_is_a_miss_and_replaced(
    damage: Callable[[Path], None], tmp_path: Path, passes: list[int]
) -> None:
    subject, cache, prompts = stand_in("llama"), Cache(tmp_path), prompts_of([5])
    expected = capture(subject, prompts, cache=cache)[LAST]
    made = len(passes)
    (entry,) = cache.entries()
    damage(entry.path)
    np.testing.assert_array_equal(capture(subject, prompts, cache=cache)[LAST], expected)
    assert len(passes) == made + 1
    np.testing.assert_array_equal(capture(subject, prompts, cache=cache)[LAST], expected)
    assert len(passes) == made + 1


def test_entries_say_what_they_are_and_can_be_cleared(tmp_path: Path) -> None:
    subject, cache = stand_in("llama"), Cache(tmp_path)
    capture(subject, prompts_of([5, 9]), (LAST, Pooling("mean")), cache=cache)
    cache.put(digest({"other": 1}), {TENSOR: np.zeros((1, 1, 1), np.float32)}, {"subject": "some/other"})
    facts = {row.path.stem: row.facts for row in cache.entries()}
    assert sorted(entry["subject"] for entry in facts.values()) == ["some/other", subject.id, subject.id]
    row = next(row for row in cache.entries() if row.facts.get("pooling") == "mean")
    entry = row.facts
    assert (entry["prompts"], entry["layers"], entry["width"]) == ("2", str(subject.n_layers), str(subject.width))
    assert entry["bytes"] == str(2 * subject.n_layers * subject.width * 4)
    assert {"created", "key", "dtype"} <= entry.keys()

    os.utime(row.path, (time.time() - 7200,) * 2)
    abandoned, recent = row.path.with_name(".a.tmp"), row.path.with_name(".b.tmp")
    abandoned.touch()
    recent.touch()
    os.utime(abandoned, (time.time() - 10 * 86400,) * 2)
    assert cache.clear(older_than=timedelta(hours=1)) == 1
    assert not abandoned.exists()
    assert recent.exists()
    assert cache.clear(subject="some/other") == 1
    assert cache.clear() == 1
    assert cache.entries() == []


def test_a_folder_that_cannot_be_written_is_said_once_and_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache, subject = Cache(tmp_path / "file" / "cache"), stand_in("llama")
    with pytest.warns(RuntimeWarning, match="goes on without it") as caught:
        result = capture(subject, prompts_of([5]), (LAST, Pooling("mean")), cache=cache)
    assert len(caught) == 1
    assert result[LAST].shape[0] == 1


@pytest.mark.parametrize("moment", ["pass", "write"])
def test_an_interruption_leaves_no_file_and_no_hook(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, cache = stand_in("llama"), Cache(tmp_path)
    count = 0

    def interrupted(*_: Any, **__: Any) -> None:
        nonlocal count
        count += 1
        if count > 1 or moment == "write":
            raise KeyboardInterrupt

    handle = None
    if moment == "pass":
        handle = subject.blocks[1].register_forward_hook(interrupted)
    else:
        monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        capture(subject, prompts_of([5, 9]), batch_size=1, cache=cache)
    if handle is not None:
        handle.remove()
    assert count
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(block._forward_hooks for block in subject.blocks)


def write_often(root: str, seed: int) -> None:
    cache, key = Cache(Path(root)), digest({"shared": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(40):
            values = np.full((8, 8, 64), seed, np.float32)
            assert cache.put(key, {TENSOR: values})
            stored = cache.get(key)
            assert stored is not None  # another process may have replaced it, but whole it always is
            assert len(np.unique(stored[TENSOR])) == 1


def test_two_processes_may_write_the_same_entry(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write_often, args=(str(tmp_path), seed)) for seed in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(Cache(tmp_path).entries()) == 1
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_cache_folder_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GEOMETRY_BENCH_CACHE", str(tmp_path / "here"))
    assert Cache().root == tmp_path / "here" / "activations"
    monkeypatch.delenv("GEOMETRY_BENCH_CACHE")
    assert Cache().root.parts[-2:] == ("geometry-bench", "activations")


# Progress


def test_the_bar_is_silent_off_a_terminal_unless_forced(capsys: pytest.CaptureFixture[str]) -> None:
    subject, prompts = stand_in("llama"), prompts_of([5, 9])
    capture(subject, prompts, label="axes")
    assert capsys.readouterr() == ("", "")
    capture(subject, prompts, label="axes", progress="force")
    out, err = capsys.readouterr()
    assert out == ""
    assert "axes" in err
    assert "/2" in err
    list(capture_batches(subject, prompts, label="sums", progress="force"))
    assert "sums" in capsys.readouterr().err
