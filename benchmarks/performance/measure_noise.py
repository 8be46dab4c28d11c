"""Measures numerical noise and stores it in ``baselines/numerical_noise.json``.

    python benchmarks/performance/measure_noise.py

Every claim but a panel's is measured on some embedded models, a group of two of them, and a family's weights, under other
batch sizes, padding sides and thread counts, in each dtype; the largest difference from the plain run, by metric, is the
noise. Nothing else changes: it is all arithmetic.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from geometry_bench.claims.model import NotApplicableError, Scope
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.labs.family import FamilyLab
from geometry_bench.labs.group import GroupLab
from geometry_bench.labs.model import CaptureSettings, Lab, Rendering, States
from geometry_bench.prompts.pack import Pack, load_pack
from geometry_bench.records.environment import environment
from geometry_bench.resources import data_root
from geometry_bench.storage import write_atomically
from geometry_bench.subjects.families import embedded_specs, load_family
from geometry_bench.subjects.spec import SubjectSpec, resolve

MEASURED_ON = ("zoo/llama-d80/base", "zoo/neox-d96/aligned", "zoo/llama-d80/aligned")
PARTNER = "zoo/neox-d64/base"
"""The other member of the group."""

DTYPES = ("float32", "float16", "bfloat16")
PLAIN = (CaptureSettings(progress=False), 1)
VARIED = (
    (CaptureSettings(batch_size=1, progress=False), 1),
    (CaptureSettings(batch_size=64, progress=False), 2),
    (CaptureSettings(batch_size=16, padding="left", progress=False), 2),
)


def few_controls(pack: Pack) -> Pack:
    """The pack with some of its controls and topics: arithmetic noise does not depend on how many there are."""
    controls, topics = (dict(list(texts.items())[:8]) for texts in (pack.controls, pack.safety_topics))
    return replace(pack, controls=controls, safety_topics=topics)


class CorrectedLab(Lab):
    """A lab that captures one rendering only: the noise is that of the corrected variant."""

    def states(self, messages: str, rendering: Rendering) -> States:
        """The corrected rendering's states, whichever is asked for."""
        return super().states(messages, "corrected")


def values(spec: SubjectSpec, settings: CaptureSettings, threads: int) -> dict[tuple[str, str, int | str], float]:
    """Values and leave-one-out values of every case, under one setting."""
    torch.set_num_threads(threads)
    lab = _lab(spec, settings)
    found = _measured(lab, "model")
    lab.close()
    members = [spec.model, PARTNER]
    group = GroupLab(members, members[0], lambda model: _lab(replace(spec, model=model), settings))
    return found | _measured(group, "group", members)


def of_weights(threads: int) -> dict[tuple[str, str, int | str], float]:
    """Values and leave-one-out values of every case on the weights of a family."""
    with threadpool_limits(threads):
        return _measured(FamilyLab(load_family(Path("zoo/llama-d80")), progress=False), "family")


def _lab(spec: SubjectSpec, settings: CaptureSettings) -> CorrectedLab:
    return CorrectedLab(spec, resolve(spec), few_controls(load_pack()), settings)


def _measured(
    lab: Lab | GroupLab | FamilyLab, scope: Scope, members: Sequence[str] = ()
) -> dict[tuple[str, str, int | str], float]:
    found: dict[tuple[str, str, int | str], float] = {}
    for claim in (claim for claim in CLAIMS.values() if claim.scope == scope):
        for case in claim.cases_of(members, members[0] if members else None):
            try:
                estimate = claim.measure(lab, case)["corrected"]
            except NotApplicableError:
                continue
            for index, value in chain([("value", estimate.value)], enumerate(estimate.leave_one_out or ())):
                if value is not None:
                    found[claim.metric, f"{claim.id}[{case.key}]", index] = value
    return found


def main() -> None:
    """Measure and store."""
    noise: dict[str, dict[str, float]] = defaultdict(dict)
    specs = [spec for spec in embedded_specs() if spec.model in MEASURED_ON]
    # 16-bit arithmetic is slow on a CPU and its noise large: one subject shows it.
    steps = [(dtype, spec) for dtype in DTYPES for spec in (specs if dtype == "float32" else specs[-1:])]
    for dtype, spec in tqdm(steps, desc="numerical noise"):
        spec = SubjectSpec(spec.model, dtype=dtype)
        plain = values(spec, *PLAIN)
        for settings in VARIED:
            for (metric, case, index), value in values(spec, *settings).items():
                difference = abs(value - plain[metric, case, index])
                noise[metric][dtype] = max(noise[metric].get(dtype, 0.0), difference)
    plain = of_weights(1)
    for (metric, case, index), value in of_weights(2).items():
        difference = abs(value - plain[metric, case, index])
        noise[metric]["float32"] = max(noise[metric].get("float32", 0.0), difference)
    noise["correlation"] = dict(noise["cosine"])  # a panel's correlation is made of cosines
    text = json.dumps(
        {
            "schema_version": 1,
            "how": "largest difference over batch sizes 1 and 64, left padding, one and two threads; embedded models, CPU",
            "subjects": [spec.model for spec in specs],
            "largest_difference": {metric: dict(by_dtype) for metric, by_dtype in sorted(noise.items())},
            "environment": environment()["packages"],
        },
        indent=1,
    )
    write_atomically(data_root() / "baselines" / "numerical_noise.json", text + "\n")
    print(text)


if __name__ == "__main__":
    main()
