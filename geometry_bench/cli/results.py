"""Commands on results and baselines: ``leaderboard``, ``compare``, ``baseline list | show``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geometry_bench.cli.text import AsJson, print_table
from geometry_bench.errors import GeometryBenchError

if TYPE_CHECKING:
    from geometry_bench.records.measurement import Measurement

baseline_app = typer.Typer(help="Stored baselines: list them, and print one.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command("leaderboard")(leaderboard)
    app.command("compare")(compare)
    app.add_typer(baseline_app, name="baseline")


def leaderboard(
    results: Annotated[
        list[Path] | None, typer.Option(help="Results folder of a run; repeatable.", metavar="DIR")
    ] = None,
    format: Annotated[str, typer.Option(help="csv, html, json, latex or markdown.")] = "markdown",
    output: Annotated[Path | None, typer.Option(help="File to write instead of the terminal.", metavar="FILE")] = None,
    published: Annotated[bool, typer.Option(help="Show the published values.")] = True,
    claim: Annotated[
        list[str] | None,
        typer.Option(help="Only claims with this id, or that match this pattern (safety.*); repeatable."),
    ] = None,
) -> None:
    """Print a table for each claim: published values, and your measurements below them."""
    from geometry_bench.judging import judge_run
    from geometry_bench.records.files import RECORDS, read_measurements
    from geometry_bench.report.board import board
    from geometry_bench.report.formats import render
    from geometry_bench.run.request import chosen_claims
    from geometry_bench.storage import write_atomically

    measured: list[Measurement] = []
    for folder in results or ():
        path = folder / RECORDS
        if not path.is_file():
            raise GeometryBenchError(f"{folder} holds no {RECORDS}: give a folder that a run wrote with --results.")
        measured += read_measurements(path)
    tables = board(judge_run(measured), published=published, claims=chosen_claims(tuple(claim or ())))
    text = render(tables, format)
    if output is None:
        typer.echo(text)
    else:
        write_atomically(output, text)
        typer.echo(f"written: {output}")


def compare(
    new: Annotated[
        Path,
        typer.Argument(help="Results folder or baseline file of the new subject, such as a fine-tune.", metavar="NEW"),
    ],
    old: Annotated[Path, typer.Argument(help="The same of the old one, such as its parent.", metavar="OLD")],
) -> None:
    """Compare two results or baselines: has a value moved? Nothing is measured.

    Exit codes: 0 nothing moved, 1 a value moved or a verdict flipped, 2 nothing could be compared.
    """
    from geometry_bench import api
    from geometry_bench.report.outcomes import comparison_code, warnings_of
    from geometry_bench.report.summary import counts_line

    judged = api.compare(api.load(new), api.load(old))
    typer.echo(judged.table())
    typer.echo(f"\n{counts_line(judged.judgements)}")
    for line in warnings_of(judged.judgements):
        typer.echo(f"warning: {line}")
    raise typer.Exit(comparison_code(judged.judgements))


_Baselines = Annotated[
    Path | None,
    typer.Option("--baselines", help="Folder of your own baselines, beside the bundled ones.", metavar="DIR"),
]


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
