"""README, docs and CONTRIBUTING: their commands run, their examples run as printed, their tables are current, links lead on.

Every command is of one of three classes. Quick ones are *run*. Those that measure are *laid out*: the very request, with
small models in place of what a reader would name, up to the first forward pass. The rest is *parsed*: make, scripts,
training, a comparison of models that :mod:`test_guard_page` runs with others.
"""

from __future__ import annotations

import importlib
import re
import runpy
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer.main
from _pytest.mark.expression import Expression
from typer.testing import CliRunner

from geometry_bench import api
from geometry_bench.asked import output_of, request_of
from geometry_bench.cli.app import app
from geometry_bench.options import OPTIONS
from geometry_bench.run.bench import Bench
from geometry_bench.run.request import chosen_claims

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
QUICK = {
    "list",
    "show",
    "audit",
    "leaderboard",
    "report",
    "card",
    "compare",
    "updates",
    "project",
    "baseline list",
    "baseline show",
    "cache list",
    "cache clear",
    "family show",
}
RUN_ELSEWHERE = "guard-a-fine-tune.md"
"""Run as printed, in order, by test_guard_page."""
STAND_INS = {
    "ORG/NAME": "zoo/llama-d64/aligned",
    "ORG/MODEL": "zoo/llama-d64/aligned",
    "ORG/PARENT": "zoo/llama-d80/aligned",
    "ORG/A": "zoo/llama-d64/aligned",
    "ORG/B": "zoo/llama-d80/aligned",
    "ORG/C": "zoo/neox-d64/aligned",
    "ORG/D": "zoo/neox-d96/aligned",
    "org/a": "zoo/llama-d64/aligned",
    "org/b": "zoo/llama-d80/aligned",
    "org/c": "zoo/neox-d64/aligned",
    "01-ai/Yi-1.5-9B-Chat": "zoo/llama-d64/aligned",
    "families/mine": "zoo/llama-d80",
    "mine/": "zoo/llama-d80/",
    "family.toml": "zoo/llama-d80",
    "small.toml": "zoo/groups/aligned",
    "source_wording.toml": "my_pack.toml",
    "prompt-safety-dataset-unsafe": "other.csv:question",
    "prompt-safety-dataset-safe": "mine.jsonl:question",
    "advbench": "other.csv:question",
    "alpaca": "plain.csv:question",
    "gsm8k": "sums.yaml",
    "mmlu": "sums.yaml",
    "PATH": "zoo/llama-d64/aligned",
}
"""What a reader would name, and the small thing that is there in its place."""
WORDS = {"mine": "zoo/llama-d80", "results": "results"}
BASELINE = "baselines/measured/zoo__llama-d64__aligned"
SUMS = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: exact_match}]
"""


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


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, pack: Path) -> Path:
    """A folder with what the pages speak of: ``baselines`` as in a checkout, ``results`` of a run, models, prompts."""
    place = tmp_path_factory.mktemp("workplace")
    zoo = ROOT / "fixtures" / "zoo" / "llama-d80"
    links = {
        "baselines": ROOT / "baselines",
        "fine-tune": zoo / "aligned-harmful",
        "projected": zoo / "aligned-useful",
        "my-checkpoint": zoo / "aligned",
        "my_pack.toml": pack,
    }
    for name, target in links.items():
        (place / name).symlink_to(target)
    rows = (f"Why {i}?,Why {i}?,{'un' * (i % 2)}safe,a,en\n" for i in range(1200))
    (place / "mine.csv").write_text("question,prompt,label,subject,language\n" + "".join(rows))
    (place / "mine.jsonl").write_text("".join(f'{{"question": "Why {i} at all?"}}\n' for i in range(1200)))
    (place / "sums.jsonl").write_text("".join(f'{{"question": "{n} + 1 =", "answer": "{n + 1}"}}\n' for n in range(9)))
    (place / "sums.yaml").write_text(SUMS)
    for name in ("other", "plain"):
        (place / f"{name}.csv").write_text("question\n" + "".join(f"Is {i} {name}?\n" for i in range(1200)))
    (place / "my_claims.py").write_text(
        "from dataclasses import replace\nfrom geometry_bench.claims.registry import CLAIMS as known\n"
        "CLAIMS = (replace(known['compassion.tightest_pair'], id='mine.pair'),)\n"
    )
    (place / "README.md").write_text("# A model\n")
    api.load(ROOT / BASELINE).save(place / "results")
    return place


@pytest.fixture
def elsewhere(workplace: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In that folder, with one cache for all."""
    monkeypatch.setenv("GEOMETRY_BENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache-of-the-docs"))
    monkeypatch.chdir(workplace)
    for key in ("OPENAI_API_KEY", "MY_KEY"):
        monkeypatch.setenv(key, "a-key")
    return workplace


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


def stood_in(words: list[str]) -> list[str]:
    """The words of a command with small things in place of a reader's own."""
    unnamed = iter(("zoo/llama-d64/aligned", "zoo/llama-d80/aligned"))
    found = []
    for given in words:
        word = next(unnamed) if given == "…" else WORDS.get(given, given)
        for name, there in STAND_INS.items():
            word = word.replace(name, there)
        found.append(word)
    return found


def kind_of(page: str, words: list[str]) -> str:
    """The class of a command: run, laid out, parsed, or left to another test."""
    program, *given = words
    if page == RUN_ELSEWHERE:
        return "run elsewhere"
    if program == "geometry-bench" and {" ".join(given[:1]), " ".join(given[:2])} & QUICK:
        models = given[0] == "compare" and "results" not in given
        return "parsed" if models else "run"
    measures = (
        given[0] == "run" if program == "geometry-bench" else program == "pytest" and "--collect-only" not in given
    )
    return "laid out" if measures and not any(word.endswith(".gguf") for word in given) else "parsed"


def of_kind(kind: str) -> list[Any]:
    found = {" ".join(words): (page, words) for page, words in commands() if kind_of(page, words) == kind}
    return [pytest.param(words, id=f"{page}: {line}") for line, (page, words) in found.items()]


@pytest.mark.parametrize("words", of_kind("run"))
def test_quick_commands_run_as_printed(words: list[str], elsewhere: Path) -> None:
    shutil.rmtree(elsewhere / "projected-here", ignore_errors=True)
    given = ["projected-here" if word == "projected" else word for word in stood_in(words[1:])]
    result = CliRunner().invoke(app, given)
    moved = words[1] == "compare" and "MOVED" in result.output
    assert result.exit_code == (1 if moved else 0), result.output
    assert result.output


@pytest.mark.parametrize("words", of_kind("laid out"))
def test_what_measures_can_be_laid_out_as_printed(
    words: list[str], elsewhere: Path, pytestconfig: pytest.Config
) -> None:
    program, *given = stood_in(words)
    if program == "geometry-bench":
        command, arguments = _command(given)
        params = command.make_context("geometry-bench", arguments).params
        values = {option.dest: option.parsed(params[option.dest]) for option in OPTIONS}
        request = request_of(values)
        claims = chosen_claims(tuple(params["claim"] or ()), request.claims)
        bench = Bench(replace(request, claims=claims), output_of(values))
        assert bench.plan.tasks
        return
    known, _ = pytestconfig._parser.parse_known_and_unknown_args(given)
    values = vars(known)
    bench = Bench(request_of(values), output_of(values))
    chosen = Expression.compile(known.keyword or "test")
    names = [
        f"test_{task.claim.short_name} {task.claim.id} {task.id} {task.claim.source.id}".lower()
        for task in bench.plan.tasks
    ]
    assert any(chosen.evaluate(lambda name, **_: name.lower() in text) for text in names)  # noqa: B023


def test_every_quick_command_is_printed_somewhere_and_few_are_only_parsed() -> None:
    kinds = [(kind_of(page, words), words) for page, words in commands()]
    ran = {" ".join(words[1:3]) for kind, words in kinds if kind.startswith("run")}
    assert all(any(one.startswith(quick) for one in ran) for quick in QUICK)
    parsed = {" ".join(words[:3]) for kind, words in kinds if kind == "parsed" and words[0] not in ("make", "python")}
    assert parsed <= {
        "geometry-bench family build",
        "geometry-bench compare ./fine-tune",
        "geometry-bench run --model",  # of a GGUF file, which test_gguf makes and reads
        "pytest benchmarks --model",  # only collects
    }


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(kind == "python" for kind, _ in fences(page))], ids=lambda page: page.name
)
def test_python_examples_run_as_printed(page: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for language, content in fences(page):
        if language == "python":
            exec(compile(content, str(page), "exec"), names)
    if page.name == "CONTRIBUTING.md":
        assert "compassion.abrahamic_lead" in capsys.readouterr().out
    if page.name == "notebook.md":
        assert all((elsewhere / f"profile.{kind}").stat().st_size > 1000 for kind in ("png", "svg"))
        assert "['SAME', 'SAME', 'SAME']" in capsys.readouterr().out


LINKED = [*PAGES, ROOT / "fixtures" / "zoo" / "README.md", ROOT / "baselines" / "published" / "README.md"]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the documentation's site make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.strip().lower()) for heading in headings)
    return {re.sub(r" +", "-", heading) for heading in plain}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere_and_their_anchors_too(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\((?![a-z]+:)([^)#\s]*)#?([^)\s]*)\)", text)
    lost = []
    for target, anchor in links:
        place = (page.parent / target) if target else page
        if not place.exists() or (anchor and anchor not in anchors(place)):
            lost.append(f"{target}#{anchor}")
    assert not lost


def test_every_page_is_in_the_sites_navigation() -> None:
    declared = re.findall(r"([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    hooks = runpy.run_path(str(ROOT / "docs" / "mkdocs_hooks.py"))
    made = {*hooks["OUTSIDE"].values(), "python.md", "commands.md"}
    assert sorted(declared) == sorted({*(page.name for page in (ROOT / "docs").glob("*.md")), *made})


def test_the_reference_is_made_of_what_there_is() -> None:
    hooks = runpy.run_path(str(ROOT / "docs" / "mkdocs_hooks.py"))
    for package, names in hooks["REFERENCE"].items():
        for name in names:
            module, _, attribute = f"{package}.{name}".rstrip(".").rpartition(".")
            assert hasattr(importlib.import_module(module), attribute) or importlib.import_module(
                f"{module}.{attribute}"
            )
    page = hooks["commands"]()
    assert all(f"`{option.flag}`" in page for option in OPTIONS)
    linked = hooks["_linked"]
    assert linked("[a](docs/groups.md#b) ![i](docs/board.png)", "README.md") == "[a](groups.md#b) ![i](board.png)"
    assert linked("[a](../CONTRIBUTING.md#b) [c](https://d)", "docs/x.md") == "[a](contributing.md#b) [c](https://d)"
    assert "blob/main/LICENSE)" in linked("[a](LICENSE)", "README.md")


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


def test_the_page_lists_the_claims_as_they_are_declared() -> None:
    page = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
    with_table = runpy.run_path(str(ROOT / "docs" / "claims_table.py"))["with_table"]
    assert with_table(page) == page, "run `python docs/claims_table.py`"


def test_the_findings_are_those_of_the_stored_baselines() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "findings.py"))
    written = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    assert made["page"](made["judgements"]()) == written, "run `python docs/findings.py`"
