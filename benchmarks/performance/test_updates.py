"""Time and memory of the full sweep over a synthetic family, beside bare decompositions and one SVD per threshold.

Run with `pytest benchmarks/performance/test_updates.py -s`. Three sharded checkpoints of 2 GB each (fewer blocks where the
disk is too small) are written to a temporary folder and removed afterwards; two updates, aligned − base and harmful −
aligned, are swept: energy kept by Top-K, Random-K and Random for every k, and MSO for every η. Skipped unless this folder
is named.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from geometry_bench.updates.sweep import TensorSweep

WIDTH, INNER, VOCABULARY, BLOCKS = 2048, 5504, 32000, 9
SHAPES = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (WIDTH, WIDTH),
    "self_attn.v_proj": (WIDTH, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (INNER, WIDTH),
    "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}
MEMBERS = ("base", "aligned", "harmful")
ETAS = [0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99]
DRAWS = 3

SWEEP = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[2]).parent))
from test_updates import figures, opened, swept
began = time.perf_counter()
count = 0
for matrix in swept(opened(Path(sys.argv[1]))):
    figures(matrix)
    count += 1
    print(f"{matrix.name} {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
status = Path("/proc/self/status").read_text()
peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
print(json.dumps({"peak": peak, "seconds": time.perf_counter() - began, "matrices": count}))
"""


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the three members; its largest tensor is the embedding."""
    place = tmp_path_factory.mktemp("synthetic")
    block = 4 * sum(math.prod(shape) for shape in SHAPES.values())
    embedding = 4 * VOCABULARY * WIDTH
    room = shutil.disk_usage(place).free - 2_000_000_000
    blocks = min(BLOCKS, int((room / len(MEMBERS) - embedding) // block))
    if blocks < 1:
        pytest.skip("three synthetic checkpoints do not fit on the disk of the temporary folder")
    try:
        for seed, member in enumerate(MEMBERS):
            write_member(place / member, seed, blocks)
        print(f"\n{blocks} blocks, {(blocks * block + embedding) / 1e9:.2f} GB a member")
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def write_member(folder: Path, seed: int, blocks: int) -> None:
    """Shards of two blocks; each member moved from one start, more in some inputs than in others."""
    from safetensors.numpy import save_file

    folder.mkdir()
    shapes = {"model.embed_tokens.weight": (VOCABULARY, WIDTH)}
    for block in range(blocks):
        shapes |= {f"model.layers.{block}.{name}.weight": shape for name, shape in SHAPES.items()}
    where, names = {}, list(shapes)
    for number, first in enumerate(range(0, len(names), 2 * len(SHAPES))):
        tensors = {}
        for index in range(first, min(len(names), first + 2 * len(SHAPES))):
            name, shape = names[index], shapes[names[index]]
            values = np.random.default_rng(index).standard_normal(shape, np.float32) * np.float32(0.02)
            if seed:
                moved = np.random.default_rng((seed, index)).standard_normal(shape, np.float32)
                values += moved * np.geomspace(1e-3, 1e-4, shape[1], dtype=np.float32)
            tensors[name], where[name] = values, f"model-{number}.safetensors"
        save_file(tensors, folder / f"model-{number}.safetensors", {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": blocks, "hidden_size": WIDTH}))
    (folder / "tokenizer.json").write_text("{}")


def opened(place: Path) -> dict[str, Any]:
    from geometry_bench.subjects.spec import SubjectSpec
    from geometry_bench.updates.checkpoint import open_checkpoint
    from geometry_bench.updates.update import compare

    base, aligned, harmful = (open_checkpoint(SubjectSpec(str(place / member))) for member in MEMBERS)
    return {"aligned": compare(base, aligned), "harmful": compare(aligned, harmful)}


def swept(updates: dict[str, Any], names: Sequence[str] | None = None) -> Iterator[TensorSweep]:
    from geometry_bench.updates.sweep import sweep

    return sweep(updates, [("aligned", "harmful")], names)


def figures(matrix: TensorSweep) -> list[np.ndarray]:
    """All figures of one matrix."""
    overlap = matrix.overlaps["aligned", "harmful"]
    return [
        overlap.energy_kept(),
        overlap.energy_kept_random_k(DRAWS, 0),
        matrix.energy_kept_random("harmful", DRAWS, 0),
        overlap.mso(ETAS).overlap,
    ]


def bare(updates: dict[str, Any], name: str, *, left: bool = False) -> None:
    """For each update one float64 Gram matrix and its eigenvectors, and with ``left`` the left vectors formed of them."""
    for update in updates.values():
        matrix = update.delta(name).astype(np.float64)
        tall = matrix.shape[0] > matrix.shape[1]
        values, vectors = np.linalg.eigh(matrix.T @ matrix if tall else matrix @ matrix.T)
        if left and tall:
            matrix @ (vectors / np.sqrt(values))


def seconds(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> float:
    start = time.perf_counter()
    function(*arguments, **keywords)
    return time.perf_counter() - start


def test_memory_of_the_full_sweep(family: Path) -> None:
    if not Path("/proc/self/status").is_file():
        pytest.skip("peak memory is read from /proc")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", SWEEP, str(family), __file__], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert done.returncode == 0
    measured = json.loads(done.stdout)
    largest = 4 * VOCABULARY * WIDTH
    print(
        f"full sweep of {measured['matrices']} matrices: {measured['seconds']:.0f} s, peak {measured['peak'] / 1e9:.2f} GB "
        f"(largest tensor {largest / 1e9:.2f} GB, limit {(4 * largest + 3e8) / 1e9:.2f} GB)"
    )
    assert measured["peak"] <= 4 * largest + 300_000_000


def test_time_of_the_full_sweep(family: Path, record_property: Callable[[str, object], None]) -> None:
    updates = opened(family)
    blocks = len([name for name in updates["aligned"].names if "q_proj" in name])
    # Matrix by matrix the ways take turns. Of two blocks the second stands for all further ones: what is drawn once for all
    # matrices of a shape falls to the first.
    names = ["model.embed_tokens.weight"]
    names += [f"model.layers.{block}.{name}.weight" for block in range(min(2, blocks)) for name in SHAPES]
    ways = ("sweep", "bare", "bare with left vectors", "one SVD per threshold")
    totals, of_kind = dict.fromkeys(ways, 0.0), {}
    svd: dict[tuple[int, ...], float] = {}
    matrices = swept(updates, names)
    for name in names:
        shape = updates["aligned"].pairs[name].shape
        if shape not in svd:
            matrix = updates["aligned"].delta(name).astype(np.float64)
            svd[shape] = seconds(np.linalg.svd, matrix, full_matrices=False)
            del matrix
        values = (
            seconds(lambda: figures(next(matrices))),
            seconds(bare, updates, name),
            seconds(bare, updates, name, left=True),
            2 * len(ETAS) * svd[shape],
        )
        of_kind[shape] = {way: round(value / values[1], 2) for way, value in zip(ways, values, strict=True)}
        for way, value in zip(ways, values, strict=True):
            totals[way] += value * (blocks - 1 if name.startswith("model.layers.1.") else 1)
    for shape, found in of_kind.items():
        print(shape, found)
    ratios = {
        "sweep / bare decompositions": totals["sweep"] / totals["bare"],
        "sweep / decompositions with left vectors": totals["sweep"] / totals["bare with left vectors"],
        "one SVD per threshold / sweep": totals["one SVD per threshold"] / totals["sweep"],
    }
    print({name: round(value, 3) for name, value in ratios.items()})
    for ratio, value in ratios.items():
        record_property(ratio, round(value, 3))
    assert ratios["one SVD per threshold / sweep"] > 20
    # Each of the updates once, and one product of the two.
    ratio = ratios["sweep / bare decompositions"]
    if ratio > 1.2:
        pytest.xfail(f"the full sweep takes {ratio:.2f} times as long as the bare decompositions; 1.2 times is the aim")
