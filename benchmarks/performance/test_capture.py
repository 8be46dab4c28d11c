"""Time of the capture beside a bare forward pass and beside the usual script, on random models and prompts.

Run with `pytest benchmarks/performance`; the ratios stand in the report of pytest-benchmark (`--benchmark-json=FILE`)
under `extra_info`, and are printed with `-s`. They are ratios of the fastest of several rounds, in which all ways take
turns, so that what else the machine does troubles all alike. Skipped unless this folder is named.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

if TYPE_CHECKING:
    from geometry_bench.subjects.subject import Subject

PROMPTS = 40
ROUNDS = 3
SIZE = {"vocab_size": 8192, "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8,
        "intermediate_size": 2048, "max_position_embeddings": 512}  # fmt: skip


@pytest.fixture(autouse=True)
def _needs_pytest_benchmark(request: pytest.FixtureRequest) -> None:
    if not request.config.pluginmanager.hasplugin("benchmark"):
        pytest.skip("timings need pytest-benchmark")


def random_subject(architecture: str) -> Subject:
    """A random model of 25 million parameters in its blocks, as a subject."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from geometry_bench.subjects.spec import Identity, SubjectSpec
    from geometry_bench.subjects.subject import Subject

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **SIZE)).eval()
    identity = Identity(
        name=f"random/{architecture}",
        origin="local",
        path=None,
        revision="sha256:" + "0" * 64,
        architecture=type(model).__name__,
        layers=SIZE["num_hidden_layers"],
        width=SIZE["hidden_size"],
        adapter=None,
        adapter_hash=None,
    )
    return Subject(SubjectSpec("random"), identity, model, None, cast(Any, None), tokenizer_hash="0" * 64)


def random_prompts() -> list[tuple[int, ...]]:
    """Prompts of 5 to 300 tokens, log-normal with a median of 35."""
    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(rng.normal(np.log(35), 0.8, PROMPTS)).round().astype(int), 5, 300)
    return [tuple(rng.integers(0, SIZE["vocab_size"], length).tolist()) for length in lengths]


def bare(subject: Subject, batches: Sequence[Any]) -> None:
    """Forward passes of the base model that record nothing."""
    import torch

    with torch.no_grad():
        for ids in batches:
            cast(Any, subject.backbone)(input_ids=ids, use_cache=False)


def usual_script(subject: Subject, prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """One prompt at a time through the causal model, all hidden states kept, the last position read."""
    import torch

    rows = []
    with torch.no_grad():
        for ids in prompts:
            states = cast(Any, subject.model)(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
            rows.append(torch.stack([state[0, -1] for state in states[1:]]))
    return torch.stack(rows).numpy()


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


@pytest.mark.parametrize("poolings", ["last", "three"])
@pytest.mark.parametrize("architecture", ["gpt_neox", "llama"])
def test_capture(architecture: str, poolings: str, request: pytest.FixtureRequest) -> None:
    import torch

    from geometry_bench.activations import batching
    from geometry_bench.activations.capture import capture
    from geometry_bench.activations.pooling import LAST, Pooling

    benchmark = request.getfixturevalue("benchmark")
    subject, prompts = random_subject(architecture), random_prompts()
    wanted = (LAST,) if poolings == "last" else (LAST, Pooling("mean_last", 5), Pooling("mean"))

    distinct, _ = batching.unique(prompts)
    plan = batching.plan([len(ids) for ids in distinct], token_budget=batching.TOKENS_CPU)
    same = [batching.pad([distinct[row] for row in batch.rows], batch.length, "right") for batch in plan]
    # As many tokens as the prompts have, in full batches of their median length: what no padding at all would cost.
    tokens = sum(map(len, distinct))
    length = int(np.median([len(ids) for ids in distinct]))
    rows = batching.TOKENS_CPU // length
    full = [torch.zeros((rows, length), dtype=torch.long)] * round(tokens / (rows * length))
    unpadded = sum(ids.numel() for ids in full) / tokens

    ways: dict[str, Callable[[], float]] = {
        "same batches": lambda: seconds(bare, subject, same),
        "no padding": lambda: seconds(bare, subject, full) / unpadded,
        "usual script": lambda: seconds(usual_script, subject, prompts),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}

    def others() -> None:
        for name, way in ways.items():
            times[name].append(way())

    result = benchmark.pedantic(
        capture, args=(subject, prompts, wanted), kwargs={"progress": False}, setup=others, rounds=ROUNDS
    )
    expected = usual_script(subject, prompts)[:, :-1]  # its last layer has passed the final norm
    error = np.linalg.norm(result[LAST][:, :-1] - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert error.max() < 2e-5

    own = benchmark.stats.stats.min
    ratios = {
        "capture / bare pass over the same batches": own / min(times["same batches"]),
        "capture / bare pass without padding": own / min(times["no padding"]),
        "usual script / capture": min(times["usual script"]) / own,
    }
    padding = sum(batch.tokens for batch in plan) / tokens
    benchmark.extra_info.update({name: round(value, 3) for name, value in ratios.items()})
    benchmark.extra_info.update({"padded / real tokens": round(padding, 3), "threads": torch.get_num_threads()})
    print(f"\n{architecture}, {poolings}: {benchmark.extra_info}")
