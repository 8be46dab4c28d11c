"""Commands on the caches: ``geometry-bench cache list | clear``."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from geometry_bench.cli.text import AsJson, print_table

cache_app = typer.Typer(help="The caches of activations and decompositions: list and clear them.", no_args_is_help=True)

_CacheDir = Annotated[Path | None, typer.Option("--activation-cache", help="Folder of the cache.", metavar="DIR")]


@cache_app.command("list")
def cache_list(activation_cache: _CacheDir = None, as_json: AsJson = False) -> None:
    """List the captures in the activation cache, and count the decompositions of weight updates beside it."""
    from geometry_bench.activations.cache import Cache
    from geometry_bench.updates.store import Store

    cache = Cache(activation_cache)
    names = ("subject", "pooling", "prompts", "layers", "width", "created")
    entries = cache.entries()[::-1]
    rows = [
        (*(entry.facts.get(name, "unreadable")[:40] for name in names), f"{entry.size / 1e6:.1f} MB")
        for entry in entries
    ]
    store = Store(activation_cache)
    sizes = [entry.size for entry in store.entries()]
    counts = (
        f"{len(entries)} captures in {cache.root}\n"
        f"{len(sizes)} decompositions ({sum(sizes) / 1e6:.1f} MB) in {store.root}"
    )
    print_table((*names, "size"), rows, as_json=as_json, wraps=("subject", "pooling"), below=counts)


@cache_app.command("clear")
def cache_clear(
    subject: Annotated[str | None, typer.Option(help="Only this subject's captures.", metavar="NAME")] = None,
    older_than: Annotated[
        float | None, typer.Option(help="Only what is older than this many days.", metavar="DAYS")
    ] = None,
    activation_cache: _CacheDir = None,
) -> None:
    """Remove captures and, without --subject, decompositions of weight updates; everything can be measured again."""
    from geometry_bench.activations.cache import Cache
    from geometry_bench.updates.store import Store

    age = None if older_than is None else timedelta(days=older_than)
    removed = Cache(activation_cache).clear(older_than=age, subject=subject)
    typer.echo(f"{removed} captures removed")
    if subject is None:
        typer.echo(f"{Store(activation_cache).clear(older_than=age)} decompositions removed")
