"""README, docs and CONTRIBUTING: their commands parse or run, their examples run as printed, their table is current."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from geometry_bench import api
from geometry_bench.cli.app import app
from geometry_bench.options import OPTIONS
from geometry_bench.run.request import chosen_claims

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
QUICK = {
    "list",
    "show",
    "audit",
    "leaderboard",
    "compare",
    "baseline list",
    "baseline show",
    "cache list",
    "family show",
}
BASELINE = "baselines/measured/zoo__llama-d64__aligned"


def fences(page: Path) -> Iterator[tuple[str, str]]:
    """Language and content of each fenced block."""
    return iter(re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))


def commands() -> Iterator[tuple[str, list[str]]]:
    """Page and words of every command of ours, wherever it is installed."""
    for page in PAGES:
        for language, content in fences(page):
            if language in ("", "yaml"):
                for line in content.replace("\\\n", " ").splitlines():
                    command = re.sub(r"^(\.venv/bin/)?(python -m (?=pytest))?", "", line.strip())
                    if re.match(r"(geometry-bench|pytest|make|python) ", command):
                        yield page.name, shlex.split(command, comments=True)


COMMANDS = [pytest.param(words, id=f"{page}: {' '.join(words)}") for page, words in commands()]


WITH_PYTHON = [page for page in PAGES if "python" in dict(fences(page))]


@pytest.fixture
def elsewhere(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with ``baselines``, as in a checkout, and the ``results`` of an earlier run; one cache for all."""
    monkeypatch.setenv("GEOMETRY_BENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache-of-the-docs"))
    (tmp_path / "baselines").symlink_to(ROOT / "baselines")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    api.load(BASELINE).save("results")
    return tmp_path


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_parses(words: list[str], pytestconfig: pytest.Config) -> None:
    program, *given = words
    if program == "geometry-bench":
        name, arguments = _command(given)
        context = name.make_context("geometry-bench", arguments)
        if name.name == "run":
            for option in OPTIONS:
                option.parsed(context.params[option.dest])
            if not context.params["gb_claims"]:
                chosen_claims(tuple(context.params["claim"] or ()))
    elif program == "pytest":
        _parse_for_pytest(given, pytestconfig)
    elif program == "make":
        assert re.search(rf"^{given[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        for variable, _, value in (word.partition("=") for word in given[1:]):
            assert variable == "ARGS"
            _parse_for_pytest(shlex.split(value), pytestconfig)
    else:
        script = (ROOT / given[0]).read_text()
        assert all(f'"{word}"' in script for word in given[1:] if word.startswith("--"))


def _command(words: list[str]) -> tuple[Any, list[str]]:
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def _parse_for_pytest(words: list[str], config: pytest.Config) -> None:
    known, unknown = config._parser.parse_known_and_unknown_args(words)
    assert not unknown
    assert all((ROOT / file).exists() for file in known.file_or_dir)


RUNNABLE = [
    param
    for param in COMMANDS
    for program, *words in param.values
    if program == "geometry-bench"
    and {" ".join(words[:1]), " ".join(words[:2])} & QUICK
    and not re.search(r"\b(ORG|ID)\b|families/|ORG__", " ".join(words))
]


@pytest.mark.parametrize("words", RUNNABLE)
def test_quick_commands_run_as_printed(words: list[str], elsewhere: Path) -> None:
    result = CliRunner().invoke(app, words[1:])
    moved = words[1] == "compare" and "MOVED" in result.output
    assert result.exit_code == (1 if moved else 0), result.output
    assert result.output


def test_the_quick_commands_are_all_printed_somewhere() -> None:
    printed = {" ".join(words[1:3]) for param in RUNNABLE for words in param.values}
    assert all(any(one.startswith(quick) for one in printed) for quick in QUICK - {"baseline show"})


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(kind == "python" for kind, _ in fences(page))], ids=lambda page: page.name
)
def test_python_examples_run_as_printed(page: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere / "mine.csv").write_text("question,subject,language\n" + "".join(f"Why {i}?,a,en\n" for i in range(200)))
    names: dict[str, object] = {"__name__": "__main__"}
    for language, content in fences(page):
        if language == "python":
            exec(compile(content, str(page), "exec"), names)
    if page.name == "CONTRIBUTING.md":
        assert "compassion.abrahamic_lead" in capsys.readouterr().out
    if page.name == "notebook.md":
        assert all((elsewhere / f"profile.{kind}").stat().st_size > 1000 for kind in ("png", "svg"))
        assert "['SAME', 'SAME', 'SAME']" in capsys.readouterr().out


def test_links_between_pages_lead_somewhere() -> None:
    links = [(page, link) for page in PAGES for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())]
    assert not [(page.name, link) for page, link in links if not (page.parent / link).exists()]


def test_modules_and_files_that_pages_name_exist() -> None:
    named = {
        (page, name)
        for page in PAGES
        for name in re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|md|json|toml))`", page.read_text())
    }
    missing = [
        (p.name, n) for p, n in named if not any((root / n).exists() for root in (ROOT, ROOT / "geometry_bench"))
    ]
    assert not [one for one in missing if "SOURCE" not in one[1] and not one[1].startswith("zootext/")]


def test_the_readme_lists_the_claims_as_they_are_declared() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    with_table = runpy.run_path(str(ROOT / "docs" / "claims_table.py"))["with_table"]
    assert with_table(readme) == readme, "run `python docs/claims_table.py`"


def test_the_findings_are_those_of_the_stored_baselines() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "findings.py"))
    written = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    assert made["page"](made["judgements"]()) == written, "run `python docs/findings.py`"
