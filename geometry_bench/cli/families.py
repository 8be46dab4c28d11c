"""Commands on families: ``geometry-bench family build | show``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from geometry_bench.cli.text import AsJson, print_table
from geometry_bench.errors import GeometryBenchError

family_app = typer.Typer(
    help="Families of models: train one from a recipe, and print its members.", no_args_is_help=True
)


@family_app.command("build")
def family_build(
    recipe: Annotated[
        str, typer.Argument(help="A bundled recipe (`small`, `paper`, a family of the zoo) or a TOML file.")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder of the family; an interrupted build continues there.", metavar="DIR")
    ],
    base: Annotated[
        str | None,
        typer.Option(help="Base model: Hub id or folder; for recipes that do not make one.", metavar="MODEL"),
    ] = None,
    member: Annotated[
        list[str] | None,
        typer.Option(
            help="Take an existing model as this member instead of training it; repeatable.", metavar="NAME=MODEL"
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder to look for the recipe's data files in first.", metavar="DIR")
    ] = None,
    steps_scale: Annotated[float, typer.Option(help="Share of the recipe's data to train on, in (0, 1].")] = 1.0,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Make only this member and what it starts from; repeatable.", metavar="NAME"),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Number of CPU threads for torch.", min=1)] = None,
) -> None:
    """Train every member of a family as its recipe says, and write family.toml; finished members are skipped.

    Example: geometry-bench family build small --base org/name --out families/name
    """
    from geometry_bench.training.build import Interrupted, build
    from geometry_bench.training.recipe import find_recipe

    given = {}
    for one in member or ():
        name, equals, model = one.partition("=")
        if not (name and equals and model):
            raise GeometryBenchError(f"--member {one!r} is not of the form NAME=MODEL.")
        given[name] = model
    try:
        family = build(
            find_recipe(recipe),
            out,
            base=base,
            given=given,
            data=data,
            scale=steps_scale,
            only=only or (),
            threads=threads,
            tell=typer.echo,
        )
    except (Interrupted, KeyboardInterrupt) as stop:
        print(f"geometry-bench: {str(stop) or 'Interrupted before anything was made.'}", file=sys.stderr)
        raise SystemExit(130) from None
    typer.echo(f"{len(family.members)} members in {family.path}")


@family_app.command("show")
def family_show(
    manifest: Annotated[Path, typer.Argument(help="A family.toml, or the folder that holds one.", metavar="MANIFEST")],
    as_json: AsJson = False,
) -> None:
    """Print a family's members: role, what each starts from, how it was made, where it is."""
    from geometry_bench.subjects.families import load_family

    family = load_family(manifest)
    rows = [
        (
            member.name,
            member.role,
            member.parent or "",
            member.method or "given",
            member.alignment or "",
            member.model + (f"@{member.revision[:12]}" if member.revision else ""),
            (member.weights or "").removeprefix("sha256:")[:12],
        )
        for member in family.members
    ]
    headers = ("member", "role", "from", "method", "alignment", "model", "weights")
    title = family.name + (f", recipe {family.recipe}" if family.recipe else "")
    print_table(headers, rows, as_json=as_json, wraps=("model",), above=title)
