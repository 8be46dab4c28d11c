"""What a source prints: tables, and single values in sentences, right or not."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import model_validator

from geometry_bench.published.subject import Finite, Frozen


def agrees(printed: float, value: float, decimals: int = 2) -> bool:
    """Whether ``value`` rounds to ``printed``; a value on the very edge may be rounded either way."""
    return abs(printed - value) <= 0.5 * 10.0**-decimals + 1e-9


class Row(Frozen):
    """One row: a subject, which of its variants, the alignment method named there, and what is printed.

    ``values`` are given column by column; they are None where the table itself is all that the source published, so that
    the subject's values and curves are its entries.
    """

    subject: str
    variant: str | None = None
    alignment: str | None = None
    values: tuple[Finite, ...] | None = None


class PublishedTable(Frozen):
    """A table as the source prints it, rows in its order; a column is the name of a value or of a curve.

    Where ``under`` is given, an entry's full name is ``under/variant/column``. ``caption`` and ``section`` say which
    projection the caption and the section around it name; ``extends`` is the table whose rows this one repeats.
    """

    where: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    under: str | None = None
    caption: str | None = None
    section: str | None = None
    extends: str | None = None
    training: str | None = None

    def name(self, row: Row, column: str) -> str:
        """The full name of an entry."""
        return "/".join(part for part in (self.under, row.variant, column) if part is not None)

    def printed(self, row: Row) -> Mapping[str, float]:
        """The printed values of a row by full name; empty where the entries are the subject's own values."""
        names = [self.name(row, column) for column in self.columns]
        return dict(zip(names, row.values, strict=True)) if row.values is not None else {}

    def value(self, subject: str, name: str) -> float | None:
        """The value printed for a subject under a name, or None where the table has no such row or column."""
        return next((self.printed(row).get(name) for row in self.rows if row.subject == subject), None)

    @model_validator(mode="after")
    def _rectangular(self) -> PublishedTable:
        for row in self.rows:
            if row.values is not None and len(row.values) != len(self.columns):
                raise ValueError(f"row {row.subject!r} has {len(row.values)} values for {len(self.columns)} columns")
        places = [(row.subject, row.variant) for row in self.rows]
        if len(set(places)) != len(places):
            raise ValueError(f"two rows of one subject and variant in the table of {self.where}")
        return self


class PrintedValue(Frozen):
    """One value in a sentence of the source; ``subject`` is None for a value of no single model."""

    subject: str | None
    name: str
    value: Finite
    where: str
