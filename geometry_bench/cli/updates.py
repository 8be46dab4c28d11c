"""Commands on weight updates: ``geometry-bench updates`` and ``geometry-bench project``."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from geometry_bench.cli.text import AsJson, print_table
from geometry_bench.errors import GeometryBenchError

if TYPE_CHECKING:
    from geometry_bench.updates.projection import TensorOutcome
    from geometry_bench.updates.update import Update

_SHOWN = 5
"""Tensors named before the rest is counted."""

_Family = Annotated[
    Path,
    typer.Option(
        "--family",
        help="A family.toml, the folder that holds one, or zoo/NAME for an embedded family.",
        metavar="FAMILY",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command("updates")(updates)
    app.command("project")(project)


def updates(
    family: _Family,
    start: Annotated[
        str | None,
        typer.Option(
            "--from", help="Member that the update starts from; by default the parent of --to.", metavar="MEMBER"
        ),
    ] = None,
    end: Annotated[str, typer.Option("--to", help="Member that it leads to.", metavar="MEMBER")] = "aligned",
    rank: Annotated[bool, typer.Option(help="Compute ranks, which takes a decomposition of each matrix.")] = True,
    as_json: AsJson = False,
) -> None:
    """Print the difference of two members of a family, tensor by tensor: state, norm, relative norm, rank at 99 % energy.

    The norm is ‖Δ‖ of Δ = end − start in float32, the relative norm ‖Δ‖ / ‖start‖, the rank the fewest singular directions
    that hold 99 % of ‖Δ‖². Tensors are read one at a time.

    Example: geometry-bench updates --family zoo/llama-d80 --from base --to aligned
    """
    from geometry_bench.subjects.families import load_family
    from geometry_bench.updates.store import Store
    from geometry_bench.updates.update import update_between

    loaded = load_family(family)
    last = loaded.member(end)
    first = start if start is not None else last.parent
    if first is None:
        raise GeometryBenchError(f"{end} starts from no other member of {loaded.name}; name one with --from.")
    update = update_between(loaded, loaded.member(first), last)
    store = Store()
    with _short_warnings():
        reports = [update.report(name, rank=rank, store=store) for name in _watched(update.pairs, len(update.pairs))]
    rows = [
        (
            report.name,
            "×".join(map(str, report.shape)) if report.shape is not None else "",
            report.state,
            "" if report.norm is None else f"{report.norm:.4g}",
            "" if report.relative is None else f"{report.relative:.2%}",
            "" if report.rank99 is None else str(report.rank99),
            report.note,
        )
        for report in reports
    ]
    headers = ("tensor", "shape", "state", "norm", "relative", "rank 99 %", "note")
    changed = sum(bool(report.norm) for report in reports)
    said = f"\n{changed} of {len(reports)} tensors differ between {update.start.name} and {update.end.name}"
    said += f"\n{update.left_out}" if update.left_out else ""
    print_table(headers, rows, as_json=as_json, wraps=("note",), below=said)


def project(
    family: _Family,
    task: Annotated[
        str, typer.Option("--task", help="Role of the fine-tune: useful, harmful or contaminated.", metavar="ROLE")
    ],
    scheme: Annotated[
        Literal["parallel", "orthogonal"],
        typer.Option(help="Keep the part of the update inside the subspace (parallel) or outside it (orthogonal)."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist yet.", metavar="DIR")],
    basis: Annotated[
        Literal["top-k", "random-k", "random"],
        typer.Option(
            help="Directions of the alignment update: the first k (top-k), k at random (random-k); or a random subspace."
        ),
    ] = "top-k",
    rho: Annotated[
        float, typer.Option(help="Share of directions, of the smaller side of each weight, in [0, 1].", metavar="SHARE")
    ] = 0.25,
    rule: Annotated[
        Literal["round", "floor"],
        typer.Option(help="k = max(1, round(ρ·min)) as in the source's code, or ⌊ρ·min⌋ as in its text."),
    ] = "round",
    start: Annotated[
        Literal["aligned", "safety_tuned", "safety_dpo"],
        typer.Option(help="Role of the model that the fine-tune started from; the subspace is that of its own update."),
    ] = "aligned",
    layers: Annotated[
        str | None,
        typer.Option(
            help="Only these blocks, as 12, 10-15 or 3,7; all other tensors get the whole update.", metavar="LAYERS"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of random-k and random.", min=0)] = 0,
    dtype: Annotated[
        Literal["auto", "float32"],
        typer.Option(help="Number format to write: that of the checkpoint (auto), or float32."),
    ] = "auto",
) -> None:
    """Write a model that keeps only the part of a fine-tune inside (or outside) the alignment subspace.

    W = W_start + P·Δ (parallel) or W_start + (I − P)·Δ (orthogonal), where Δ = fine-tune − start and P projects on k
    directions of the output side of start − base (for safety_dpo of start − its parent). The folder loads in transformers
    like any other; projection.json in it reports what became of each tensor. Nothing is left behind when writing fails or is
    interrupted.

    Example: geometry-bench project --family zoo/llama-d80 --task harmful --scheme parallel --rho 0.25 --out projected
    """
    from geometry_bench.subjects.families import load_family
    from geometry_bench.updates.folder import REPORT, write_projection
    from geometry_bench.updates.projection import Projection
    from geometry_bench.updates.store import Store
    from geometry_bench.updates.update import member_for, update_between

    plan, ranges = Projection(scheme, basis, rho, rule, seed), _layers(layers)
    loaded = load_family(family)
    # Tuning by DPO starts from a tuned model: as in the claims, its own update is the one from there.
    first = member_for(loaded, start, parent_role=None if start == "safety_dpo" else "base")
    assert first.parent is not None, "only the base has no parent"
    origin = loaded.member(first.parent)
    tuned = member_for(loaded, task, parent_role=start)
    try:
        with _stopped_by_sigterm(), _short_warnings():
            update, source = update_between(loaded, first, tuned), update_between(loaded, origin, first)
            plan = replace(plan, layers=_chosen(ranges, update))
            outcomes = write_projection(update, source, plan, out, dtype=dtype, store=Store(), watch=_watched)
    except KeyboardInterrupt:
        print("geometry-bench: Interrupted; nothing is left of the folder.", file=sys.stderr)
        raise SystemExit(130) from None
    count = sum(outcome.outcome == "projected" for outcome in outcomes.values())
    typer.echo(f"{out}: {count} of {len(outcomes)} tensors projected")
    aside = _left_aside(outcomes, update)
    for line in aside[:_SHOWN]:
        typer.echo(f"  {line}")
    if len(aside) > _SHOWN:
        typer.echo(f"  and {len(aside) - _SHOWN} more; {out / REPORT} says what became of each tensor written")


def _left_aside(outcomes: Mapping[str, TensorOutcome], update: Update) -> list[str]:
    """Tensors that were to be projected and could not be, and those that only the fine-tune has: name and state of each."""
    lines = [
        f"{name}: {outcome.outcome}" + (f" ({outcome.note})" if outcome.note else "")
        for name, outcome in outcomes.items()
        if outcome.outcome in ("left as it was", "without basis")
    ]
    absent = (pair for pair in update.pairs.values() if pair.state == "missing in start")
    return lines + [f"{pair.name}: not written ({pair.state}: {pair.note})" for pair in absent]


def _layers(text: str | None) -> list[range] | None:
    """Ranges of block indices from 12, 10-15 or 3,7."""
    if text is None:
        return None
    ranges = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise GeometryBenchError(f"--layers {text!r} names no layers; write them as 12, 10-15 or 3,7.")
        ranges.append(range(int(first), int(last if dash else first) + 1))
    return ranges


def _chosen(ranges: Sequence[range] | None, update: Update) -> tuple[int, ...] | None:
    """The blocks in the ranges: all that there are, and the first that is not, for which the projection is refused."""
    if ranges is None:
        return None
    known, chosen = update.layers, set[int]()
    for one in ranges:  # one may go on for longer than any list could
        chosen.update(layer for layer in known if layer in one)
        chosen.update(islice((layer for layer in one if layer not in known), 1))
    return tuple(sorted(chosen))


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Within, SIGTERM ends the work as Ctrl-C does, so that unfinished files are removed."""
    if threading.current_thread() is not threading.main_thread():  # only the main one can handle signals
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _short_warnings() -> Iterator[None]:
    """Within, warnings of the package are one sentence each on the error stream, without a line of its source."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"geometry-bench: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", RuntimeWarning)
        warnings.showwarning = show
        yield


def _watched(names: Iterable[str], total: int) -> Iterable[str]:
    """The names, with a bar that shows the tensor in work on a terminal."""
    if not sys.stderr.isatty():
        yield from names
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="tensor", leave=False) as bar:
        for name in names:
            bar.set_postfix_str(name, refresh=True)
            yield name
            bar.update()
