"""The command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from geometry_bench import __version__
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.cli import app as cli
from geometry_bench.options import OPTIONS

COMMANDS = (
    [],
    ["run"],
    ["list"],
    ["show"],
    ["audit"],
    ["leaderboard"],
    ["baseline"],
    ["baseline", "list"],
    ["baseline", "show"],
    ["cache"],
    ["cache", "list"],
    ["cache", "clear"],
)


class Shell:
    """Calls the entry point as the installed script does, in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["geometry-bench", *map(str, arguments)])
        self.monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = self.capsys.readouterr()
        return int(end.value.code or 0), out, err


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


def test_list_names_every_claim(shell: Shell) -> None:
    code, out, _ = shell("list")
    assert code == 0
    for claim in CLAIMS.values():
        (row,) = (line.split() for line in out.splitlines() if line.startswith(claim.id + " "))
        if claim.per_member is None:
            assert row[1] == str(len(claim.cases))
        else:
            assert "n" in row[1] + row[3]


@pytest.mark.parametrize("claim", CLAIMS)
def test_show_tells_a_claim_from_its_declaration(shell: Shell, claim: str) -> None:
    code, out, _ = shell("show", claim)
    assert code == 0
    flat = "".join(out.split())  # lines are wrapped, at hyphens too
    for part in (claim, CLAIMS[claim].statement, str(CLAIMS[claim].criterion), CLAIMS[claim].null):
        assert "".join(part.split()) in flat
    assert ("published figures" in out) == (CLAIMS[claim].figure is not None)


def test_show_unknown_names_the_nearest(shell: Shell) -> None:
    code, out, err = shell("show", "compassion.unified_axes")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith(
        "geometry-bench: There is no claim 'compassion.unified_axes' (did you mean compassion.unified_ax"
    )


def test_audit_counts_what_it_contradicts(shell: Shell) -> None:
    from geometry_bench.claims.audit import AUDITED, audit
    from geometry_bench.published.load import load_publication

    code, out, _ = shell("audit")
    assert code == 0
    findings = [finding for source in AUDITED for finding in audit(load_publication(source))]
    contradicted = sum(not finding.consistent for finding in findings)
    assert 0 < contradicted < len(findings)
    assert f"{len(findings)} statements, {contradicted} contradicted" in out


@pytest.mark.parametrize(
    ("format", "mark"), [("markdown", "|--"), ("csv", ","), ("latex", "\\begin{tabular}"), ("html", "<table>")]
)
def test_leaderboard_of_the_published_figures(shell: Shell, tmp_path: Path, format: str, mark: str) -> None:
    code, out, _ = shell("leaderboard", "--format", format)
    assert code == 0
    assert mark in out.replace(":--", "|--").replace("|:-", "|--")
    code, said, _ = shell("leaderboard", "--format", format, "--output", tmp_path / "deep" / "board")
    assert (code, said) == (0, f"written: {tmp_path / 'deep' / 'board'}\n")
    assert (tmp_path / "deep" / "board").read_text().strip() == out.strip()


def test_leaderboard_without_records_where_some_were_promised(shell: Shell, tmp_path: Path) -> None:
    code, out, err = shell("leaderboard", "--results", tmp_path)
    assert (code, out) == (2, "")
    assert "holds no records.jsonl" in err


def test_baselines_of_nobody(shell: Shell, tmp_path: Path) -> None:
    code, _, err = shell("baseline", "show", "org/unheard-of", "--baselines", tmp_path)
    assert code == 2
    assert err.startswith("geometry-bench: No baseline is stored for org/unheard-of: stored are ")
    assert shell("baseline", "list", "--baselines", tmp_path)[0] == 0


def test_run_and_then_the_board_the_baselines_and_the_cache(
    shell: Shell, tiny: Path, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two measured claims, through the entry point, from an empty folder."""
    monkeypatch.chdir(tmp_path)
    own = ("--baselines", "base")
    arguments = [
        *("run", "--claim", "compassion.tightest_pair", "--claim", "compassion.secular_divergence"),
        *("--model", tiny, "--prompts", pack, "--results", "results", *own, "--baseline-update=new", "-q"),
    ]
    entry = "from geometry_bench.cli.app import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", entry, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert run.returncode in (0, 1), run.stdout + run.stderr
    lines = [json.loads(line) for line in (tmp_path / "results" / "records.jsonl").read_text().splitlines()]
    assert [line["claim"] for line in lines] == ["compassion.secular_divergence", "compassion.tightest_pair"]
    secular = lines[0]["estimates"]["corrected"]["details"]["chenrezig-secular"]

    for format in cli.Format:
        code, board, _ = shell("leaderboard", "--results", "results", "--format", format.value)
        assert code == 0
        assert "tiny" in board
        assert f"{secular:.2f}".lstrip("+-") in board

    listed = shell("baseline", "list", *own)[1]
    assert "tiny" in listed
    assert "float32-sdpa" in listed
    shown = shell("baseline", "show", "tiny", *own)[1]
    assert f"{lines[1]['estimates']['corrected']['value']:+.3f}" in shown
    assert "first measurement" in " ".join(shown.split())

    assert "tiny" in shell("cache", "list")[1]
    assert shell("cache", "clear", "--subject", "someone-else")[1] == "0 captures removed\n"
    assert "tiny" in shell("cache", "list")[1]
    cleared = shell("cache", "clear")[1]
    assert "0 captures removed" not in cleared
    assert "decompositions removed" in cleared
    assert shell("cache", "list")[1].startswith("0 captures in ")


def test_version_and_wrong_usage(shell: Shell) -> None:
    assert shell("--version")[:2] == (0, f"geometry-bench {__version__}\n")
    assert shell("nonsense")[0] == 2


HELP = """
import contextlib, io, sys
from geometry_bench.cli import app as cli
texts = []
for command in {commands}:
    sys.argv = ["geometry-bench", *command, "--help"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        cli.main()
    assert "Usage" in out.getvalue(), command
    texts.append(out.getvalue())
heavy = [name for name in ("torch", "transformers", "sklearn", "tokenizers", "scipy") if name in sys.modules]
assert not heavy, heavy
print(texts[1])
"""


def test_help_of_every_command_imports_nothing_heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = subprocess.run(
        [sys.executable, "-c", HELP.format(commands=repr(COMMANDS))], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    for option in OPTIONS:
        assert option.flag in done.stdout
