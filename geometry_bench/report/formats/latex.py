"""LaTeX: one booktabs table a claim, in characters that plain pdflatex can set."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tabulate import tabulate

from geometry_bench.report.board import Table, headers, texts

_CHARACTERS = {"↔": r"$\leftrightarrow$", "±": r"$\pm$", "−": "$-$", "–": "--", "Δ": r"$\Delta$", "×": r"$\times$"}
_RESERVED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{mark: "\\" + mark for mark in "&%$#_{}"},
}
_NEGATIVE = re.compile(r"(?<![\w.-])-(?=\d)")


def render(tables: Sequence[Table]) -> str:
    """The board as LaTeX."""
    return "\n\n".join(map(_float, tables)) + "\n"


def _float(table: Table) -> str:
    # tabulate escapes what LaTeX reserves in cells.
    body = _set(tabulate(texts(table), headers(table), tablefmt="latex_booktabs", disable_numparse=True))
    caption = _set("".join(_RESERVED.get(mark, mark) for mark in f"{table.claim}: {table.statement}"))
    return "\n".join([r"\begin{table}", r"\centering", body, rf"\caption{{{caption}}}", r"\end{table}"])


def _set(text: str) -> str:
    return "".join(_CHARACTERS.get(mark, mark) for mark in _NEGATIVE.sub("−", text))
