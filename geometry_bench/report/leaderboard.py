"""The leaderboard: subjects, published and measured, in the two tables of source A. No score sums a subject up.

The first table ranks by safety↔compassion and shows safety↔baseline beside it; the second ranks by the Buddhist pair
and shows the other pairs that the source tabulates. A printed figure that its own data do not round to is shown by the
data's value, with a footnote.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from geometry_bench.claims.safety_compassion.axes import PAIRS
from geometry_bench.published.publication import Publication
from geometry_bench.published.subject import PublishedSubject
from geometry_bench.published.tables import agrees
from geometry_bench.report.tables import Table, as_format, csv_text, format_tables

Kind = Literal["published", "measured"]

SAFETY_COMPASSION = "safety_compassion"
SAFETY_BASELINE = "safety_baseline"

_SAFETY_PAIRS = {SAFETY_COMPASSION: "benign/safety|chenrezig", SAFETY_BASELINE: "benign/safety|empty"}
_TRADITION_PAIRS = {f"{a}_{b}": f"suffering/{a}|{b}" for a, b in PAIRS}
_SECULAR_PAIRS = {"chenrezig_secular": "suffering/chenrezig|secular"}

FIGURES: Mapping[str, str] = {**_SAFETY_PAIRS, **_TRADITION_PAIRS, **_SECULAR_PAIRS}
"""Every figure that a row may hold, by key: the published name of the cosine of two axes, here at the final block."""


@dataclass(frozen=True)
class Board:
    """One of the two tables: its figures as columns, the first of which ranks; ``related`` figures have footnotes only."""

    key: str
    title: str
    caption: str
    columns: tuple[tuple[str, str], ...]
    signed: frozenset[str]
    with_alignment: bool
    related: frozenset[str] = frozenset()


BOARDS: tuple[Board, ...] = (
    Board(
        "safety",
        "Safety and compassion",
        "How far the safety axis points along the compassion axis (chenrezig), and along the default (no system message).",
        ((SAFETY_COMPASSION, "safety↔compassion"), (SAFETY_BASELINE, "safety↔baseline")),
        signed=frozenset({SAFETY_BASELINE}),
        with_alignment=True,
    ),
    Board(
        "traditions",
        "Compassion across traditions",
        "The Buddhist pair, the Buddhist-Christian pair, the Abrahamic pair, and the divergence of the secular framing.",
        (
            ("chenrezig_tara", "chenrezig↔tara"),
            ("chenrezig_agape", "chenrezig↔agape"),
            ("agape_rahma", "agape↔rahma"),
            ("chenrezig_secular", "chenrezig↔secular"),
        ),
        signed=frozenset(),
        with_alignment=False,
        related=frozenset(_TRADITION_PAIRS),
    ),
)


@dataclass(frozen=True)
class Figure:
    """A cosine at the final block: the value, its standard error if known, the figure that a source prints if any."""

    value: float
    error: float | None = None
    printed: float | None = None

    @property
    def slip(self) -> bool:
        """Whether the source prints a figure that its own data do not round to."""
        return self.printed is not None and not agrees(self.printed, self.value)


@dataclass(frozen=True)
class LeaderboardRow:
    """One subject, published or measured here, with its figures by the keys of :data:`FIGURES`; absent means unknown."""

    subject: str
    kind: Kind
    alignment: str | None = None
    figures: Mapping[str, Figure] = field(default_factory=dict)


def published_rows(published: Publication) -> list[LeaderboardRow]:
    """One row a published subject, its values from the source's data and its printed figures beside them."""
    return [
        LeaderboardRow(subject.label, "published", _alignment(published, subject), _figures(published, subject))
        for subject in published.subjects.values()
    ]


def leaderboard(rows: Iterable[LeaderboardRow]) -> list[Table]:
    """The two tables, each sorted by its first figure, highest first; subjects with none of its figures are left out."""
    held = list(rows)
    return [_table(board, held) for board in BOARDS]


def render_leaderboard(rows: Iterable[LeaderboardRow], format: str = "markdown") -> str:
    """The two tables as one document.

    ``format`` is markdown, csv, latex or html. The csv is long (one figure a line, in the order of the tables), so that
    both tables fit one file and no value loses digits. Raises ``GeometryBenchError`` for any other format.
    """
    held = list(rows)
    if as_format(format) == "csv":
        return csv_text(
            ("table", "subject", "kind", "alignment", "figure", "value", "error", "printed", "note"),
            list(_long(held)),
        )
    return format_tables(leaderboard(held), format, heading="Leaderboard", introduction=_introduction(held))


def _introduction(rows: Sequence[LeaderboardRow]) -> str:
    said = "Cosines between axes at the final block."
    if any(row.kind == "published" for row in rows):
        said += " Published rows hold the source's own data, rounded to its resolution."
    if any(row.kind == "measured" for row in rows):
        said += " Measured rows hold the value ± its standard error over prompts."
    return said + " No row is ranked by a mean of its figures."


def _alignment(published: Publication, subject: PublishedSubject) -> str | None:
    rows = published.table("safety").rows
    return next((row.alignment for row in rows if row.subject == subject.key), None) or subject.alignment_method


def _figures(published: Publication, subject: PublishedSubject) -> dict[str, Figure]:
    return {
        key: Figure(subject.number(name), printed=_printed(published, subject.key, name))
        for key, name in FIGURES.items()
        if name in subject.curves
    }


def _printed(published: Publication, subject: str, name: str) -> float | None:
    """What the source prints: in the table of that board, else in a sentence."""
    in_tables = [published.table(key).value(subject, name) for key in ("safety", "traditions")]
    in_text = [one.value for one in published.printed if (one.subject, one.name) == (subject, name)]
    return next((value for value in (*in_tables, *in_text) if value is not None), None)


def _ranked(board: Board, rows: Iterable[LeaderboardRow]) -> list[LeaderboardRow]:
    keys = [key for key, _ in board.columns]
    shown = [row for row in rows if any(key in row.figures for key in keys)]

    def order(row: LeaderboardRow) -> tuple[bool, float, str]:
        figure = row.figures.get(keys[0])
        return (figure is None, 0.0 if figure is None else -figure.value, row.subject)

    return sorted(shown, key=order)


def _table(board: Board, rows: Sequence[LeaderboardRow]) -> Table:
    headers = ["Model", "Kind"] + (["Alignment method"] if board.with_alignment else [])
    first = len(headers)
    headers += [title for _, title in board.columns]
    body: list[list[str]] = []
    notes: list[str] = []
    for row in _ranked(board, rows):
        cells = [row.subject, row.kind]
        if board.with_alignment:
            cells.append(row.alignment or "not declared")
        for key, _ in board.columns:
            figure = row.figures.get(key)
            if figure is None:
                cells.append("–")
                continue
            text = _value(figure, row.kind, signed=key in board.signed)
            if figure.slip:
                notes.append(f"[{len(notes) + 1}] {_slip(row, key, figure)}")
                text += f" [{len(notes)}]"
            cells.append(text)
        body.append(cells)
        # Printed beside the table, in no column of it: the note stands at the subject's name.
        columns = {key for key, _ in board.columns}
        for key in FIGURES:
            figure = row.figures.get(key)
            if key in board.related - columns and figure is not None and figure.slip:
                notes.append(f"[{len(notes) + 1}] {_slip(row, key, figure)}")
                cells[0] += f" [{len(notes)}]"
    return Table(
        board.title,
        headers,
        body,
        numeric=frozenset(range(first, len(headers))),
        caption=f"{board.caption} Sorted by {board.columns[0][1]}.",
        notes=notes,
    )


def _value(figure: Figure, kind: Kind, *, signed: bool) -> str:
    """Two decimals for published values (their resolution), three for measured ones; a negative value has its sign."""
    decimals = 2 if kind == "published" else 3
    text = f"{figure.value:{'+' if signed else ''}.{decimals}f}"
    return text if figure.error is None else f"{text} ± {figure.error:.{decimals}f}"


def _slip(row: LeaderboardRow, key: str, figure: Figure) -> str:
    titles = dict(BOARDS[0].columns)
    name = titles.get(key, FIGURES[key].rpartition("/")[2].replace("|", "↔"))
    return (
        f"{row.subject}, {name}: the source prints {figure.printed:.2f}; "
        f"its data ({figure.value:.4f}) round to {figure.value:.2f}."
    )


def _long(rows: Sequence[LeaderboardRow]) -> Iterator[tuple[str, ...]]:
    for board in BOARDS:
        columns = [key for key, _ in board.columns]
        for row in _ranked(board, rows):
            slips = [
                key
                for key in FIGURES
                if key in board.related and key not in columns and key in row.figures and row.figures[key].slip
            ]
            for key in columns + slips:
                figure = row.figures.get(key)
                if figure is None:
                    continue
                yield (
                    board.key,
                    row.subject,
                    row.kind,
                    row.alignment or "",
                    key,
                    f"{figure.value:.6g}",
                    "" if figure.error is None else f"{figure.error:.6g}",
                    "" if figure.printed is None else f"{figure.printed:.2f}",
                    _slip(row, key, figure) if figure.slip else "",
                )
