"""Commands on claims and publications: ``list``, ``show``, ``audit``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from geometry_bench.cli.text import AsJson, print_table

if TYPE_CHECKING:
    from geometry_bench.claims.model import Claim


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command("list")(list_claims)
    app.command("show")(show)
    app.command("audit")(audit)


def list_claims(as_json: AsJson = False) -> None:
    """List the claims: id, number of cases, needs, forward passes, statement."""
    from geometry_bench.claims.registry import CLAIMS
    from geometry_bench.prompts.pack import load_pack

    pack = load_pack()
    rows = [
        (claim.id, _cases(claim), ", ".join(claim.needs), claim.requires.cost(pack), claim.statement)
        for claim in CLAIMS.values()
    ]
    headers = ("claim", "cases", "needs", "passes", "statement")
    note = "\npasses: forward passes of one claim measured alone;\nclaims on one message set share theirs"
    print_table(headers, rows, as_json=as_json, wraps=("statement",), below=note)


def show(
    claim: Annotated[str, typer.Argument(help="Id of a claim, as `geometry-bench list` prints it.")],
    as_json: AsJson = False,
) -> None:
    """Print one claim: statement, source, cases, criterion, null, published values."""
    from geometry_bench.claims.registry import find_claim
    from geometry_bench.report.board import published_rows

    found = find_claim(claim)
    version = f"{found.id}, version {found.version}"
    facts = [
        ("claim", version + (" (an open question of the source)" if found.open_question else "")),
        ("statement", found.statement),
        ("source", f"{found.source.letter}: {found.source.citation}, {found.where}"),
        ("measured by", " ".join((found.measure.__doc__ or "").split())),
        ("cases", _case_names(found)),
        ("needs", ", ".join(found.needs)),
        ("holds when", str(found.criterion)),
        ("null", found.null),
        ("source's criterion", str(found.published_criterion) if found.published_criterion else "none stated"),
        ("smallest change", f"{found.smallest_change:g}"),
        ("cost", _cost(found)),
    ]
    published = published_rows(found)
    if as_json:
        values = {row.subject: {case: cell.value for case, cell in row.cells.items()} for row in published}
        typer.echo(json.dumps(dict(facts) | {"published values": values}, indent=1, ensure_ascii=False))
        return
    print_table(("", " "), facts, wraps=(" ",), style="plain")
    if published:
        cases = tuple(dict.fromkeys(key for row in published for key in row.cells))
        rows = [
            (row.subject, *(f"{row.cells[case].value:+.2f}" if case in row.cells else "" for case in cases))
            for row in published
        ]
        print_table(("", *cases), rows, above="\npublished values")


def audit(as_json: AsJson = False) -> None:
    """Check the sources' statements against the values that they report; no model is needed."""
    from geometry_bench.claims.audit import AUDITED
    from geometry_bench.claims.audit import audit as findings_of
    from geometry_bench.published.load import load_publication

    headers = ("verdict", "statement", "what the source says", "what its values say")
    found = {source: findings_of(load_publication(source)) for source in AUDITED}
    rows = {
        source: [(one.verdict, one.statement, one.sentence, one.explanation) for one in findings]
        for source, findings in found.items()
    }
    if as_json:
        every = [(source, *row) for source, of_source in rows.items() for row in of_source]
        print_table(("source", *headers), every, as_json=True)
        return
    for source, of_source in rows.items():
        print_table(
            headers, of_source, wraps=headers[1:], style="grid", above=load_publication(source).title, below="\n"
        )
    verdicts = [one.consistent for findings in found.values() for one in findings]
    typer.echo(f"{len(verdicts)} statements, {verdicts.count(False)} contradicted by the source's own values")


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
