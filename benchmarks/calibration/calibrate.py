"""Calibrate the gate: how often it raises a false alarm, and how large an edit it finds.

    python benchmarks/calibration/calibrate.py                   all runs, about twenty minutes on one core
    python benchmarks/calibration/calibrate.py --quick           a few runs on one parent
    python benchmarks/calibration/report.py                      docs/calibration.md and its plot, from outcomes.json

Every run is appended to ``OUT/outcomes.jsonl`` at once, so that an interrupted calibration goes on where it was; after a
change of the gate start with another folder. At the end all outcomes are written to ``OUT/outcomes.json``, with ``--store``
beside this script: the page is made from these.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import rivals  # noqa: E402
import runs  # noqa: E402
import training  # noqa: E402
import zoo  # noqa: E402

from geometry_bench import api  # noqa: E402
from geometry_bench.claims.gate.records import DISPLACEMENT  # noqa: E402
from geometry_bench.records.environment import environment  # noqa: E402
from geometry_bench.records.judgement import Judgement, Reason  # noqa: E402
from geometry_bench.report.outcomes import comparison_code  # noqa: E402
from geometry_bench.storage import write_atomically  # noqa: E402

OUTCOMES = "outcomes.json"
NUMBERS = ("delta", "error", "gain", "share")


def outcome(run: runs.Run, parent: zoo.Parent) -> dict[str, Any]:
    """What one run gives: the answer of each case, the other rules' alarms and, of an edit, what the child refuses."""
    child = runs.child(run, parent)
    with threadpool_limits(child.threads):
        os.environ["OMP_NUM_THREADS"] = str(child.threads)  # so that a measurement leaves the number as it is here
        torch.set_num_threads(child.threads)
        new = parent.measure(child.model, child.capture)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    old = child.against or parent.measured()
    judged = api.compare(new, old).judgements
    return {
        **vars(run),
        "code": comparison_code(judged),
        "cases": {
            one.measurement.key: _case(one) for one in judged if one.baseline.reason is not Reason.UNDEFINED_IN_BOTH
        },
        "rivals": rivals.alarms(new, old, judged),
        **({} if run.harmless else {"refuses": parent.refusals(child.model), "parent_refuses": parent.own_refusals}),
    }


def _case(judged: Judgement) -> dict[str, Any]:
    numbers = {name: judged.baseline.number(name) for name in NUMBERS}
    return {"verdict": str(judged.baseline.verdict)} | {
        name: round(number, 4) for name, number in numbers.items() if number is not None
    }


def calibrate(chosen: Iterable[runs.Run], parents: dict[str, zoo.Parent], file: Path) -> list[dict[str, Any]]:
    """Outcomes of all runs, those that the file holds already included."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    whole = text[: text.rfind("\n") + 1]  # a run that was killed may have left half a line
    file.write_text(whole, encoding="utf-8")
    known = {row["key"]: row for row in map(json.loads, whole.splitlines())}
    wanted = list(chosen)
    with file.open("a", encoding="utf-8") as out:
        for run in tqdm(wanted, desc="calibration", unit="run"):
            if run.key not in known:
                known[run.key] = row = {"key": run.key, **outcome(run, parents[run.parent])}
                out.write(json.dumps(row) + "\n")
                out.flush()
    return [known[run.key] for run in wanted]


def parents_of(out: Path, *, quick: bool) -> tuple[dict[str, zoo.Parent], dict[str, str]]:
    """The parents with their prompts, and the group of each."""
    if quick:
        return {runs.QUICK: zoo.Parent(runs.QUICK, zoo.committed(16), answered=8)}, {runs.QUICK: "held out"}
    found, groups = {}, {}
    for group, (seed, names) in zoo.GROUPS.items():
        prompts = zoo.drawn(seed, out / "prompts")
        found |= {name: zoo.Parent(name, prompts) for name in names}
        groups |= dict.fromkeys(names, group)
    return found, groups


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few runs on one parent")
    parser.add_argument("--out", type=Path, default=Path("results/calibration"), help="folder of the raw outcomes")
    parser.add_argument("--store", action="store_true", help="keep the outcomes beside this script, for the page")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    parents, groups = parents_of(options.out, quick=options.quick)
    chosen = runs.quick_runs() if options.quick else runs.all_runs()
    rows = calibrate(chosen, parents, options.out / "outcomes.jsonl")
    first = next(iter(parents.values()))
    stored = {
        "requests": first.prompts.count,
        "answered": first.answered,
        "groups": groups,
        "seeds": {group: seed for group, (seed, _) in zoo.GROUPS.items()},
        "margin": DISPLACEMENT,
        "training": {
            "batch": training.BATCH,
            "adapter": training.ADAPTED,
            "contaminated": training.CONTAMINATED,
        },
        "packages": environment(0.0).packages,
    }
    kept = [
        json.dumps({name: value for name, value in row.items() if name != "key"}, separators=(",", ":")) for row in rows
    ]
    text = json.dumps(stored)[:-1] + ', "runs": [\n' + ",\n".join(kept) + "\n]}\n"
    write_atomically((HERE if options.store else options.out) / OUTCOMES, text)


if __name__ == "__main__":
    main()
