"""Commands on claims and publications: ``list``, ``show``, ``audit``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from tabulate import tabulate

from geometry_bench.cli.text import wrapped

if TYPE_CHECKING:
    from geometry_bench.claims.model import Claim


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command("list")(list_claims)
    app.command("show")(show)
    app.command("audit")(audit)


def list_claims() -> None:
    """List the claims: id, number of cases, needs, forward passes, statement."""
    from geometry_bench.claims.registry import CLAIMS
    from geometry_bench.prompts.pack import load_pack

    pack = load_pack()
    rows = [
        (claim.id, _cases(claim), ", ".join(claim.needs), claim.requires.cost(pack), wrapped(claim.statement, 60))
        for claim in CLAIMS.values()
    ]
    typer.echo(tabulate(rows, ("claim", "cases", "needs", "passes", "statement")))
    typer.echo("\npasses: forward passes of one claim measured alone; claims on one message set share theirs")


def show(claim: Annotated[str, typer.Argument(help="Id of a claim, as `geometry-bench list` prints it.")]) -> None:
    """Print one claim: statement, source, cases, criterion, null, published values."""
    from geometry_bench.claims.registry import find_claim
    from geometry_bench.report.board import published_rows

    found = find_claim(claim)
    version = f"{found.id}, version {found.version}"
    facts = [
        ("claim", version + (" (an open question of the source)" if found.open_question else "")),
        ("statement", wrapped(found.statement, 90)),
        ("source", f"{found.source.letter}: {found.source.citation}, {found.where}"),
        ("measured by", wrapped(" ".join((found.measure.__doc__ or "").split()), 90)),
        ("cases", wrapped(_case_names(found), 90)),
        ("needs", ", ".join(found.needs)),
        ("holds when", str(found.criterion)),
        ("null", wrapped(found.null, 90)),
        ("source's criterion", str(found.published_criterion) if found.published_criterion else "none stated"),
        ("smallest change", f"{found.smallest_change:g}"),
        ("cost", _cost(found)),
    ]
    typer.echo(tabulate(facts, tablefmt="plain"))
    published = published_rows(found)
    if published:
        cases = tuple(dict.fromkeys(key for row in published for key in row.cells))
        rows = [
            (row.subject, *(f"{row.cells[case].value:+.2f}" if case in row.cells else "" for case in cases))
            for row in published
        ]
        typer.echo("\npublished values\n" + tabulate(rows, ("", *cases), disable_numparse=True))


def audit() -> None:
    """Check the sources' statements against the values that they report; no model is needed."""
    from geometry_bench.claims.audit import AUDITED
    from geometry_bench.claims.audit import audit as findings_of
    from geometry_bench.published.load import load_publication

    total = contradicted = 0
    for source in AUDITED:
        publication = load_publication(source)
        findings = findings_of(publication)
        rows = [
            (one.verdict, one.statement, wrapped(one.sentence, 50), wrapped(one.explanation, 60)) for one in findings
        ]
        headers = ("verdict", "statement", "what the source says", "what its values say")
        typer.echo(f"{publication.title}\n{tabulate(rows, headers, tablefmt='grid')}\n")
        total += len(findings)
        contradicted += sum(not one.consistent for one in findings)
    typer.echo(f"{total} statements, {contradicted} contradicted by the source's own values")


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

    if claim.scope in ("family", "publication"):
        return "no forward pass: no model is loaded"
    each = " of each member" if claim.scope == "group" else ""
    return f"{claim.requires.cost(load_pack())} forward passes{each}, shared with other claims on the same prompts"
