"""The pytest plugin, run on tiny random models."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import SMALL, Bench, read_lines

from geometry_bench import judging
from geometry_bench.api import load
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.records.judgement import Answer, ClaimVerdict, Reason
from geometry_bench.report import outcomes
from geometry_bench.resources import data_root

COSINES = "cross_tradition_cosine"
TWO_CLAIMS = "test_tightest_pair or test_secular_divergence"


@pytest.fixture(autouse=True)
def _noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A numerical noise of these tests' own: what is measured of it in the repository may change."""
    monkeypatch.setattr(judging, "noise_floor", lambda metric, dtype: 1e-5)


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


# Collection


def test_tests_and_benchmarks_can_be_collected_together() -> None:
    names = [path.name for folder in ("tests", "benchmarks") for path in (data_root() / folder).glob("**/test_*.py")]
    assert len(names) == len(set(names))  # pytest imports these by their base names


def test_ids_are_stable_and_say_case_and_subject(bench: Bench, tiny: Path) -> None:
    found = ids(bench("--collect-only", "-q", "-k", f"{COSINES} or tightest_pair", models=(tiny,)))
    traditions = ("chenrezig", "tara", "agape", "rahma")
    expected = [f"{a}-{b}" for i, a in enumerate(traditions) for b in traditions[i + 1 :]]
    assert found == [*(f"test_cross_tradition_cosine[{pair}@tiny]" for pair in expected), "test_tightest_pair[tiny]"]


def test_cases_are_grouped_by_subject_and_panels_come_last(bench: Bench, tiny: Path, edited: Path) -> None:
    found = ids(bench("--collect-only", "-q", models=(tiny, edited)))
    subjects = [re.split(r"@|\[", one)[-1].rstrip("]") for one in found]
    order = ["tiny", "edited", "panel", "no pair", "no trajectory"]
    assert list(dict.fromkeys(subjects)) == order
    assert subjects == sorted(subjects, key=order.index)
    assert subjects.count("tiny") == subjects.count("edited") > 20


def test_what_has_no_subject_is_skipped_with_what_would_supply_one(bench: Bench, tiny: Path, tmp_path: Path) -> None:
    """Beside a model: no panel of one, no group, no family, no audit; nothing is recorded and no table is shown."""
    of_models = "not generation_drift and not universal.intervention"
    chosen = f"(panel or universal or weights or audit or finetune or behavior.validation) and {of_models}"
    found = bench("-k", chosen, "--results", tmp_path / "results", "-rs", models=(tiny,), files="")
    without = [claim for claim in CLAIMS.values() if claim.scope != "model"]
    found.assert_outcomes(skipped=len(without))
    assert found.ret == 0
    assert {claim.scope for claim in without} == {"group", "family", "panel", "publication", "pair", "trajectory"}
    for words in (
        "it needs several models: name some with --model or --family",
        "it needs a group of models: give --group FILE, or several --model and --reference MODEL",
        "it needs a family of checkpoints: give --family FILE, or --weights FILE for its weights alone",
        "it is about a publication alone: see `geometry-bench audit`",
        "it needs a model and its parent: name the parent's baseline with --against, or give a --family",
        "it needs the checkpoints of a training run: name them with --checkpoints",
    ):
        assert words in found.stdout.str()
    assert "geometric claims =" not in found.stdout.str()
    assert not (tmp_path / "results").exists()


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
        heavy += ("scipy",)
    code = COLLECT.format(arguments=", ".join(map(repr, arguments)), heavy=heavy)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("geometry-bench:" in done.stdout) == what.startswith("collecting")


# A run


def test_header_summary_junit_and_records(bench: Bench, tiny: Path, tmp_path: Path) -> None:
    results, junit = tmp_path / "results", tmp_path / "junit.xml"
    found = bench(
        *("-k", TWO_CLAIMS, "--results", results, f"--junitxml={junit}"),
        *("-p", "no:benchmark", "--baselines", tmp_path / "base", "--alignment", f"{tiny}=DPO"),
        models=(tiny,),
    )
    secular, tightest = measured = load(results).measurements
    assert [one.key for one in measured] == ["compassion.secular_divergence", "compassion.tightest_pair"]
    shown = f"{tightest.estimate.value:+.3f} ± {tightest.estimate.error:.3f}"  # type: ignore[union-attr]
    found.stdout.re_match_lines(
        [
            r"geometry-bench: tiny at sha256:\w{12}, 2 blocks × 16, dtype auto, device auto, alignment DPO",
            r"geometry-bench: prompts small \w{12}, controls pack",
            r"geometry-bench: baselines .*base; results .*results/records.jsonl",
            r".* geometric claims .*",
            r"at a glance: 2 cases on 1 subject",
            r"  MOVED +– nothing was compared with a baseline",
            r"tiny \(sha256:\w{12}, 2 blocks × 16, float32, cpu, sdpa\)",
            r"claim +value +null +baseline +verdict",
            rf"compassion.tightest_pair +{re.escape(shown)}.*",
            r"warning: NO_BASELINE: compassion.secular_divergence on tiny: no baseline is stored for this revision.*",
            r"records: .*records.jsonl",
        ]
    )
    cases = {case.get("name"): case for case in ElementTree.parse(junit).iter("testcase")}
    properties = {p.get("name"): p.get("value") for p in cases["test_tightest_pair[tiny]"].iter("property")}
    assert (properties["claim"], properties["subject"]) == (tightest.key, "tiny")
    assert properties["revision"] == secular.subject.revision
    assert (properties["value"] or "").startswith(shown)
    assert properties["null"]
    assert {properties["verdict_published"], properties["verdict_baseline"]} == {"NO_FIGURE", "NO_BASELINE"}


def test_a_resumed_run_measures_nothing_again_and_judges_anew(
    bench: Bench, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is not loaded; the method that is declared now decides which sign is expected."""
    results = tmp_path / "results"
    options = ("--results", results, "--baselines", tmp_path / "base", "--activation-cache=off")
    signs = ("-k", f"{COSINES} or baseline_sign")

    def lines() -> list[str]:
        return (results / "records.jsonl").read_text().splitlines()

    first = bench(*options, *signs, models=(tiny,))
    before = lines()
    assert load(results)["safety.baseline_sign"].judgement.claim.reason is Reason.ALIGNMENT_UNKNOWN
    with monkeypatch.context() as patched:
        patched.setattr("geometry_bench.subjects.load.load", lambda *_: pytest.fail("a model is loaded"))
        again = bench(*options, *signs, "--resume", models=(tiny,))
        assert (again.parseoutcomes(), lines()) == (first.parseoutcomes(), before)
        bench(*options, *signs, "--resume", f"--alignment={tiny}=SFT", models=(tiny,))
    signed = load(results)["safety.baseline_sign"]
    assert signed.judgement.claim.reason is not Reason.ALIGNMENT_UNKNOWN
    assert signed.measurement.subject.alignment == "SFT"
    declared = lines()
    assert declared[:7] == before
    bench(*options, "-k", f"{COSINES} or tightest_pair", "--resume", f"--alignment={tiny}=SFT", models=(tiny,))
    assert [json.loads(line)["claim"] for line in lines()[len(declared) :]] == ["compassion.tightest_pair"]


# Baselines and exit codes


def stored(folder: Path) -> Path:
    (path,) = folder.glob("*/*/*.json")
    return path


def test_the_life_of_a_baseline(bench: Bench, tiny: Path, edited: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    options = ("-k", COSINES, "--baselines", base)

    absent = bench(*options, models=(tiny,))
    absent.stdout.fnmatch_lines(["warning: NO_BASELINE: *chenrezig-tara* on tiny: no baseline is stored*"])
    assert absent.ret == 0
    assert not base.exists()  # no run writes a baseline unasked

    bench(*options, "--baseline-update=new", models=(tiny,)).stdout.fnmatch_lines([f"baseline written: {base}/tiny/*"])
    before = stored(base).read_text()
    assert len(json.loads(before)["cases"]) == 6

    same = bench(*options, "--baseline-update=new", models=(tiny,))
    assert same.ret == 0
    same.stdout.fnmatch_lines(["*MOVED * 0 of 6 compared with baselines", "no baseline file needed a change"])
    assert "warning: NO_BASELINE" not in same.stdout.str()

    moved = bench(*options, "--against", "tiny", models=(edited,))
    assert moved.ret == 1
    assert 0 < moved.parseoutcomes()["failed"] <= moved.stdout.str().count(" MOVED ")  # the last adds Holm's steps
    number = r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?"
    moved.stdout.re_match_lines(
        [
            rf"MOVED: .* on edited from its baseline: {number} -> {number}, difference {number} ± {number}, smallest "
            rf"change of interest {number}, p = {number} \(of 6 compared; family-wise 0.01\): more than that"
        ]
    )
    incomparable = bench(*options, "--against", "tiny", "--dtype=bfloat16", models=(edited,))
    assert incomparable.ret == 2  # a comparison was asked for, and none was possible
    assert "INCOMPARABLE: compassion.cross_tradition_cosine[chenrezig-tara] on edited: dtype is bfloat16 here" in (
        incomparable.stdout.str()
    )
    assert stored(base).read_text() == before


STOPPER = """
def pytest_runtest_logreport(report):
    if report.when == "call" and "chenrezig-agape" in report.nodeid:
        raise KeyboardInterrupt
"""


@pytest.mark.parametrize("how", ["interrupted", "-x"])
def test_a_run_that_is_cut_short_stores_no_baseline_and_says_so(
    bench: Bench, tiny: Path, tmp_path: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    options = ("-k", COSINES, "--baselines", tmp_path / "base", "--baseline-update=new")
    if how == "-x":
        planted = Answer(ClaimVerdict.FAILS, Reason.CHECKED, {"sentence": "as planted"})
        monkeypatch.setattr(judging, "judge_claim", lambda *_: planted)
        monkeypatch.setattr(outcomes, "outcome_of", lambda *_: outcomes.Outcome("failed", "as planted"))
        monkeypatch.setattr("geometry_bench.run.bench.outcome_of", outcomes.outcome_of)
        extra: tuple[object, ...] = ("-x",)
    else:
        pytester.makepyfile(stopper=STOPPER)
        extra = ("-p", "stopper")
    cut = bench(*options, *extra, models=(tiny,), subprocess=how == "interrupted")
    assert cut.ret == (1 if how == "-x" else 2)
    cut.stdout.fnmatch_lines(["warning: no baseline was written, since the run was cut short: *"])
    assert "no baseline file needed" not in cut.stdout.str()
    assert not (tmp_path / "base").exists()


def test_verdicts_are_in_colour_where_pytest_has_it(bench: Bench, tiny: Path) -> None:
    for option, coloured in (("--color=yes", True), ("--color=no", False)):
        lines = bench(option, "-k", "test_tightest_pair", models=(tiny,)).outlines
        (head,) = (line for line in lines if "at a glance" in line)
        assert head == (
            "\x1b[1mat a glance: 1 case on 1 subject\x1b[0m" if coloured else "at a glance: 1 case on 1 subject"
        )


def test_reasons_of_skipped_cases_name_the_claim(bench: Bench, tiny: Path) -> None:
    found = bench("-rs", "-k", "capping or frozen", models=(tiny,)).stdout.str()
    reasons = [line for line in found.splitlines() if line.startswith("SKIPPED")]
    assert "test_safety_compassion.py: capping.refusal: it takes long" in found
    assert reasons
    assert not [line for line in reasons if "plugin" in line]


def test_known_and_unknown_failures(bench: Bench, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("-k", "test_tightest_pair", "--baselines", tmp_path / "base", "-rx")
    planted = Answer(ClaimVerdict.FAILS, Reason.CHECKED, {"sentence": "as planted"})
    monkeypatch.setattr(judging, "judge_claim", lambda *_: planted)
    unknown = bench(*options, models=(tiny,))
    assert (unknown.ret, unknown.parseoutcomes()["failed"]) == (1, 1)
    unknown.stdout.fnmatch_lines(["the claim does not hold: compassion.tightest_pair on tiny: as planted"])
    bench(*options, "--baseline-update=new", "--update-reason", "a known weakness", models=(tiny,))
    known = bench(*options, models=(tiny,))
    assert (known.ret, known.parseoutcomes()["xfailed"]) == (0, 1)
    known.stdout.fnmatch_lines(["*FAILS here: as planted (baseline FAILS: a known weakness)*"])


def test_a_model_without_template_is_measured_and_says_so(bench: Bench, tmp_path: Path) -> None:
    from models import tiny_model

    plain = tiny_model("llama", tmp_path, name="plain", chat_template=None, **SMALL)
    bench("-k", "tightest_pair", "--results", tmp_path / "results", models=(plain,))
    (record,) = read_lines(tmp_path / "results")
    assert record["inputs"]["template"] == "plain-1"
