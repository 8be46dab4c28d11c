"""Every command of the page on guarding a fine-tune, run as printed, in order; and the Action's script."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import Shell

from geometry_bench.resources import data_root

ROOT = data_root()
PAGE = ROOT / "docs" / "guard-a-fine-tune.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def commands() -> list[tuple[list[str], int]]:
    """The commands of the page with the exit codes that they are said to have."""
    fences = [text for language, text in FENCE.findall(PAGE.read_text(encoding="utf-8")) if not language]
    lines = [line for text in fences for line in text.splitlines()]
    found = []
    for line in lines:
        command, _, said = line.partition("#")
        program, *words = shlex.split(command)
        assert program == "geometry-bench", line
        found.append((words, int(said.split()[-1]) if "exit" in said else 0))
    return found


def test_the_page_runs_as_printed(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed = commands()
    assert len(printed) >= 6
    for words, code in printed:
        found, out, err = shell(*words)
        assert found == code, f"{words}\n{out}\n{err}"
    assert (tmp_path / "comparison.md").read_text().startswith("**MOVED: ")
    assert "A ruler" in (tmp_path / "comparison.md").read_text()
    assert list((tmp_path / "guarded").glob("zoo__llama-d80__aligned/*/float32-sdpa.safetensors"))


@pytest.mark.skipif(os.name == "nt", reason="the Action's script is for bash")
def test_the_actions_script_stops_a_harmful_fine_tune_and_passes_a_copy(shell: Shell, tmp_path: Path) -> None:
    zoo = ROOT / "fixtures" / "zoo" / "llama-d80"
    stored = ("--claim", "gate.refusal", "--baselines", tmp_path / "guarded", "--baseline-update=new")
    assert shell("run", "--model", "zoo/llama-d80/aligned", *stored)[0] == 0
    copy = shutil.copytree(zoo / "aligned", tmp_path / "copy")
    summary = tmp_path / "summary.md"
    for model, code, answer in ((zoo / "aligned-harmful", 1, "**MOVED: "), (copy, 0, "**SAME: ")):
        summary.unlink(missing_ok=True)
        done = subprocess.run(
            ["bash", str(ROOT / ".github" / "guard.sh")],
            cwd=tmp_path,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "GUARD_MODEL": str(model),
                "GUARD_PARENT": "zoo/llama-d80/aligned",
                "GUARD_BASELINES": "guarded",
                "GUARD_CLAIM": "gate.refusal",
                "GITHUB_STEP_SUMMARY": str(summary),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert summary.read_text().startswith(answer)
        suite = ElementTree.parse(tmp_path / "geometry-bench.xml").getroot()[0]
        assert (suite.get("tests"), suite.get("failures")) == ("1", str(code))
    assert "MODEL" in (ROOT / "action.yml").read_text()
