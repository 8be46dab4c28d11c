"""One page: a template and what fills it. Templates escape all text that they are given."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from geometry_bench.records.judgement import Judgement
from geometry_bench.report.figures import Row, Scope, drawn
from geometry_bench.report.figures.model import has_altair
from geometry_bench.report.site import places, shown


@dataclass(frozen=True)
class Page:
    """A page at a place within the site; ``section`` is the part of the site that it belongs to."""

    place: str
    template: str
    title: str
    section: str
    fields: Mapping[str, Any]

    def html(self) -> str:
        """The page as HTML."""
        up = "../" * self.place.count("/")
        text: str = (
            _environment()
            .get_template(self.template)
            .render(page=self, up=up, to=lambda place: up + place, **self.fields)
        )
        return text.rstrip("\n") + "\n"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("geometry_bench.report.site"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.globals |= {"places": places, "shown": shown}
    environment.filters |= {"inert": inert, "number": shown.number, "short": shown.short}
    environment.globals["parts"] = environment.get_template("parts.html").module
    return environment


def inert(data: Any) -> Markup:
    """JSON that stands in a ``<script type="application/json">``: nothing in it ends the element or begins another."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


@dataclass(frozen=True)
class Drawing:
    """A figure on a page: its kind, and the rows that it draws, packed."""

    name: str
    title: str
    caption: str
    rows: Mapping[str, Any]


def drawings(judged: Sequence[Judgement], scope: Scope) -> list[Drawing]:
    """The figures of a scope that have something to draw; none where the library for them is not installed."""
    if not has_altair():
        return []
    return [Drawing(figure.name, figure.title, figure.caption, packed(rows)) for figure, rows in drawn(judged, scope)]


def packed(rows: Sequence[Row]) -> dict[str, Any]:
    """Rows by column, since many share most of what they say: the values of each column once, and which one each row has.

    Numbers keep six digits, which no figure shows. ``figure.js`` unpacks them; -1 stands for a field that a row lacks.
    """
    columns: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values: dict[Any, int] = {}
        places = [values.setdefault(_kept(row[name]), len(values)) if name in row else -1 for row in rows]
        columns[name] = {"values": [value for _, value in values], "places": places}
    return {"count": len(rows), "columns": columns}


def _kept(value: float | int | str | bool | None) -> tuple[str, float | int | str | bool | None]:
    """A value with its type, by which 1, 1.0 and true are told apart."""
    kept = float(f"{value:.6g}") if isinstance(value, float) else value
    return type(kept).__name__, kept
