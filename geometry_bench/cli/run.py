"""``geometry-bench run``: the same plan, table and exit codes as ``pytest benchmarks``, without pytest."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geometry_bench.options import OPTIONS, Option

if TYPE_CHECKING:
    from geometry_bench.run.bench import Bench
    from geometry_bench.run.plan import Task

INTERRUPTED = 130


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("run")(_with_shared_options())


def measure(claim: Sequence[str], verbose: bool, junitxml: Path | None, values: dict[str, Any]) -> int:
    """Measure what the options ask for, print the table of verdicts and return the exit code."""
    from dataclasses import replace

    from geometry_bench.asked import output_of, request_of
    from geometry_bench.report.junit import junit
    from geometry_bench.report.outcomes import NOT_ANSWERED
    from geometry_bench.report.terminal import folded, is_wanted, painted
    from geometry_bench.run.bench import Bench
    from geometry_bench.run.describe import closing, opening
    from geometry_bench.run.request import chosen_claims
    from geometry_bench.storage import write_atomically

    request = request_of(values)
    bench = Bench(replace(request, claims=chosen_claims(tuple(claim), request.claims)), output_of(values))
    if not bench.plan.tasks:
        for sentence in dict.fromkeys(one.sentence for one in bench.plan.missing):
            print(f"geometry-bench: nothing was measured: {sentence}", file=sys.stderr)
        return NOT_ANSWERED

    def say(line: str) -> None:
        typer.echo(painted(line) if is_wanted() else line)  # which takes colours out where there is no terminal

    for setting in opening(bench):
        for line in folded(setting):
            typer.echo(line)
    faults, whole = _measured(bench, bench.plan.tasks)
    judged = bench.judgements()
    for one in judged:
        if (shown := bench.outcome(one)).kind == "failed":
            for line in folded(f"FAILED {shown.message}"):
                say(line)
    updating = bench.update_baselines if bench.output.update else list
    written = updating() if whole else None
    bench.write_report(judged)
    if junitxml is not None:
        write_atomically(junitxml, junit(judged, bench.output.asked))
    typer.echo("")
    for line in closing(bench, judged, written, whole=verbose):
        say(line)
    if not whole:
        return INTERRUPTED
    return bench.exit_code(judged, faults)


def _measured(bench: Bench, tasks: Sequence[Task]) -> tuple[int, bool]:
    """Measure all tasks; how many ended in bad input, and whether the run came to its end."""
    from tqdm import tqdm

    from geometry_bench.run.execute import Failure, SubjectFailedError, execute

    faults = 0
    bar = tqdm(total=len(tasks), unit="case", file=sys.stderr, disable=None, leave=False)
    try:
        for one in execute(bench.session, tasks):
            bar.update()
            if isinstance(one, Failure):
                faults += 1
                if not isinstance(one.error, SubjectFailedError):
                    print(f"geometry-bench: {one.error}", file=sys.stderr)
            else:
                bench.write(one, resumed=bench.session.is_resumed(one))
    except KeyboardInterrupt:
        hint = "go on with --resume" if bench.results is not None else "--results DIR would have kept them"
        done = len(bench.measurements)
        print(f"geometry-bench: interrupted after {done} of {len(tasks)} cases; {hint}.", file=sys.stderr)
        return faults, False
    finally:
        bar.close()
    return faults, True


def _with_shared_options() -> Any:
    """The command with the plugin's options, so that each is declared once, in ``options.py``."""
    claims = typer.Option(
        "--claim", metavar="CLAIM", help="Only claims with this id, or that match this pattern (safety.*); repeatable."
    )
    verbose = typer.Option("--verbose", "-v", help="Print a table for each subject, however many there are.")
    junitxml = typer.Option("--junitxml", metavar="FILE", help="JUnit XML of the cases, for CI systems that show it.")
    parameters = [
        _keyword("claim", Annotated[list[str] | None, claims], None),
        _keyword("verbose", Annotated[bool, verbose], False),
        _keyword("junitxml", Annotated[Path | None, junitxml], None),
        *map(_parameter, OPTIONS),
    ]

    def command(claim: list[str] | None, verbose: bool, junitxml: Path | None, **values: Any) -> None:
        """Measure claims on models, groups and families and print the table of verdicts, as `pytest benchmarks` does.

        Exit codes: 0 nothing fails, 1 a claim fails or something has moved, 2 bad input, or nothing measured or compared.
        With --against the comparison alone decides: 0 the same, 1 moved, 2 not compared, or too few prompts to tell.

        Example: geometry-bench run --model org/name --results results --resume
        """
        parsed = {option.dest: option.parsed(values[option.dest]) for option in OPTIONS}
        raise typer.Exit(measure(claim or (), verbose, junitxml, parsed))

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _parameter(option: Option) -> inspect.Parameter:
    kinds: dict[str, Any] = {"value": str | None, "repeated": list[str] | None, "flag": bool}
    declared = typer.Option(option.flag, help=option.help, metavar=option.metavar)
    return _keyword(option.dest, Annotated[kinds[option.kind], declared], False if option.kind == "flag" else None)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
