"""Measures numerical noise and stores it in ``baselines/numerical_noise.json``.

    python benchmarks/performance/measure_noise.py                       # all metrics
    python benchmarks/performance/measure_noise.py --metric log_odds     # one, beside what is stored of the others

Every claim but a panel's is measured on some embedded models, a group of two of them, and a family's weights, under other
batch sizes, padding sides and thread counts, in each dtype; the largest difference from the plain run, by metric, is the
noise. Nothing else changes: it is all arithmetic.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from geometry_bench.claims.model import Claim
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.labs.model import CaptureSettings
from geometry_bench.prompts.pack import LENT, Pack
from geometry_bench.records.environment import environment
from geometry_bench.resources import data_root
from geometry_bench.run.execute import Failure, Session, execute
from geometry_bench.run.plan import plan
from geometry_bench.run.request import Request, Settings
from geometry_bench.storage import write_atomically
from geometry_bench.subjects.families import embedded_specs, load_family
from geometry_bench.subjects.groups import Group
from geometry_bench.subjects.spec import SubjectSpec

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
    few = {name: dict(list(getattr(pack, name).items())[:8]) for name in LENT}
    return replace(pack, **few)


Values = Mapping[tuple[str, str, str], float]
"""By metric, case and what was left out."""


def values(request: Request, capture: CaptureSettings, threads: int) -> Values:
    """Corrected values and leave-one-out values of every case, under one setting."""
    laid_out = plan(replace(request, settings=Settings(capture=capture, cache=False)))
    all_prompts = laid_out.prompts
    own = {named: replace(one, pack=few_controls(one.pack)) for named, one in all_prompts.own.items()}
    prompts = replace(all_prompts, pack=few_controls(all_prompts.pack), own=own)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # so that the run leaves the number of threads as it is here
    torch.set_num_threads(threads)
    found: dict[tuple[str, str, str], float] = {}
    with threadpool_limits(threads):
        for one in execute(Session(replace(laid_out, prompts=prompts))):
            if isinstance(one, Failure):
                raise one.error
            estimate = one.estimates.get("corrected")
            if estimate is None:
                continue
            units = zip(estimate.units.ids or (), estimate.units.values, strict=True) if estimate.units else ()
            for name, value in [("", estimate.value), *units]:
                if value is not None:
                    found[CLAIMS[one.claim].metric, f"{one.key}@{one.subject.id}", name] = value
    return found


def about(spec: SubjectSpec, claims: Mapping[str, Claim]) -> Request:
    """A model, and a group of it and its partner."""
    members = {model: replace(spec, model=model) for model in (spec.model, PARTNER)}
    chosen = {id: claim for id, claim in claims.items() if claim.scope in ("model", "group")}
    return Request((spec,), groups=(Group("group/noise", spec.model, members),), claims=chosen)


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metric", help="measure this one alone")
    only = parser.parse_args().metric
    claims = {id: claim for id, claim in CLAIMS.items() if claim.asked_by is None and only in (None, claim.metric)}
    file = data_root() / "baselines" / "numerical_noise.json"
    stored = json.loads(file.read_text(encoding="utf-8"))["largest_difference"] if only is not None else {}
    noise: dict[str, dict[str, float]] = defaultdict(dict, {name: one for name, one in stored.items() if name != only})
    specs = [spec for spec in embedded_specs() if spec.model in MEASURED_ON]
    # 16-bit arithmetic is slow on a CPU and its noise large: one subject shows it.
    steps = [(dtype, spec) for dtype in DTYPES for spec in (specs if dtype == "float32" else specs[-1:])]
    requests = [(dtype, about(SubjectSpec(spec.model, dtype=dtype), claims)) for dtype, spec in steps]
    weights = {id: claim for id, claim in claims.items() if claim.scope == "family"}
    if weights:
        requests.append(("float32", Request(families=(load_family(Path("zoo/llama-d80")),), claims=weights)))
    for dtype, request in tqdm(requests, desc="numerical noise"):
        plain = values(request, *PLAIN)
        for varied in VARIED if request.specs else [(PLAIN[0], 2)]:  # weights know of threads alone
            for place, value in values(request, *varied).items():
                known = noise[place[0]]
                known[dtype] = max(known.get(dtype, 0.0), abs(value - plain[place]))
    noise["correlation"] = dict(noise["cosine"])  # a panel's correlation is made of cosines
    text = json.dumps(
        {
            "schema_version": 1,
            "how": "largest difference over batch sizes 1 and 64, left padding, one and two threads; embedded models, CPU",
            "subjects": [spec.model for spec in specs],
            "largest_difference": {metric: dict(by_dtype) for metric, by_dtype in sorted(noise.items())},
            "environment": environment(0.0).packages,
        },
        indent=1,
    )
    write_atomically(file, text + "\n")
    print(text)


if __name__ == "__main__":
    main()
