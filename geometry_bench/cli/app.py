"""The command line: ``geometry-bench COMMAND``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from geometry_bench.cli import cache, card, claims, docs, families, results, run, updates
from geometry_bench.errors import GeometryBenchError
from geometry_bench.version import __version__

app = typer.Typer(
    name="geometry-bench",
    help="Measure the published geometric claims about aligned language models on any Hugging Face model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for group in (run, claims, results, card, updates, docs):
    group.register(app)
app.add_typer(families.family_app, name="family")
app.add_typer(cache.cache_app, name="cache")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"geometry-bench {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point: a bad input is reported in one sentence, with exit code 2."""
    try:
        app(prog_name="geometry-bench")
    except GeometryBenchError as error:
        print(f"geometry-bench: {error}", file=sys.stderr)
        raise SystemExit(2) from None
