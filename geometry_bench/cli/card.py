"""``geometry-bench card``: a model card's part on geometric claims."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geometry_bench.checked import did_you_mean
from geometry_bench.errors import GeometryBenchError

if TYPE_CHECKING:
    from geometry_bench.records.baselines import BaselineStore
    from geometry_bench.records.measurement import Measurement


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("card")(card)


def card(
    subject: Annotated[str, typer.Argument(help="Subject as results name it, with @REVISION where there are several.")],
    results: Annotated[
        list[Path] | None,
        typer.Option(help="Results folder of a run; repeatable. Without it, the stored baselines.", metavar="DIR"),
    ] = None,
    baselines: Annotated[
        Path | None, typer.Option(help="Folder of your own baselines, beside the bundled ones.", metavar="DIR")
    ] = None,
    settings: Annotated[
        str | None, typer.Option(help="Which of several dtypes and kernels: float32-sdpa.", metavar="SETTINGS")
    ] = None,
    claim: Annotated[
        list[str] | None,
        typer.Option(help="Only claims with this id, or that match this pattern (safety.*); repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File for the whole card, with metadata.", metavar="FILE")] = None,
    into: Annotated[
        Path | None, typer.Option(help="README.md to put it into; all else there stays as it is.", metavar="FILE")
    ] = None,
) -> None:
    """Print a model card's part: the Hub's model-index metadata, and in markdown what fails, what holds, how to repeat it.

    Example: geometry-bench card ORG/NAME --results results --into README.md
    """
    from geometry_bench.judging import StoredBaselines, judge_run
    from geometry_bench.records.baselines import BaselineStore
    from geometry_bench.report.readme import new_readme, with_card
    from geometry_bench.run.request import chosen_claims
    from geometry_bench.storage import write_atomically

    if out is not None and into is not None:
        raise GeometryBenchError("--out writes a card of its own and --into adds to one: give one of them.")
    store = BaselineStore.beside(baselines)
    wanted = chosen_claims(tuple(claim or ()))
    chosen = [one for one in _chosen(subject, settings, results, store) if one.claim in wanted]
    if not chosen:
        raise GeometryBenchError(f"None of the claims asked for was measured on {subject}.")
    judged = judge_run(chosen, StoredBaselines(store) if results else None)
    text = new_readme(judged) if into is None else with_card(_read(into), judged)
    if (file := out or into) is None:
        typer.echo(text)
    else:
        write_atomically(file, text)
        typer.echo(f"written: {file}")


def _read(readme: Path) -> str:
    try:
        return readme.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise GeometryBenchError(
            f"{readme} cannot be read ({reason}): name a README.md, or write a new one with --out."
        ) from None


def _chosen(subject: str, settings: str | None, results: list[Path] | None, store: BaselineStore) -> list[Measurement]:
    """The measurements of one subject, revision and settings.

    Raises:
        GeometryBenchError: there are none, or of several.
    """
    from geometry_bench.records.baselines import revision_name
    from geometry_bench.records.reading import one_each, read_kept

    wanted, _, revision = subject.partition("@")
    if results:
        found = [one.measurement for one in one_each(kept for folder in results for kept in read_kept(folder))]
    else:
        found = [one for stored in store.all() for one in stored.baseline.measurements()]
    named = [one for one in found if wanted in (one.subject.id, one.subject.name)]
    if not named:
        names = list(dict.fromkeys(one.subject.id for one in found))
        raise GeometryBenchError(
            f"Nothing was measured on {wanted}{did_you_mean(wanted, names)}: there are {', '.join(names) or 'none'}."
        )
    named = [one for one in named if revision_name(one.subject.revision).startswith(revision.replace(":", "-"))]
    named = [one for one in named if settings in (None, one.subject.settings)]
    kinds = dict.fromkeys((revision_name(one.subject.revision), one.subject.settings) for one in named)
    if len(kinds) != 1:
        known = ", ".join(f"{wanted}@{at} --settings {how}" for at, how in kinds) or "none"
        raise GeometryBenchError(f"{subject} is to be of one revision and one kind of settings: there are {known}.")
    return named
