"""Peak memory of the activation overlaps on the largest embedded model: five thousand prompts beside five hundred.

Run with `pytest benchmarks/performance`; each number of prompts is measured in a process of its own, by its resident
high-water mark, libraries included. Skipped unless this folder is named.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FEW, MANY = 500, 5_000
MODEL = "zoo/llama-d80/aligned"  # eight blocks of width 80: no embedded model has more activations a prompt

_MEASURE = """
import json, sys
from geometry_bench.claims.safety_subspaces import activations as claims
from geometry_bench.claims.model import Case
from geometry_bench.labs.model import CaptureSettings, Lab
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.prompts.pack import load_pack
from geometry_bench.subjects.spec import SubjectSpec, resolve

folder, model, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
sources = tuple((role, f"{folder}/{role}.jsonl") for role in claims.SETS)
spec = SubjectSpec(model)
lab = Lab(spec, resolve(spec), load_pack(), CaptureSettings(progress=False), requests=RequestSettings(count, 0, sources))
estimate = claims.mso_above_random(lab, Case("harmful-harmful"))["corrected"]
assert [claims.grouped(lab, name, "corrected").prompts for name in claims.SETS] == [count] * 3
assert len(claims.grouped(lab, claims.USEFUL, "corrected").blocks) == lab.layers
(peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"peak": 1024 * int(peak), "value": estimate.value}))
"""


@pytest.fixture(autouse=True)
def _needs_proc() -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("the high-water mark of a process of its own is read from /proc")


def write_sets(folder: Path) -> None:
    """Three sets of as many distinct requests as the larger run takes, without topics, so that groups are dealt."""
    from geometry_bench.claims.safety_subspaces.activations import SETS
    from geometry_bench.prompts.sets import load_set

    for role in SETS:
        rows = list(load_set(role).requests)
        copies = -(-MANY // len(rows))
        texts = [f"{row.text} ({copy})" if copy else row.text for copy in range(copies) for row in rows]
        lines = [json.dumps({"prompt": text}) for text in texts[:MANY]]
        (folder / f"{role}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_memory_does_not_grow_with_the_number_of_prompts(tmp_path: Path) -> None:
    write_sets(tmp_path)
    peaks = {}
    for count in (FEW, MANY):
        done = subprocess.run(
            [sys.executable, "-c", _MEASURE, str(tmp_path), MODEL, str(count)],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        peaks[count] = json.loads(done.stdout)["peak"]
    megabytes = {count: round(peak / 2**20) for count, peak in peaks.items()}
    print(f"\npeak memory in MiB by number of prompts a set: {megabytes}, ratio {peaks[MANY] / peaks[FEW]:.3f}")
    assert peaks[MANY] <= 1.2 * peaks[FEW]
