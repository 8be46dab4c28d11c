"""One plan, run by pytest, by pytest-xdist, by the command line and from Python: the same measurements, tables and codes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from conftest import SMALL, Bench, Shell
from models import tiny_model

import geometry_bench as gb
from geometry_bench.records.measurement import Measurement
from geometry_bench.run import execute
from geometry_bench.subjects import load
from geometry_bench.subjects.spec import SubjectSpec

CLAIMS = ("compassion.tightest_pair", "safety.compassion_alignment", "safety.baseline_sign", "panel.alignment_method")
SPY = """
import os
from geometry_bench.records.files import ResultsFile
from geometry_bench.subjects import load

def told(what, real):
    def spy(*arguments):
        with open({log!r}, "a") as log:
            log.write(what + " by " + os.environ.get("PYTEST_XDIST_WORKER", "controller")[:2] + "\\n")
        return real(*arguments)
    return spy

ResultsFile.write = told("written", ResultsFile.write)
load.load = told("loaded", load.load)
"""


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model("llama", tmp_path_factory.mktemp("second"), name="two", seed=3, **SMALL)


def content(measurements: Iterable[Measurement]) -> dict[tuple[str, str], str]:
    found = list(measurements)
    by_place = {(one.key, one.subject.id): one.model_dump_json(exclude={"environment"}) for one in found}
    assert len(by_place) == len(found)
    return by_place


def table(text: str) -> str:
    return text[text.index("tiny (sha256:") : text.index("value ± standard error")]


def test_who_runs_a_plan_changes_nothing(
    bench: Bench,
    shell: Shell,
    pytester: pytest.Pytester,
    tiny: Path,
    two: Path,
    pack: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under xdist each model is loaded once, and the controller alone writes and computes the panel."""
    log = tmp_path / "log"
    (pytester.path / "spy.py").write_text(SPY.format(log=str(log)))
    monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=":")
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # this test may itself run in a worker
    methods = {tiny: "DPO", two: "SFT"}
    common = ["--activation-cache=off", "--baselines", tmp_path / "base"]
    common += [f"--alignment={model}={method}" for model, method in methods.items()]

    chosen = ("-k", " or ".join(CLAIMS), *common)
    alone = bench(*chosen, "--results", tmp_path / "alone", models=(tiny, two))
    shared = bench(
        *(*chosen, "--results", tmp_path / "shared", "-n", "2", "-p", "spy"), models=(tiny, two), subprocess=True
    )
    claims = (f"--claim={claim}" for claim in CLAIMS)
    models = (f"--model={model}" for model in methods)
    code, out, _ = shell("run", *claims, *models, "--prompts", pack, "--results", tmp_path / "run", *common)
    specs = [SubjectSpec(str(model), alignment=method) for model, method in methods.items()]
    results = gb.measure(*specs, claims=CLAIMS, prompts=pack, baselines=tmp_path / "base", cache=False)

    expected = content(results.measurements)
    assert len(expected) == 2 * 3 + 3
    for folder in ("alone", "shared", "run"):
        assert content(gb.load(tmp_path / folder).measurements) == expected
    gap = results["panel.alignment_method[group_gap]"].measurement
    assert gap.missing is not None
    assert "1 subjects aligned by supervision alone and 1 trained on preferences" in gap.missing.sentence
    assert alone.ret == shared.ret == code in (0, 1)
    assert table(alone.stdout.str()) == table(shared.stdout.str()) == table(out) == table(results.table())
    assert [run.stdout.str().count("geometry-bench: baselines ") for run in (alone, shared)] == [1, 1]  # the header
    told = log.read_text().splitlines()
    assert sorted(told) == [*["loaded by gw"] * 2, *["written by co"] * 9]


def test_ctrl_c_keeps_what_was_measured(
    shell: Shell, tiny: Path, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ("run", "--claim=compassion.*", f"--model={tiny}", f"--prompts={pack}", "--baselines", tmp_path / "base")
    measure, asked = execute.Session.measure, []

    def interrupted(session: execute.Session, task: execute.Task) -> Measurement:
        asked.append(task)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return measure(session, task)

    with monkeypatch.context() as patched:
        patched.setattr(execute.Session, "measure", interrupted)
        code, out, err = shell(*run, "--results", tmp_path / "results", "--baseline-update=new")
        assert code == 130
        assert err.splitlines()[-1] == "geometry-bench: interrupted after 2 of 12 cases; go on with --resume."
        assert out.count("compassion.cross_tradition_cosine[") >= 2
        asked.clear()
        assert shell(*run)[2].splitlines()[-1].endswith("of 12 cases; --results DIR would have kept them.")
    assert len(gb.load(tmp_path / "results")) == 2
    assert not (tmp_path / "base").exists()  # of a run that was cut short no baseline is stored
    assert shell(*run, "--results", tmp_path / "results", "--resume")[0] in (0, 1)
    assert len(gb.load(tmp_path / "results")) == 12
    assert len((tmp_path / "results" / "records.jsonl").read_text().splitlines()) == 12


def test_a_group_is_measured_anew_when_its_members_are_declared_aligned_otherwise(
    shell: Shell, tiny: Path, two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A regime is one of alignment methods: how the members are grouped decides what is measured, unlike a sign."""
    loaded, real = [], load.load
    monkeypatch.setattr(load, "load", lambda *arguments: loaded.append(arguments) or real(*arguments))
    run = ("run", "--claim=universal.reference_cosine", f"--model={tiny}", f"--model={two}", f"--reference={tiny}")

    def loads(*methods: str) -> int:
        loaded.clear()
        alignments = [f"--alignment={model}={method}" for model, method in zip((tiny, two), methods, strict=True)]
        code, _, err = shell(*run, "--requests=8", *alignments, "--results", tmp_path / "results", "--resume")
        assert code in (0, 1), err
        return len(loaded)

    assert [loads("SFT", "DPO"), loads("SFT", "RLHF"), loads("SFT", "SFT"), loads("SFT", "DPO")] == [2, 0, 2, 0]


def test_exit_codes_of_run_and_compare(
    shell: Shell, tiny: Path, two: Path, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geometry_bench.judging.noise_floor", lambda metric, dtype: 1e-5)
    own = (f"--prompts={pack}", "--baselines", tmp_path / "base")

    def run(model: Path, *more: object, claim: str = "compassion.cross_tradition_cosine") -> tuple[int, str]:
        code, _, err = shell("run", f"--claim={claim}", f"--model={model}", *own, *more)
        return code, err

    assert run(tiny, "--baseline-update=new", "--results", tmp_path / "tiny") == run(tiny) == (0, "")
    assert run(two, "--against=tiny", "--results", tmp_path / "two")[0] == 1
    assert run(two, "--against=tiny", "--dtype=bfloat16")[0] == 2  # nothing could be compared
    assert run(tmp_path)[0] == 2
    no_panel = "geometry-bench: nothing was measured: it needs several models: name some with --model or --family\n"
    assert run(tiny, claim="panel.alignment_method") == (2, no_panel)

    assert run(tiny, "--results", tmp_path / "other", claim="safety.dimensionality")[0] in (0, 1)
    for new, old, code in (("tiny", "tiny", 0), ("two", "tiny", 1), ("other", "tiny", 2), ("nowhere", "tiny", 2)):
        assert shell("compare", tmp_path / new, tmp_path / old)[0] == code
