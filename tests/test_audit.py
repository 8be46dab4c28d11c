"""The audit of source A: what it finds, and that each finding follows the data when the data change."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from geometry_bench.claims.audit import Finding, run_audit
from geometry_bench.claims.safety_compassion.audit import audit, statements
from geometry_bench.errors import GeometryBenchError
from geometry_bench.published.schema import load_published, parse_published
from geometry_bench.resources import data_root

Raw = dict[str, Any]
RAW: Raw = json.loads((data_root() / "baselines" / "published" / "safety_compassion.json").read_text(encoding="utf-8"))


def findings(change: Callable[[Raw], None] | None = None) -> dict[str, Finding]:
    raw = copy.deepcopy(RAW)
    if change is not None:
        change(raw)
    return {finding.statement.id: finding for finding in audit(parse_published(raw, "changed data"))}


STORED = findings()


def cosine(subject: str, message_set: str, pair: str, value: float) -> Callable[[Raw], None]:
    def change(raw: Raw) -> None:
        model = raw["subjects"][subject]
        model["cosines"][message_set][pair][str(model["layers"] - 1)] = value

    return change


def together(*changes: Callable[[Raw], None]) -> Callable[[Raw], None]:
    def change(raw: Raw) -> None:
        for one in changes:
            one(raw)

    return change


def test_run_audit_reads_the_stored_figures() -> None:
    of_this_source = run_audit(["safety_compassion"])
    assert [(f.statement.id, f.consistent) for f in of_this_source] == [(k, f.consistent) for k, f in STORED.items()]
    assert [f.statement.id for f in run_audit()][: len(STORED)] == list(STORED)
    with pytest.raises(GeometryBenchError, match="no audit of 'gossip'"):
        run_audit(["gossip"])


def test_known_contradictions_are_found_with_their_numbers() -> None:
    expected = {
        "compassion.range": ("0.3379", "0.9141", "0.43"),
        "compassion.phi4_both": ("0.8086", "0.8047"),
        "table.traditions": ("KE v9 chenrezig↔agape", "+0.81", "+0.8047"),
        "finetune.deltas": ("chenrezig↔agape stated +0.04", "+0.0313"),
        "table.safety": ("Gemma", "-0.31", "-0.3047"),
        "compassion.buddhist_pair_rule": ("Llama 3.1 8B", "Phi-4", "4 of 6"),
        "safety.association_is_of_the_model": ("0.76", "0.11", "L-2"),
        "setup.suffering_messages": ("says 6", "used 8"),
    }
    for key, fragments in expected.items():
        assert not STORED[key].consistent, key
        assert STORED[key].verdict == "contradicted"
        for fragment in fragments:
            assert fragment in STORED[key].explanation


def test_true_sentences_are_found_true() -> None:
    for key in (
        "setup.analysis_layers",
        "safety.compassion_range",
        "safety.strict_range",
        "safety.nonnegative_group",
        "safety.negative_group",
        "safety.mistral_between",
        "safety.ke_most_negative",
        "safety.association_final_block",
        "compassion.all_positive",
        "compassion.deepseek_tightest",
        "compassion.yi_highest",
        "finetune.secular_gap",
        "finetune.safety_shift",
        "companion.norms_grow",
    ):
        assert STORED[key].consistent, STORED[key].explanation


def _low_and_high(raw: Raw) -> None:
    """Every tradition cosine into 0.43..0.90, both ends met."""
    for model in raw["subjects"].values():
        for pair, profile in model["cosines"]["suffering"].items():
            if "empty" not in pair and "secular" not in pair:
                last = str(model["layers"] - 1)
                profile[last] = min(max(profile[last], 0.43), 0.90)


def _same_at_both_blocks(raw: Raw) -> None:
    """The safety cosines of the last block copied one block earlier."""
    for model in raw["subjects"].values():
        for pair in ("safety|chenrezig", "safety|empty"):
            profile = model["cosines"]["benign"][pair]
            profile[str(model["layers"] - 2)] = profile[str(model["layers"] - 1)]


def _six_messages(raw: Raw) -> None:
    raw["protocol"]["suffering_messages"]["ids"] = raw["protocol"]["suffering_messages"]["ids"][:6]


def _secular_positive(raw: Raw) -> None:
    raw["subjects"]["apertus-8b"]["cosines"]["suffering"]["empty|secular"]["31"] = 0.0588


def _norm_drops(raw: Raw) -> None:
    raw["subjects"]["apertus-8b"]["axis_norms"]["suffering"]["tara"]["20"] = 1.0


def _buddhist_floor(raw: Raw) -> None:
    profile = raw["subjects"]["apertus-8b"]["cosines"]["suffering"]["chenrezig|tara"]
    profile.update({block: max(value, 0.8516) for block, value in profile.items()})


def _extra_block(raw: Raw) -> None:
    raw["subjects"]["phi-4"]["cosines"]["benign"]["safety|empty"]["27"] = -0.2


FLIPS: dict[str, Callable[[Raw], None]] = {
    "compassion.range": _low_and_high,
    "compassion.phi4_both": cosine("phi-4", "suffering", "tara|agape", 0.8086),
    "table.traditions": cosine("ke-v9", "suffering", "chenrezig|agape", 0.8086),
    "table.finetune": cosine("ke-v9", "suffering", "chenrezig|agape", 0.8086),
    "table.safety": cosine("gemma-2-9b", "benign", "safety|empty", -0.3066),
    "table.sorted_by_baseline": together(
        cosine("gemma-2-9b", "benign", "safety|empty", -0.3066), cosine("llama-3.1-8b", "benign", "safety|empty", -0.27)
    ),
    "finetune.deltas": together(
        cosine("ke-v9", "suffering", "chenrezig|agape", 0.8134), cosine("ke-v9", "benign", "safety|chenrezig", 0.3559)
    ),
    "finetune.all_pairs_increased": cosine("ke-v9", "suffering", "tara|agape", 0.84),
    "compassion.buddhist_pair_rule": together(
        cosine("llama-3.1-8b", "suffering", "chenrezig|tara", 0.85),
        cosine("phi-4", "suffering", "chenrezig|tara", 0.85),
    ),
    "compassion.buddhist_pair_most": cosine("mistral-7b", "suffering", "chenrezig|tara", 0.50),
    "safety.association_is_of_the_model": _same_at_both_blocks,
    "safety.association_final_block": cosine("apertus-8b", "benign", "safety|empty", -0.60),
    "setup.suffering_messages": _six_messages,
    "setup.analysis_layers": _extra_block,
    "safety.compassion_range": cosine("yi-1.5-9b", "benign", "safety|chenrezig", 0.60),
    "safety.strict_range": cosine("yi-1.5-9b", "benign", "safety|safety_strict", 0.60),
    "safety.nonnegative_group": cosine("yi-1.5-9b", "benign", "safety|empty", -0.10),
    "safety.negative_group": cosine("gemma-2-9b", "benign", "safety|empty", 0.10),
    "safety.mistral_between": cosine("mistral-7b", "benign", "safety|empty", 0.10),
    "safety.ke_most_negative": cosine("ke-v9", "benign", "safety|empty", -0.10),
    "compassion.all_positive": cosine("phi-4", "suffering", "tara|rahma", -0.01),
    "compassion.deepseek_tightest": cosine("deepseek-r1-distill", "suffering", "tara|agape", 0.95),
    "compassion.yi_highest": cosine("apertus-8b", "suffering", "chenrezig|tara", 0.95),
    "finetune.secular_gap": cosine("ke-v9", "suffering", "chenrezig|tara", -1.0),
    "finetune.safety_shift": cosine("ke-v9", "benign", "safety|empty", -0.10),
    "companion.buddhist_range": _buddhist_floor,
    "companion.norms_grow": _norm_drops,
    "companion.default_on_one_side": _secular_positive,
}


@pytest.mark.parametrize("key", list(STORED))
def test_every_finding_flips_with_the_data(key: str) -> None:
    changed = findings(FLIPS[key])[key]
    assert changed.consistent is not STORED[key].consistent, changed.explanation
    assert changed.explanation != STORED[key].explanation


def test_a_stated_figure_is_read_not_remembered() -> None:
    def restate(raw: Raw) -> None:
        raw["statements"]["compassion.range"]["stated"].update(low=0.34, high=0.91)

    assert findings(restate)["compassion.range"].consistent


def test_a_sentence_without_a_check_is_an_error() -> None:
    def extra(raw: Raw) -> None:
        raw["statements"]["new.sentence"] = raw["statements"]["compassion.range"]

    with pytest.raises(GeometryBenchError, match=r"new\.sentence"):
        findings(extra)


def test_every_statement_says_where_it_stands() -> None:
    for statement in statements(load_published()):
        assert statement.sentence.endswith(".")
        assert len(statement.where) > 20
        assert statement.stated
