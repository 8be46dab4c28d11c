"""Figures of results in a notebook or a script: ``plot`` and a function for each kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from geometry_bench.api import Result, Results
from geometry_bench.errors import GeometryBenchError
from geometry_bench.records.judgement import Judgement
from geometry_bench.report.figures import FIGURES, Figure, Scope, standing

if TYPE_CHECKING:
    from altair.typing import ChartType


class Plot(Protocol):
    """Draws one kind of figure."""

    def __call__(
        self, results: Results | Result, *, claim: str | None = None, subject: str | None = None, dark: bool = False
    ) -> ChartType:
        """See :func:`plot`."""


def plot(
    results: Results | Result, kind: str, *, claim: str | None = None, subject: str | None = None, dark: bool = False
) -> ChartType:
    """A figure of some results as an altair chart: it shows itself in a notebook and is saved by ``.save("x.svg")``.

    Args:
        results: all results, or one of them.
        kind: a name of ``geometry_bench.report.figures.FIGURES``, such as ``profile``.
        claim: id of the claim, or ``claim[case]``, where the results have several that the figure could draw.
        subject: id of the subject, likewise.
        dark: for a dark page.

    Raises:
        GeometryBenchError: there is no such kind, nothing to draw or several things, or altair is not installed.
    """
    if kind not in FIGURES:
        raise GeometryBenchError(f"There is no figure {kind!r}: there are {', '.join(FIGURES)}.")
    figure = FIGURES[kind]
    judged = [results.judgement] if isinstance(results, Result) else list(results.judgements)
    chosen = [
        one
        for one in judged
        if claim in (None, one.measurement.claim, one.measurement.key) and subject in (None, one.measurement.subject.id)
    ]
    rows = figure.rows(_alike(figure, chosen))
    if not rows:
        raise GeometryBenchError(f"There is nothing to draw as {kind!r} among these results: {figure.title.lower()}.")
    standing_alone = standing(figure, rows, dark=dark)
    from altair import Chart

    chart: ChartType = Chart.from_dict(standing_alone)
    return chart


def _alike(figure: Figure, judged: Sequence[Judgement]) -> Sequence[Judgement]:
    """The judgements of the only thing of the figure's scope that it has something to draw of."""
    groups: dict[tuple[str, ...], list[Judgement]] = {}
    for one in judged:
        groups.setdefault(_group(one, figure.scope), []).append(one)
    drawn = {names: group for names, group in groups.items() if figure.rows(group)}
    if len(drawn) > 1:
        named = " or ".join(" on ".join(names[:-1] or names) for names in list(drawn)[:3])
        raise GeometryBenchError(
            f"{len(drawn)} figures {figure.name!r} can be drawn of these results ({named}{' …' * (len(drawn) > 3)}): choose "
            "one with claim= and subject=."
        )
    return next(iter(drawn.values()), [])


def _group(one: Judgement, scope: Scope) -> tuple[str, ...]:
    measured = one.measurement
    place = (measured.subject.id, measured.subject.revision)
    return {
        "measurement": (measured.key, *place),
        "subject": place,
        "comparison": place,
        "claim": (measured.claim,),
        "board": (),
    }[scope]


def _plotter(kind: str) -> Plot:
    def drawn(
        results: Results | Result, *, claim: str | None = None, subject: str | None = None, dark: bool = False
    ) -> ChartType:
        return plot(results, kind, claim=claim, subject=subject, dark=dark)

    figure = FIGURES[kind]
    drawn.__name__ = drawn.__qualname__ = f"plot_{kind}"
    drawn.__doc__ = f"{figure.title}, as :func:`plot` draws it: of one {figure.scope}.\n\n{figure.caption}"
    return drawn


plot_headline = _plotter("headline")
plot_axes = _plotter("axes")
plot_profile = _plotter("profile")
plot_magnitude = _plotter("magnitude")
plot_auroc = _plotter("auroc")
plot_dose = _plotter("dose")
plot_drift = _plotter("drift")
plot_overlap = _plotter("overlap")
plot_energy = _plotter("energy")
plot_removal = _plotter("removal")
plot_changes = _plotter("changes")
plot_displacement = _plotter("displacement")
plot_trajectory = _plotter("trajectory")
plot_power = _plotter("power")
plot_values = _plotter("values")
plot_curves = _plotter("curves")
