"""The pytest plugin, run on tiny random models."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import SMALL, Bench, read_lines

from geometry_bench.labs import model as lab
from geometry_bench.plugin import subject_of
from geometry_bench.records.schema import ClaimVerdict

COSINES = "cross_tradition_cosine"
TWO_CLAIMS = "test_tightest_pair or test_secular_divergence"


@pytest.fixture(autouse=True)
def _noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A numerical noise of these tests' own: what is measured of it in the repository may change."""
    monkeypatch.setattr("geometry_bench.run.run.noise_floor", lambda metric, dtype: 1e-5)


@pytest.fixture(scope="session")
def edited(tiny: Path) -> Path:
    """``tiny`` with one matrix of its last block replaced by a random one five times as large."""
    from safetensors.numpy import load_file, save_file

    folder = tiny.with_name("edited")
    shutil.copytree(tiny, folder)
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    shape = weights[name].shape
    weights[name] = (5 * np.random.default_rng(0).normal(size=shape)).astype(weights[name].dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def ids(result: pytest.RunResult) -> list[str]:
    return [line.rsplit("::", 1)[1] for line in result.outlines if "::test_" in line and "[" in line]


# --- collection ------------------------------------------------------------------------------------------------------


def test_ids_are_stable_and_say_case_and_subject(bench: Bench, tiny: Path) -> None:
    found = ids(bench("--collect-only", "-q", "-k", COSINES, models=(tiny,)))
    traditions = ("chenrezig", "tara", "agape", "rahma")
    expected = [f"{a}-{b}" for i, a in enumerate(traditions) for b in traditions[i + 1 :]]
    assert found == [f"test_cross_tradition_cosine[{pair}@tiny]" for pair in expected]
    assert ids(bench("--collect-only", "-q", "-k", "tightest_pair", models=(tiny,))) == ["test_tightest_pair[tiny]"]


@pytest.mark.parametrize(
    ("nodeid", "subject"),
    [
        ("f.py::test_x[a-b@org/name]", "org/name"),
        ("f.py::test_x[org/name]", "org/name"),
        ("f.py::test_other", "f.py::test_other"),
    ],
)
def test_the_subject_of_an_id(nodeid: str, subject: str) -> None:
    assert subject_of(nodeid) == subject


def test_cases_are_grouped_by_subject_and_panels_come_last(bench: Bench, tiny: Path, edited: Path) -> None:
    found = ids(bench("--collect-only", "-q", models=(tiny, edited)))
    subjects = [re.split(r"@|\[", one)[-1].rstrip("]") for one in found]
    assert list(dict.fromkeys(subjects)) == ["tiny", "edited", "panel"]
    assert subjects == sorted(subjects, key=["tiny", "edited", "panel"].index)
    assert subjects.count("tiny") == subjects.count("edited") > 20


COLLECT = """
import os, sys
import pytest
code = pytest.main([{arguments}])
heavy = [name for name in {heavy} if name in sys.modules]
assert not heavy, heavy
sys.exit(code)
"""


@pytest.mark.parametrize("what", ["collecting the benchmarks", "tests of something else"])
def test_neither_torch_nor_transformers_is_imported_before_a_case_is_measured(
    what: str, tiny: Path, tmp_path: Path
) -> None:
    from geometry_bench.resources import data_root

    (tmp_path / "test_other.py").write_text("def test_one_and_one():\n    assert 1 + 1 == 2\n")
    benchmarks = [
        "--collect-only",
        "-q",
        f"--model={tiny}",
        str(data_root() / "benchmarks" / "test_safety_compassion.py"),
    ]
    arguments = benchmarks if what.startswith("collecting") else ["-q", str(tmp_path / "test_other.py")]
    arguments += ["-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    heavy = ("torch", "transformers", "tokenizers")
    if not what.startswith("collecting"):  # every pytest run of an environment pays for what the plugin imports
        heavy += ("numpy", "scipy", "pydantic")
    code = COLLECT.format(arguments=", ".join(map(repr, arguments)), heavy=heavy)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("geometry-bench:" in done.stdout) == what.startswith("collecting")


# --- a run -----------------------------------------------------------------------------------------------------------


def test_header_summary_junit_and_records(bench: Bench, tiny: Path, tmp_path: Path) -> None:
    results, junit = tmp_path / "results", tmp_path / "junit.xml"
    found = bench(
        *("-k", TWO_CLAIMS, "--results", results, f"--junitxml={junit}"),
        *("-p", "no:benchmark", "--baselines", tmp_path / "base", "--alignment", f"{tiny}=DPO"),
        models=(tiny,),
    )
    assert found.ret in (0, 1)
    records = read_lines(results)
    assert [r["claim"] for r in records] == ["compassion.secular_divergence", "compassion.tightest_pair"]
    found.stdout.re_match_lines(
        [
            r"geometry-bench: tiny at sha256:\w{12}, 2 blocks × 16, dtype auto, device auto, alignment DPO",
            r"geometry-bench: prompts small \w{12}, controls pack",
            r"geometry-bench: baselines .*base; results .*results/records.jsonl",
            r".* geometric claims .*",
            r"tiny \(sha256:\w{12}, 2 blocks × 16, float32, cpu, sdpa\)",
            r"claim +value +null +published +baseline +verdict",
            rf"compassion.tightest_pair +{re.escape(value(records[1]))}.*NO_BASELINE.*",
            r"warning: NO_BASELINE: compassion.secular_divergence on tiny: no baseline is stored for this revision.*",
            r"records: .*records.jsonl",
        ]
    )
    cases = {case.get("name"): case for case in ElementTree.parse(junit).iter("testcase")}
    properties = {p.get("name"): p.get("value") for p in cases["test_tightest_pair[tiny]"].iter("property")}
    assert properties == {
        "claim": "compassion.tightest_pair",
        "subject": "tiny",
        "revision": records[1]["subject"]["revision"],
        "value": properties["value"],
        "null": properties["null"],
        "verdict": records[1]["verdicts"]["claim"],
        "verdict_published": "NO_FIGURE",
        "verdict_baseline": "NO_BASELINE",
    }
    assert properties["value"] is not None
    assert properties["value"].startswith(value(records[1]))
    assert properties["null"]


def value(record: dict[str, Any]) -> str:
    estimate = record["estimates"]["corrected"]
    return f"{estimate['value']:+.3f} ± {estimate['error']:.3f}"


SPY = """
import os
from geometry_bench.records import files
real = files.ResultsFile.append
def append(self, record):
    with open({log!r}, "a") as log:
        log.write(os.environ.get("PYTEST_XDIST_WORKER", "controller") + "\\n")
    real(self, record)
files.ResultsFile.append = append
"""


def test_workers_measure_and_the_controller_alone_writes(
    bench: Bench, pytester: pytest.Pytester, tiny: Path, edited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "writers"
    (pytester.path / "spy_on_writes.py").write_text(SPY.format(log=str(log)))
    monkeypatch.setenv("PYTHONPATH", str(pytester.path))
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # this test may itself run in a worker
    options = ("-k", TWO_CLAIMS, "--baselines", tmp_path / "base")
    bench(*options, "--results", tmp_path / "alone", models=(tiny, edited))
    shared = bench(
        *(*options, "--results", tmp_path / "shared", "-n", "2", "-p", "spy_on_writes", "--activation-cache=off"),
        models=(tiny, edited),
        subprocess=True,
    )
    assert shared.ret in (0, 1), shared.stdout.str()
    assert log.read_text().split() == ["controller"] * 4

    def measured(folder: Path) -> dict[tuple[str, str], Any]:
        lines = read_lines(folder)
        found = {
            (line["subject"]["id"], line["claim"]): {k: line[k] for k in ("estimates", "inputs")} for line in lines
        }
        assert len(found) == len(lines) == 4
        return found

    alone, together = measured(tmp_path / "alone"), measured(tmp_path / "shared")
    for key, one in alone.items():
        assert together[key]["inputs"] == one["inputs"]
        for variant, estimate in one["estimates"].items():
            other = together[key]["estimates"][variant]
            assert other["value"] == pytest.approx(estimate["value"], abs=1e-6)
            assert other["leave_one_out"] == pytest.approx(estimate["leave_one_out"], abs=1e-6)
            assert other["null"] == pytest.approx(estimate["null"], abs=1e-6)


def test_a_resumed_run_measures_nothing_again(
    bench: Bench, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    options = ("--results", results, "--baselines", tmp_path / "base", "--activation-cache=off")
    first = bench(*options, "-k", COSINES, models=(tiny,))
    before = (results / "records.jsonl").read_text()
    captured = lab.Lab._captured

    def refuse(*_: Any) -> None:
        raise AssertionError("a forward pass")

    monkeypatch.setattr("geometry_bench.labs.model.Lab._captured", refuse)
    monkeypatch.setattr("geometry_bench.subjects.load.load", refuse)
    again = bench(*options, "-k", COSINES, "--resume", models=(tiny,))
    assert again.parseoutcomes() == first.parseoutcomes()
    assert (results / "records.jsonl").read_text() == before
    monkeypatch.undo()
    monkeypatch.setattr("geometry_bench.labs.model.Lab._captured", captured)

    bench(*options, "-k", f"{COSINES} or tightest_pair", "--resume", models=(tiny,))
    after = (results / "records.jsonl").read_text()
    assert after.startswith(before)
    assert [json.loads(line)["claim"] for line in after[len(before) :].splitlines()] == ["compassion.tightest_pair"]


# --- baselines -------------------------------------------------------------------------------------------------------


def baseline_file(folder: Path) -> Path:
    (path,) = folder.glob("*/*/*.json")
    return path


def edit(path: Path, claim: str, **fields: Any) -> None:
    content = json.loads(path.read_text())
    for key, case in content["cases"].items():
        if key.startswith(claim):
            case.update(fields)
    path.write_text(json.dumps(content))


def verdicts(folder: Path) -> dict[str, str]:
    return {f"{r['claim']}[{r['case']}]": r["verdicts"]["baseline"] for r in read_lines(folder)}


def test_the_life_of_a_baseline(bench: Bench, tiny: Path, edited: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    options = ("-k", COSINES, "--baselines", base)

    absent = bench(*options, models=(tiny,))
    absent.stdout.fnmatch_lines(["warning: NO_BASELINE: *chenrezig-tara* on tiny: no baseline is stored*"])
    assert not base.exists()  # no run writes a baseline unasked

    bench(*options, "--baseline-update=new", models=(tiny,)).stdout.fnmatch_lines([f"baseline written: {base}/tiny/*"])
    stored = baseline_file(base).read_text()
    assert len(json.loads(stored)["cases"]) == 6

    same = bench(*options, "--results", tmp_path / "same", "--baseline-update=new", models=(tiny,))
    assert same.ret == 0
    assert set(verdicts(tmp_path / "same").values()) == {"MATCH"}
    same.stdout.fnmatch_lines(["no baseline file needed a change"])
    assert "warning: NO_BASELINE" not in same.stdout.str()
    assert baseline_file(base).read_text() == stored

    other = bench(*options, "--results", tmp_path / "other", models=(edited,))
    assert set(verdicts(tmp_path / "other").values()) == {"NO_BASELINE"}
    assert other.ret in (0, 1)

    moved = bench(*options, "--against", "tiny", "--results", tmp_path / "moved", models=(edited,))
    assert moved.ret == 1
    answers = verdicts(tmp_path / "moved")
    assert "REGRESSION" in answers.values()
    assert set(answers.values()) <= {"REGRESSION", "DRIFT", "MATCH"}
    assert moved.parseoutcomes()["failed"] >= list(answers.values()).count("REGRESSION")
    number = r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?"
    moved.stdout.re_match_lines(
        [
            rf"REGRESSION: .* on edited moved from its baseline: {number} -> {number}, difference {number} ± {number}, "
            rf"p = {number} \(bound 0.002\), smallest change of interest {number}: beyond both"
        ]
    )
    assert baseline_file(base).read_text() == stored


def test_replacing_and_dropping_need_a_reason(bench: Bench, tiny: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    options = ("-k", COSINES, "--baselines", base)
    for mode in ("changed", "trim", "new,changed"):
        refused = bench(*options, f"--baseline-update={mode}", models=(tiny,))
        assert refused.ret == pytest.ExitCode.USAGE_ERROR
        assert "needs a reason" in refused.stderr.str()
    unknown = bench(*options, "--baseline-update=all", models=(tiny,))
    assert unknown.ret == pytest.ExitCode.USAGE_ERROR
    assert "--baseline-update=all is not known" in unknown.stderr.str()
    assert not base.exists()

    bench(*options, "--baseline-update=new", models=(tiny,))
    content = json.loads(baseline_file(base).read_text())
    content["cases"]["compassion.gone[x]"] = next(iter(content["cases"].values()))
    content["cases"]["compassion.cross_tradition_cosine[tara-agape]"]["estimates"]["corrected"]["value"] = 0.123
    baseline_file(base).write_text(json.dumps(content))
    reason = ("--baseline-update=changed,trim", "--update-reason", "the weights were mended")
    bench("-k", f"{COSINES} and tara-agape", "--baselines", base, *reason, models=(tiny,))
    cases = json.loads(baseline_file(base).read_text())["cases"]
    assert len(cases) == 6
    reasons = {key: case["reason"] for key, case in cases.items()}
    assert reasons.pop("compassion.cross_tradition_cosine[tara-agape]") == "the weights were mended"
    assert set(reasons.values()) == {"first measurement"}


def test_known_failures_flips_and_unknown_failures(
    bench: Bench, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    options = ("-k", TWO_CLAIMS, "--baselines", base, "-rx")

    def judged(verdict: str) -> None:
        monkeypatch.setattr("geometry_bench.run.run.judge_claim", lambda *_: (ClaimVerdict(verdict), "as planted"))

    judged("FAILS")
    unknown = bench(*options, models=(tiny,))
    assert (unknown.ret, unknown.parseoutcomes()["failed"]) == (1, 2)
    unknown.stdout.fnmatch_lines(["the claim does not hold: compassion.secular_divergence on tiny: as planted"])

    bench(*options, "--baseline-update=new", "--update-reason", "a known weakness", models=(tiny,))
    known = bench(*options, models=(tiny,))
    assert (known.ret, known.parseoutcomes()["xfailed"]) == (0, 2)
    known.stdout.fnmatch_lines(["*FAILS here: as planted (baseline FAILS: a known weakness)*"])

    judged("HOLDS")
    flipped = bench(*options, models=(tiny,))
    assert (flipped.ret, flipped.parseoutcomes()["failed"]) == (1, 2)
    flipped.stdout.fnmatch_lines(["verdict flipped: * on tiny was FAILS in the baseline and now HOLDS: as planted"])

    edit(baseline_file(base), "compassion.tightest_pair", claim_version=0)
    stale = bench(*options, models=(tiny,))
    assert stale.parseoutcomes() == {"failed": 1, "passed": 1, "deselected": flipped.parseoutcomes()["deselected"]}
    stale.stdout.fnmatch_lines(["warning: STALE: compassion.tightest_pair on tiny: the claim is now version*"])


def test_another_dtype_is_incomparable(bench: Bench, tiny: Path, tmp_path: Path) -> None:
    options = ("-k", "test_secular_divergence", "--baselines", tmp_path / "base")
    bench(*options, "--baseline-update=new", models=(tiny,))
    found = bench(*options, "--dtype=bfloat16", "--results", tmp_path / "results", models=(tiny,))
    assert list(verdicts(tmp_path / "results").values()) == ["INCOMPARABLE"]
    found.stdout.fnmatch_lines(["warning: INCOMPARABLE: * dtype is bfloat16 here, float32 in the baseline"])


def test_a_model_without_template_or_system_role_is_measured_and_says_so(bench: Bench, tmp_path: Path) -> None:
    from models import tiny_model

    plain = tiny_model("llama", tmp_path, name="plain", chat_template=None, **SMALL)
    bench("-k", "tightest_pair", "--results", tmp_path / "results", models=(plain,))
    (record,) = read_lines(tmp_path / "results")
    assert record["inputs"]["template"] == "plain-1"
