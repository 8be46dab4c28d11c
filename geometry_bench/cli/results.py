"""Commands on results and baselines: ``report``, ``leaderboard``, ``compare``, ``baseline list | show``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geometry_bench.cli.text import AsJson, print_table
from geometry_bench.errors import GeometryBenchError

if TYPE_CHECKING:
    from geometry_bench.records.reading import Kept

baseline_app = typer.Typer(help="Stored baselines: list them, and print one.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command("report")(report)
    app.command("leaderboard")(leaderboard)
    app.command("compare")(compare)
    app.add_typer(baseline_app, name="baseline")


_Baselines = Annotated[
    Path | None,
    typer.Option("--baselines", help="Folder of your own baselines, beside the bundled ones.", metavar="DIR"),
]


def report(
    results: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Results folders, baseline files, or folders of baselines; without any, the bundled baselines."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder to write; a report that is there is replaced.", metavar="DIR")
    ] = Path("report"),
    baselines: _Baselines = None,
) -> None:
    """Write a static site: the board, a page for each subject and claim, comparisons, and the audit of the publications.

    It opens from disk, without a network. Published values are on it from the start. Two measurements of one subject,
    revision, settings and case that differ are an error.

    Example: geometry-bench report results --out site
    """
    from geometry_bench.judging import StoredBaselines
    from geometry_bench.records.baselines import BaselineStore
    from geometry_bench.report.figures.model import has_altair
    from geometry_bench.report.site import contents_of, pages
    from geometry_bench.storage import write_folder

    contents = contents_of(_kept(results), StoredBaselines(BaselineStore.beside(baselines)))
    write_folder(out, pages(contents), ".geometry-bench-report")
    if not has_altair():
        typer.echo("warning: without figures: they need pip install 'geometry-bench[report]'")
    typer.echo(f"{len(contents.subjects)} subjects, {len(contents.judged)} cases")
    typer.echo(f"written: {out / 'index.html'}")


def _kept(places: list[Path] | None) -> list[Kept]:
    """What the places hold; without any, the bundled baselines. Claims that are not declared are named as left out."""
    from geometry_bench.claims.registry import CLAIMS
    from geometry_bench.records.reading import read_kept
    from geometry_bench.resources import data_root

    kept = [one for place in places or [data_root() / "baselines" / "measured"] for one in read_kept(place)]
    if unknown := sorted({one.measurement.claim for one in kept} - CLAIMS.keys()):
        typer.echo(f"warning: left out, since no such claims are declared: {', '.join(unknown)}", err=True)
    return kept


def leaderboard(
    results: Annotated[
        list[Path] | None,
        typer.Option(
            help="Results folder, baseline file or folder of baselines; repeatable. Without any, the bundled baselines.",
            metavar="DIR",
        ),
    ] = None,
    format: Annotated[str, typer.Option(help="csv, html, json, latex or markdown.")] = "markdown",
    output: Annotated[Path | None, typer.Option(help="File to write instead of the terminal.", metavar="FILE")] = None,
    published: Annotated[bool, typer.Option(help="Show the published values.")] = True,
    claim: Annotated[
        list[str] | None,
        typer.Option(help="Only claims with this id, or that match this pattern (safety.*); repeatable."),
    ] = None,
    baselines: _Baselines = None,
) -> None:
    """Print the board, a table for each claim: published values, measured ones below them, those of the zoo last.

    Two measurements of one subject, revision, settings and case that differ are an error.
    """
    from geometry_bench.judging import StoredBaselines
    from geometry_bench.records.baselines import BaselineStore
    from geometry_bench.report.board import board
    from geometry_bench.report.formats import render
    from geometry_bench.report.site.contents import judgements_of
    from geometry_bench.run.request import chosen_claims
    from geometry_bench.storage import write_atomically

    claims = chosen_claims(tuple(claim or ()))
    judged = judgements_of(_kept(results), StoredBaselines(BaselineStore.beside(baselines)))
    text = render(board(judged, published=published, claims=claims), format)
    if output is None:
        typer.echo(text)
    else:
        write_atomically(output, text)
        typer.echo(f"written: {output}")


def compare(
    new: Annotated[str, typer.Argument(help="The new subject, such as a fine-tune: results, a baseline or a model.")],
    old: Annotated[str, typer.Argument(help="The old one, such as its parent: results, a baseline or a model.")],
    claim: Annotated[
        list[str] | None,
        typer.Option(
            help="Claims that are measured on a model (default: gate.*), and compared (default: all); repeatable."
        ),
    ] = None,
    margin: Annotated[
        list[str] | None,
        typer.Option(help="Smallest change that matters in a claim or case: gate.refusal=0.2; repeatable."),
    ] = None,
    undecided: Annotated[str, typer.Option(help="What it is worth that it cannot tell: fail or pass.")] = "fail",
    report: Annotated[Path | None, typer.Option(help="File for the comparison as markdown.", metavar="FILE")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print the table of all values too.")] = False,
) -> None:
    """Compare two models, results or baselines: has anything moved by as much as matters, has it not, or can this not tell?

    A results folder, a baseline file or a folder of baselines is read; anything else is a model (folder, Hub id, zoo/...),
    on which the gate is measured. Exit codes: 0 nothing moved, 1 something moved, 2 nothing could be compared, or too few
    prompts to tell.

    Example: geometry-bench compare ./fine-tune ORG/PARENT --report comparison.md
    """
    from geometry_bench import api
    from geometry_bench.options import OPTIONS
    from geometry_bench.report.comparison import comparisons
    from geometry_bench.report.comparison_text import markdown, plain
    from geometry_bench.report.outcomes import comparison_code, warnings_of
    from geometry_bench.report.terminal import columns
    from geometry_bench.storage import write_atomically

    parse = {option.flag: option.parsed for option in OPTIONS}
    margins, worth = dict(parse["--margin"](margin or [])), parse["--undecided"](undecided)
    wanted = tuple(claim or ())
    results = api.compare(api.opened(new, wanted, old), api.opened(old, wanted, old), margins=margins)
    judged = results.judgements
    if report is None:
        typer.echo(plain(judged, old, worth, columns()))
    else:
        write_atomically(report, markdown(judged, old, worth))
        for one in comparisons(judged, worth):
            typer.echo("\n".join([one.answer, *one.findings]))
        typer.echo(f"written: {report}")
    if verbose:
        typer.echo(f"{results.table()}\n")
    for line in warnings_of(judged):
        typer.echo(f"warning: {line}")
    raise typer.Exit(comparison_code(judged, worth))


@baseline_app.command("list")
def baseline_list(baselines: _Baselines = None, as_json: AsJson = False) -> None:
    """List stored baselines: subject, revision, settings, cases, file."""
    from geometry_bench.records.baselines import BaselineStore

    rows = [
        (
            found.baseline.subject.id,
            found.revision[:23],
            found.path.stem,
            len(found.baseline.cases),
            str(found.path),
        )
        for found in BaselineStore.beside(baselines).all()
    ]
    headers = ("subject", "revision", "settings", "cases", "file")
    print_table(headers, rows, as_json=as_json, wraps=("file",), below="" if rows else "no baselines are stored")


@baseline_app.command("show")
def baseline_show(
    subject: Annotated[str, typer.Argument(help="Subject as `baseline list` prints it.")],
    baselines: _Baselines = None,
    as_json: AsJson = False,
) -> None:
    """Print one subject's stored values, verdicts and the reasons given when they were stored."""
    from geometry_bench.judging import judge_run
    from geometry_bench.records.baselines import BaselineStore
    from geometry_bench.report.summary import null_text, value_text

    store = BaselineStore.beside(baselines)
    stored = store.all(subject)
    if not stored:
        raise GeometryBenchError(
            f"No baseline is stored for {subject}: stored are {', '.join(store.names()) or 'none'}."
        )
    headers = ("case", "value", "null", "verdict", "reason stored")
    for found in stored:
        rows = []
        for one in judge_run(found.baseline.measurements()):
            estimate, note = one.measurement.estimate, found.baseline.cases[one.measurement.key].reason
            verdict = str(one.claim.verdict)
            rows.append((one.measurement.key, value_text(estimate), null_text(estimate), verdict, note))
        print_table(headers, rows, as_json=as_json, wraps=("reason stored",), above=str(found.path))
