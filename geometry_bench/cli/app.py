"""The command line: ``geometry-bench run | list | show | audit | leaderboard | baseline | family | cache``.

``updates`` and ``project`` are in :mod:`geometry_bench.cli.updates`.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tabulate import tabulate

from geometry_bench import __version__
from geometry_bench.cli import updates as cli_updates
from geometry_bench.errors import GeometryBenchError
from geometry_bench.options import OPTIONS

if TYPE_CHECKING:
    from geometry_bench.claims.model import Claim

app = typer.Typer(
    name="geometry-bench",
    help="Measure the published geometric claims about aligned language models on any Hugging Face model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cache_app = typer.Typer(
    help="The caches of activations and decompositions: what they hold, and how to empty them.", no_args_is_help=True
)
baseline_app = typer.Typer(help="Stored baselines: which there are, and what one of them holds.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")
app.add_typer(baseline_app, name="baseline")
family_app = typer.Typer(
    help="Families of models: train one from a recipe, and see what one holds.", no_args_is_help=True
)
app.add_typer(family_app, name="family")
cli_updates.register(app)


class Format(StrEnum):
    """Table formats."""

    markdown = "markdown"
    csv = "csv"
    latex = "latex"
    html = "html"


@app.command("list")
def list_claims() -> None:
    """List the claims: id, number of cases, needs, forward passes, statement."""
    from geometry_bench.claims.registry import CLAIMS
    from geometry_bench.prompts.pack import load_pack

    pack = load_pack()
    rows = [
        (claim.id, _cases(claim), ", ".join(claim.needs), claim.cost(pack), _wrapped(claim.statement, 60))
        for claim in CLAIMS.values()
    ]
    typer.echo(tabulate(rows, ("claim", "cases", "needs", "passes", "statement")))
    typer.echo("\npasses: forward passes of one claim measured alone; claims on one message set share theirs")


@app.command()
def show(claim: Annotated[str, typer.Argument(help="Id of a claim, as `geometry-bench list` prints it.")]) -> None:
    """Print one claim: statement, source, cases, criterion, null, published figures."""
    from geometry_bench.claims.model import Case
    from geometry_bench.claims.registry import find_claim
    from geometry_bench.published.load import load_publication

    found = find_claim(claim)
    facts = [
        (
            "claim",
            f"{found.id}, version {found.version}"
            + (" (an open question of the source)" if found.open_question else ""),
        ),
        ("statement", _wrapped(found.statement, 90)),
        ("source", f"{found.source.letter}: {found.source.citation}, {found.where}"),
        ("measured by", _wrapped(" ".join((found.measure.__doc__ or "").split()), 90)),
        ("cases", _wrapped(_case_names(found), 90)),
        ("needs", ", ".join(found.needs)),
        ("holds when", str(found.criterion)),
        ("null", _wrapped(found.null, 90)),
        ("source's criterion", str(found.published_criterion) if found.published_criterion else "none stated"),
        ("smallest change", f"{found.smallest_change:g}"),
        ("cost", _cost(found)),
    ]
    typer.echo(tabulate(facts, tablefmt="plain"))
    if found.figure is not None:
        published = load_publication(found.source.id)
        cases = found.cases if found.per_member is None else (Case("figure"),)
        rows = [
            (subject.label, *(_figure(found.figure(subject, case)) for case in cases))
            for subject in published.subjects.values()
        ]
        typer.echo("\npublished figures\n" + tabulate(rows, ("", *(case.key for case in cases)), disable_numparse=True))


@app.command()
def audit() -> None:
    """Check the sources' sentences against the sources' own figures; no model is needed."""
    from geometry_bench.claims.audit import AUDITED_SOURCES, run_audit
    from geometry_bench.published.load import load_publication

    findings = []
    for source in AUDITED_SOURCES:
        of_source = run_audit([source])
        rows = [
            (
                finding.verdict,
                finding.statement.id,
                _wrapped(finding.statement.sentence, 50),
                _wrapped(finding.explanation, 60),
            )
            for finding in of_source
        ]
        headers = ("verdict", "statement", "what the source says", "what its figures say")
        typer.echo(f"{load_publication(source).title}\n{tabulate(rows, headers, tablefmt='grid')}\n")
        findings += of_source
    contradicted = sum(not finding.consistent for finding in findings)
    typer.echo(f"{len(findings)} statements, {contradicted} contradicted by the source's own figures")


@app.command()
def leaderboard(
    results: Annotated[
        list[Path] | None, typer.Option(help="Results folder with measured records; repeatable.", metavar="DIR")
    ] = None,
    format: Annotated[Format, typer.Option(help="Table format.")] = Format.markdown,
    output: Annotated[Path | None, typer.Option(help="File to write instead of the terminal.", metavar="FILE")] = None,
    published: Annotated[bool, typer.Option(help="Show the published figures.")] = True,
) -> None:
    """Print the source's two tables: published figures, and your records beside them."""
    from geometry_bench.published.schema import load_published
    from geometry_bench.records.files import RECORDS, read_records
    from geometry_bench.report.leaderboard import published_rows, render_leaderboard
    from geometry_bench.report.measured import measured_rows
    from geometry_bench.storage import write_atomically

    source = load_published()
    rows = list(published_rows(source)) if published else []
    for folder in results or ():
        path = folder / RECORDS
        if not path.is_file():
            raise GeometryBenchError(f"{folder} holds no {RECORDS}: give a folder that a run wrote with --results.")
        rows += measured_rows(read_records(path))
    text = render_leaderboard(rows, format=format.value)
    if output is None:
        typer.echo(text)
    else:
        write_atomically(output, text if text.endswith("\n") else text + "\n")
        typer.echo(f"written: {output}")


_Baselines = Annotated[
    Path | None,
    typer.Option("--baselines", help="Folder of your own baselines, beside the bundled ones.", metavar="DIR"),
]


def _store(folder: Path | None) -> Any:
    from geometry_bench.records.files import BaselineStore
    from geometry_bench.run.run import baseline_roots

    return BaselineStore(baseline_roots(folder))


@baseline_app.command("list")
def baseline_list(baselines: _Baselines = None) -> None:
    """List stored baselines: subject, revision, settings, cases, where the file lies."""
    rows = [
        (
            found.baseline.subject["id"],
            found.path.parent.name[:23],
            found.path.stem,
            len(found.baseline.cases),
            str(found.path),
        )
        for found in _store(baselines).all()
    ]
    typer.echo(
        tabulate(rows, ("subject", "revision", "settings", "cases", "file")) if rows else "no baselines are stored"
    )


@baseline_app.command("show")
def baseline_show(
    subject: Annotated[str, typer.Argument(help="Subject as `baseline list` prints it.")], baselines: _Baselines = None
) -> None:
    """Print one subject's stored values, verdicts and the reasons given when they were stored."""
    from geometry_bench.report.summary import null_text, value_text

    store = _store(baselines)
    stored = store.all(subject)
    if not stored:
        raise GeometryBenchError(
            f"No baseline is stored for {subject}: stored are {', '.join(store.names()) or 'none'}."
        )
    for found in stored:
        typer.echo(f"{found.path}")
        rows = []
        for key, case in found.baseline.cases.items():
            estimate = case.estimates.get("corrected") or case.estimates.get("published")
            rows.append((key, value_text(estimate), null_text(estimate), str(case.claim), _wrapped(case.reason, 30)))
        typer.echo(tabulate(rows, ("case", "value", "null", "verdict", "reason stored"), disable_numparse=True))


_CacheDir = Annotated[Path | None, typer.Option("--activation-cache", help="Folder of the cache.", metavar="DIR")]


@cache_app.command("list")
def cache_list(activation_cache: _CacheDir = None) -> None:
    """List the captures that the activation cache holds, and how many decompositions of weight updates lie beside it."""
    from geometry_bench.activations.cache import Cache
    from geometry_bench.updates.store import Store

    cache = Cache(activation_cache)
    names = ("subject", "pooling", "prompts", "layers", "width", "created")
    entries = cache.entries()[::-1]
    if entries:
        rows = [
            (*(entry.facts.get(name, "unreadable")[:40] for name in names), f"{entry.size / 1e6:.1f} MB")
            for entry in entries
        ]
        typer.echo(tabulate(rows, (*names, "size")))
    typer.echo(f"{len(entries)} captures in {cache.root}")
    store = Store(activation_cache)
    sizes = [entry.size for entry in store.entries()]
    typer.echo(f"{len(sizes)} decompositions ({sum(sizes) / 1e6:.1f} MB) in {store.root}")


@cache_app.command("clear")
def cache_clear(
    subject: Annotated[str | None, typer.Option(help="Only this subject's captures.", metavar="NAME")] = None,
    older_than: Annotated[
        float | None, typer.Option(help="Only what is older than this many days.", metavar="DAYS")
    ] = None,
    activation_cache: _CacheDir = None,
) -> None:
    """Remove captures, and without --subject decompositions of weight updates too; everything can be measured again."""
    from geometry_bench.activations.cache import Cache
    from geometry_bench.updates.store import Store

    age = None if older_than is None else timedelta(days=older_than)
    removed = Cache(activation_cache).clear(older_than=age, subject=subject)
    typer.echo(f"{removed} captures removed")
    if subject is None:
        typer.echo(f"{Store(activation_cache).clear(older_than=age)} decompositions removed")


@family_app.command("build")
def family_build(
    recipe: Annotated[
        str, typer.Argument(help="A bundled recipe (`small`, `paper`, a family of the zoo) or a TOML file.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the family; an interrupted build goes on there.", metavar="DIR")],
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
    threads: Annotated[int | None, typer.Option(help="CPU threads of torch.", min=1)] = None,
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
) -> None:
    """Print a family's members: role, what each starts from, how it was made, where it lies."""
    from geometry_bench.subjects.families import load_family

    family = load_family(manifest)
    typer.echo(f"{family.name}" + (f", recipe {family.recipe}" if family.recipe else ""))
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
    typer.echo(
        tabulate(rows, ("member", "role", "from", "method", "alignment", "model", "weights"), disable_numparse=True)
    )


def _run(context: typer.Context, claim: list[str] | None, **values: Any) -> None:
    """Measure the claims on one or more models and print the table of verdicts; the same as `pytest benchmarks`.

    The benchmarks that come with the package are run by pytest with the same options; anything else goes on to pytest
    (-k, -n, -x, --junitxml, ...).

    Example: geometry-bench run --model org/name --results results --resume
    """
    import pytest

    from geometry_bench.claims.registry import find_claim
    from geometry_bench.resources import data_root

    arguments: list[str] = []
    for option in OPTIONS:
        value = values[option.dest]
        if option.kind == "flag":
            arguments += [option.flag] if value else []
        elif option.kind == "repeated":
            arguments += [f"{option.flag}={one}" for one in value or ()]
        elif value is not None:
            arguments.append(f"{option.flag}={value}")
    names = [find_claim(one).id for one in claim or ()]
    if names:
        arguments += ["-k", " or ".join(names)]
    benchmarks = data_root() / "benchmarks"
    files = [str(path) for path in sorted(benchmarks.glob("test_*.py"))]
    # Plugins that leave folders in the working directory stay out; this one is imported already and has nothing to rewrite.
    quiet = ["-p", "no:cacheprovider", "-p", "no:benchmark", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    config = ["-c", os.devnull, "--rootdir", str(benchmarks), *quiet]
    raise SystemExit(int(pytest.main([*config, *arguments, *context.args, *files])))


def _with_plugin_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the plugin's options, so that each is declared once, in ``options.py``."""
    kinds: dict[str, Any] = {"value": str | None, "repeated": list[str] | None, "flag": bool}
    only_claims = typer.Option("--claim", metavar="CLAIM", help="Only this claim; repeatable.")
    parameters = [
        inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        _keyword("claim", Annotated[list[str] | None, only_claims], None),
    ]
    for option in OPTIONS:
        declared = typer.Option(option.flag, help=option.help, metavar=option.metavar)
        default = False if option.kind == "flag" else None
        parameters.append(_keyword(option.dest, Annotated[kinds[option.kind], declared], default))

    def command(context: typer.Context, **values: Any) -> None:
        function(context, **values)

    command.__doc__ = function.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


app.command("run", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    _with_plugin_options(_run)
)


_MEMBERS = {None: "", "all": "each member of the group", "others": "each member of the group but the reference"}


def _case_names(claim: Claim) -> str:
    return (
        ", ".join([*(case.key for case in claim.cases if case.key), *filter(None, [_MEMBERS[claim.per_member]])])
        or "one"
    )


def _cases(claim: Claim) -> str:
    """How many cases a claim has; ``n`` stands for the members of a group."""
    declared = len([case for case in claim.cases if case.key or claim.per_member is None])
    more = {None: "", "all": "n", "others": "n-1"}[claim.per_member]
    return " + ".join([*([str(declared)] if declared else []), *([more] if more else [])])


def _cost(claim: Claim) -> str:
    from geometry_bench.prompts.pack import load_pack

    if claim.scope == "family":
        return "no forward pass: weights are read, tensor by tensor"
    each = " of each member" if claim.scope == "group" else ""
    return f"{claim.cost(load_pack())} forward passes{each}, shared with other claims on the same prompts"


def _wrapped(text: str, width: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"geometry-bench {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point: a bad input is told in one sentence, with exit status 2."""
    try:
        app(prog_name="geometry-bench")
    except GeometryBenchError as error:
        print(f"geometry-bench: {error}", file=sys.stderr)
        raise SystemExit(2) from None
