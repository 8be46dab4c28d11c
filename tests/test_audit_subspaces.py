"""The audit of source D: what it finds, and that each finding follows the tables when the tables change."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from geometry_bench.claims.audit import AUDITED_SOURCES, Finding, run_audit
from geometry_bench.claims.safety_subspaces.audit import audit
from geometry_bench.errors import GeometryBenchError
from geometry_bench.published.schema import PublishedTables, parse_figures
from geometry_bench.resources import data_root

Raw = dict[str, Any]
RAW: Raw = json.loads((data_root() / "baselines" / "published" / "safety_subspaces.json").read_text("utf-8"))


def findings(change: Callable[[Raw], None] | None = None) -> dict[str, Finding]:
    raw = copy.deepcopy(RAW)
    if change is not None:
        change(raw)
    published = parse_figures(raw, "changed tables")
    assert isinstance(published, PublishedTables)
    return {finding.statement.id: finding for finding in audit(published)}


STORED = findings()


def rows(raw: Raw, table: str) -> list[Raw]:
    return [row for subject in raw["subjects"].values() for row in subject["rows"] if row["table"] == table]


def entry(subject: str, table: str, basis: str, measure: str, fraction: str, value: float) -> Callable[[Raw], None]:
    def change(raw: Raw) -> None:
        row = next(row for row in raw["subjects"][subject]["rows"] if row["table"] == table)
        row["projections"][basis][measure][fraction] = value

    return change


def _table_2_again_in_5(raw: Raw) -> None:
    for subject in raw["subjects"].values():
        by_table = {row["table"]: row for row in subject["rows"] if row["variant"] == "aligned"}
        if "2" in by_table:
            by_table["5"]["projections"] = copy.deepcopy(by_table["2"]["projections"])
            by_table["5"]["scalars"] |= by_table["2"]["scalars"]


def _other_base(raw: Raw) -> None:
    rows(raw, "5")[0]["scalars"]["base"]["harm"] = 3.3


def _captioned_orthogonal(raw: Raw) -> None:
    raw["tables"]["2"]["caption"] = "orthogonal"


def _top_k_at_the_ceiling(raw: Raw) -> None:
    for row in rows(raw, "4"):
        for measure, ceiling in (("utility", 1.0), ("harm", 5.0)):
            curve = row["projections"]["top_k"][measure]
            curve.update(dict.fromkeys(curve, ceiling))


def _sweeps_turned_round(raw: Raw) -> None:
    for row in rows(raw, "5"):
        for sweep in row["projections"].values():
            for measure, curve in sweep.items():
                sweep[measure] = dict(zip(curve, reversed(curve.values()), strict=True))


def _harmful(raw: Raw) -> None:
    raw["training_examples"]["harmful"] = 5000


def _text(figure: str, value: float) -> Callable[[Raw], None]:
    return lambda raw: raw["subjects"]["qwen-2.5-3b"]["figures"].update({figure: value})


FLIPS: dict[str, Callable[[Raw], None]] = {
    "tables.4_extends_1": entry("llama-3.2-1b", "4", "random", "harm", "0.5", 3.35),
    "tables.5_extends_2": _table_2_again_in_5,
    "tables.same_start": _other_base,
    "tables.2_orthogonal": _captioned_orthogonal,
    "parallel.top_k_consistently": _top_k_at_the_ceiling,
    "parallel.together": entry("qwen-2.5-3b", "4", "top_k", "harm", "0.99", 1.40),
    "orthogonal.removal_lowers_both": _sweeps_turned_round,
    "orthogonal.no_selective_removal": entry("qwen-2.5-7b", "5", "top_k", "utility", "0.5", 0.80),
    "training.contamination": _harmful,
    "general_ability.mmlu": _text("mmlu_high", 0.66),
    "over_refusal.xstest": _text("over_refusal_high", 0.09),
}


@pytest.mark.parametrize("key", list(STORED))
def test_every_finding_flips_with_the_tables(key: str) -> None:
    changed = findings(FLIPS[key])[key]
    assert changed.consistent is not STORED[key].consistent, changed.explanation
    assert changed.explanation != STORED[key].explanation


@pytest.mark.parametrize(
    ("key", "fragments"),
    [
        ("tables.5_extends_2", ("10 of 102", "Qwen-2.5 1.5B Top-K utility at ρ=0.5 0.55 against 0.52")),
        ("tables.2_orthogonal", ("section on orthogonal", "caption says parallel", "9 of 9")),
        ("parallel.top_k_consistently", ("Of 70", "in 51", "below it in 7", "Llama-3.2 1B (safety-tuned) utility")),
        ("orthogonal.removal_lowers_both", ("fall in 0", "rise in 21 of 21")),
        ("training.contamination", ("4,000 of 24,000", "16.7%", "20%")),
    ],
)
def test_known_contradictions_are_found_with_their_numbers(key: str, fragments: tuple[str, ...]) -> None:
    assert STORED[key].verdict == "contradicted"
    for fragment in fragments:
        assert fragment in STORED[key].explanation


def test_one_exception_is_enough_and_a_tie_is_none() -> None:
    def tie(raw: Raw) -> None:
        _top_k_at_the_ceiling(raw)
        entry("qwen-2.5-7b", "4", "random", "harm", "0.5", 5.0)(raw)

    def exception(raw: Raw) -> None:
        tie(raw)
        entry("qwen-2.5-7b", "4", "top_k", "harm", "0.5", 4.99)(raw)

    assert findings(tie)["parallel.top_k_consistently"].consistent
    found = findings(exception)["parallel.top_k_consistently"]
    assert not found.consistent
    assert found.found["exceptions"] == ["Qwen-2.5 7B harm at ρ=0.5 (4.99, Random 5.00)"]


def test_a_row_missing_in_the_full_table_is_a_contradiction() -> None:
    def drop(raw: Raw) -> None:
        subject = raw["subjects"]["llama-3.2-1b"]
        subject["rows"] = [row for row in subject["rows"] if (row["table"], row["variant"]) != ("4", "aligned")]

    found = findings(drop)["tables.4_extends_1"]
    assert not found.consistent
    assert "Llama-3.2 1B is absent from table 4" in found.explanation


def test_missing_figures_are_an_error() -> None:
    def drop(raw: Raw) -> None:
        for subject in raw["subjects"].values():
            subject["figures"] = {}

    with pytest.raises(GeometryBenchError, match="'mmlu' to check"):
        findings(drop)


def test_statements_of_all_sources_have_names_of_their_own_and_say_where_they_stand() -> None:
    found = run_audit()
    assert {finding.statement.source for finding in found} == set(AUDITED_SOURCES)
    assert len({finding.statement.id for finding in found}) == len(found)
    for finding in found:
        assert finding.statement.sentence.endswith(".")
        assert len(finding.statement.where) > 10
        assert finding.explanation.endswith(".")
