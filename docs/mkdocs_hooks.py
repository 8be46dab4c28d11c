"""What mkdocs builds beside the pages in this folder: pages that lie elsewhere, and a reference from declarations.

README, CONTRIBUTING and two more become pages of the site; a link out of the docs leads to one of these, or to the
repository.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "fixtures/zoo/README.md": "zoo.md",
    "baselines/published/README.md": "published-values.md",
}
"""Files that are pages of the site, by their place in the repository."""

REFERENCE = {
    "geometry_bench": ["api.measure", "api.load", "api.compare", "api.Results", "api.Result", "plots"],
    "geometry_bench.records": ["judgement", "estimates", "measurement"],
    "geometry_bench.claims": ["model", "criteria"],
    "geometry_bench.report.figures": [""],
    "geometry_bench.behavior": ["generation", "refusals", "interventions", "directions", "judges.verdict"],
    "geometry_bench.integrations": ["trainer"],
}
"""The public face, package by package: what is written about here changes with care."""

_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]+)([^)]*\))")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not in this folder."""
    from mkdocs.structure.files import File

    pages = {page: _linked((ROOT / source).read_text(encoding="utf-8"), source) for source, page in OUTSIDE.items()}
    for name, text in {**pages, "python.md": python(), "commands.md": commands()}.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links that leave this folder lead somewhere on the site."""
    return markdown if page.file.generated_by else _linked(markdown, f"docs/{page.file.src_uri}")


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings name objects as :class:`…`: here the name alone."""
    return re.sub(r":(?:class|data|func|meth):(?=<code)", "", html)


def _linked(markdown: str, source: str) -> str:
    """The markdown of a file of the repository with its relative links as the site needs them."""

    def link(found: re.Match[str]) -> str:
        target = found[2]
        if re.match(r"[a-z]+:", target):
            return found[0]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if place in OUTSIDE:
            target = OUTSIDE[place]
        elif place.startswith("docs/") and not place.endswith(".py"):
            target = place.removeprefix("docs/")
        elif (ROOT / place).exists():
            target = f"https://github.com/geometry-bench/geometry-bench/blob/main/{place}"
        return f"{found[1]}{target}{found[3]}"

    return _LINK.sub(link, markdown)


def python() -> str:
    """The reference page of Python names, which mkdocstrings fills in from docstrings."""
    parts = [
        "# Python",
        "What may be imported, from the docstrings. `import geometry_bench as gb` gives the first names.",
    ]
    for package, names in REFERENCE.items():
        parts.append(f"## `{package}`")
        for name in names:
            parts.append(f"::: {f'{package}.{name}' if name else package}\n    options:\n      heading_level: 3")
    return "\n\n".join(parts) + "\n"


def commands() -> str:
    """The reference page of the command line, from its declarations."""
    import typer.main

    from geometry_bench.cli.app import app

    parts = ["# Commands", "Every command with its options, as `geometry-bench COMMAND --help` prints them."]
    parts += _commands(typer.main.get_command(app), "geometry-bench")
    return "\n\n".join(parts) + "\n"


def _commands(command: Any, name: str) -> Iterator[str]:
    for word, child in getattr(command, "commands", {}).items():
        yield from _commands(child, f"{name} {word}")
    if hasattr(command, "commands"):
        return
    yield f"## `{name}`"
    yield re.sub(r"Example: (.*)", r"Example: `\1`", re.sub(r"\n +", "\n", command.help or ""))
    rows = [
        f"| {', '.join(f'`{name}`' for name in _names(one))} | {_cell(one.help)} |"
        for one in command.params
        if one.name != "help"
    ]
    if rows:
        yield "\n".join(["| option | |", "|---|---|", *rows])


def _names(parameter: Any) -> list[str]:
    return (
        [*parameter.opts, *parameter.secondary_opts]
        if parameter.param_type_name == "option"
        else [parameter.name.upper()]
    )


def _cell(text: str | None) -> str:
    return re.sub(r"([|<>*_])", r"\\\1", " ".join((text or "").split()))
