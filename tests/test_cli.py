"""The command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Shell

from geometry_bench import __version__
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.options import OPTIONS
from geometry_bench.report.board import published_rows

COMMANDS = (
    [],
    ["run"],
    ["compare"],
    ["list"],
    ["show"],
    ["audit"],
    ["docs"],
    ["leaderboard"],
    ["card"],
    ["baseline"],
    ["baseline", "list"],
    ["baseline", "show"],
    ["cache"],
    ["cache", "list"],
    ["cache", "clear"],
)


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
    assert json.loads(shell("show", claim, "--json")[1])["holds when"] == str(CLAIMS[claim].criterion)
    for part in (claim, CLAIMS[claim].statement, str(CLAIMS[claim].criterion), CLAIMS[claim].null):
        assert "".join(part.split()) in flat
    assert ("published values" in out) == bool(published_rows(CLAIMS[claim]))


@pytest.mark.parametrize(
    "words",
    [["list"], ["show", "gate.refusal"], ["audit"], ["family", "show", "zoo/llama-d80"], ["baseline", "list"]],
    ids=" ".join,
)
def test_what_is_printed_fits_80_columns(shell: Shell, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = shell(*words)
    assert code == 0
    long = [line for line in out.splitlines() if len(line) > 80]
    assert not [line for line in long if "/" not in line or " " in line.strip()]  # a path is not broken


def test_show_unknown_names_the_nearest(shell: Shell) -> None:
    code, out, err = shell("show", "compassion.unified_axes")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith(
        "geometry-bench: There is no claim 'compassion.unified_axes' (did you mean compassion.unified_ax"
    )


def test_docs_prints_the_pages_that_help_names(shell: Shell) -> None:
    names = shell("docs")[1].split()
    assert shell("docs", "groups")[1].startswith("# ")
    assert {page for option in OPTIONS for page in re.findall(r"geometry-bench docs ([\w-]+)", option.help)} < set(
        names
    )
    assert "did you mean groups" in shell("docs", "grups")[2]


def test_audit_counts_what_it_contradicts(shell: Shell) -> None:
    from geometry_bench.claims.audit import AUDITED, audit
    from geometry_bench.published.load import load_publication

    code, out, _ = shell("audit")
    assert code == 0
    findings = [finding for source in AUDITED for finding in audit(load_publication(source))]
    contradicted = sum(not finding.consistent for finding in findings)
    assert 0 < contradicted < len(findings)
    assert f"{len(findings)} statements, {contradicted} contradicted" in out


def test_leaderboard_into_a_file(shell: Shell, tmp_path: Path) -> None:
    code, out, _ = shell("leaderboard")
    assert (code, "|" in out) == (0, True)
    code, said, _ = shell("leaderboard", "--output", tmp_path / "deep" / "board")
    assert (code, said) == (0, f"written: {tmp_path / 'deep' / 'board'}\n")
    assert (tmp_path / "deep" / "board").read_text().strip() == out.strip()


def test_leaderboard_without_records_where_some_were_promised(shell: Shell, tmp_path: Path) -> None:
    code, out, err = shell("leaderboard", "--results", tmp_path)
    assert (code, out) == (2, "")
    assert "holds no measurements" in err


def test_baselines_of_nobody(shell: Shell, tmp_path: Path) -> None:
    code, _, err = shell("baseline", "show", "org/unheard-of", "--baselines", tmp_path)
    assert code == 2
    assert err.startswith("geometry-bench: No baseline is stored for org/unheard-of: stored are ")
    assert shell("baseline", "list", "--baselines", tmp_path)[0] == 0


def test_run_and_then_the_board_the_baselines_and_the_cache(
    shell: Shell, tiny: Path, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two measured claims, from an empty folder."""
    monkeypatch.chdir(tmp_path)
    own = ("--baselines", "base")
    chosen = ("--claim=compassion.tightest_pair", "--claim=compassion.secular_divergence")
    arguments = (
        "run",
        *chosen,
        "--model",
        tiny,
        "--prompts",
        pack,
        "--results",
        "results",
        "--baseline-update=new",
        *own,
    )
    assert shell(*arguments)[0] in (0, 1)
    lines = [json.loads(line) for line in (tmp_path / "results" / "records.jsonl").read_text().splitlines()]
    assert [line["claim"] for line in lines] == ["compassion.secular_divergence", "compassion.tightest_pair"]
    secular = lines[0]["estimates"]["corrected"]["value"]

    for format in ("csv", "html", "json", "latex", "markdown"):
        code, board, _ = shell("leaderboard", "--results", "results", "--format", format)
        assert code == 0
        assert "tiny" in board
        assert str(secular) in board or f"{abs(secular):.3f}" in board

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
    assert shell("cache", "list")[1].startswith("0 captures (0.0 MB) in ")


def test_every_kind_of_cache_is_listed_and_cleared(shell: Shell, tmp_path: Path) -> None:
    from geometry_bench.behavior.lines import Lines
    from geometry_bench.caches import KINDS, cache_folder

    for kind in KINDS:
        for subject in ("a/b", "c/d"):
            Lines.of(cache_folder(kind, tmp_path), {"subject": subject}).append([("key", {})], remedy="")
    own = ("--activation-cache", tmp_path)
    listed = shell("cache", "list", *own)[1]
    assert all(f"2 {noun} (0.0 MB) in {tmp_path / kind}" in listed for kind, noun in KINDS.items())
    cleared = shell("cache", "clear", "--subject", "a/b", *own)[1]
    assert cleared.splitlines() == [f"1 {noun} removed" for noun in KINDS.values()]
    assert shell("cache", "clear", *own)[1] == cleared
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


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
