"""Commands on the caches: ``geometry-bench cache list | clear``."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from geometry_bench.cli.text import AsJson, print_table

cache_app = typer.Typer(help="What is kept of activations, decompositions, answers and verdicts.", no_args_is_help=True)

_CacheDir = Annotated[Path | None, typer.Option("--activation-cache", help="Folder of the cache.", metavar="DIR")]


@cache_app.command("list")
def cache_list(activation_cache: _CacheDir = None, as_json: AsJson = False) -> None:
    """List the captures in the activation cache, and count what else is kept beside them."""
    from geometry_bench.caches import KINDS, cache_folder, entries_of

    names = ("subject", "pooling", "prompts", "layers", "width", "created")
    found = {kind: entries_of(cache_folder(kind, activation_cache)) for kind in KINDS}
    rows = [
        (*(entry.facts.get(name, "unreadable")[:40] for name in names), f"{entry.size / 1e6:.1f}")
        for entry in found["activations"][::-1]
    ]
    counts = [
        f"{len(entries)} {KINDS[kind]} ({sum(entry.size for entry in entries) / 1e6:.1f} MB) in "
        f"{cache_folder(kind, activation_cache)}"
        for kind, entries in found.items()
    ]
    print_table((*names, "MB"), rows, as_json=as_json, wraps=("subject", "pooling"), below="\n".join(counts))


@cache_app.command("clear")
def cache_clear(
    subject: Annotated[
        str | None, typer.Option(help="Only this subject's captures and answers.", metavar="NAME")
    ] = None,
    older_than: Annotated[
        float | None, typer.Option(help="Only what is older than this many days.", metavar="DAYS")
    ] = None,
    activation_cache: _CacheDir = None,
) -> None:
    """Remove what is kept of every kind, or with --subject what is kept of one model; everything can be measured again."""
    from geometry_bench.caches import KINDS, cache_folder, clear_entries

    age = None if older_than is None else timedelta(days=older_than)
    for kind, noun in KINDS.items():
        removed = clear_entries(cache_folder(kind, activation_cache), older_than=age, subject=subject)
        if removed or kind == "activations":
            typer.echo(f"{removed} {noun} removed")
