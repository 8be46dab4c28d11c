"""The audit of source B: what it finds, and that each finding follows the figures when the figures change."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from geometry_bench.claims.audit import Finding
from geometry_bench.claims.universal_direction.audit import audit
from geometry_bench.errors import GeometryBenchError
from geometry_bench.published.schema import parse_figures
from geometry_bench.resources import data_root

Raw = dict[str, Any]
RAW: Raw = json.loads((data_root() / "baselines" / "published" / "universal_direction.json").read_text("utf-8"))


def findings(change: Callable[[Raw], None] | None = None) -> dict[str, Finding]:
    raw = copy.deepcopy(RAW)
    if change is not None:
        change(raw)
    return {finding.statement.id: finding for finding in audit(parse_figures(raw, "changed figures"))}


STORED = findings()


def figures(subject: str, **values: float) -> Callable[[Raw], None]:
    return lambda raw: raw["subjects"][subject]["figures"].update(values)


def _all_universal_cosines(by: float) -> Callable[[Raw], None]:
    def change(raw: Raw) -> None:
        for subject in raw["subjects"].values():
            subject["figures"]["universal_cosine"] += by

    return change


def _universal_as_native(raw: Raw) -> None:
    for subject in raw["subjects"].values():
        subject["figures"]["auroc_universal"] = subject["figures"]["auroc_native"]


def _least_error_inside(raw: Raw) -> None:
    for subject in raw["subjects"].values():
        if "profiles" in subject:
            subject["profiles"]["alignment_error"]["0.1"] = 0.3


FLIPS: dict[str, Callable[[Raw], None]] = {
    "shared_axis.mean_cosine": _all_universal_cosines(-0.05),
    "shared_axis.clusters": figures("pythia-160m", universal_cosine=0.3),
    "shared_axis.svd_rule": figures("qwen2.5-7b-instruct", universal_cosine=0.82),
    "reference.above_half": figures("pythia-410m", reference_cosine=0.51),
    "auroc.matches_overall": _universal_as_native,
    "auroc.small_models_most": figures("llama2-13b-chat", auroc_universal=1.0, auroc_native=0.5),
    "auroc.weak_directions_gain": figures("pythia-410m", auroc_universal=0.60),
    "regime_break.llama2": figures("llama2-13b-chat", auroc_universal=0.7653),
    "alignment_error.moderate": _least_error_inside,
}


@pytest.mark.parametrize("key", list(STORED))
def test_every_finding_flips_with_the_figures(key: str) -> None:
    changed = findings(FLIPS[key])[key]
    assert changed.consistent is not STORED[key].consistent, changed.explanation
    assert changed.explanation != STORED[key].explanation


@pytest.mark.parametrize(
    ("key", "fragments"),
    [
        ("shared_axis.mean_cosine", ("0.7700 over 7", "0.7300 in the small", "0.8000 in the large", "0.72")),
        ("reference.above_half", ("4 of 5", "Pythia 410M 0.19")),
        ("auroc.matches_overall", ("2 of 7", "+0.0776", "+0.1153", "0.7744 to 0.6927")),
        ("alignment_error.moderate", ("0.4876 at λ = 1, an end", "0.4834 at λ = 1, an end")),
    ],
)
def test_known_contradictions_are_found_with_their_numbers(key: str, fragments: tuple[str, ...]) -> None:
    assert STORED[key].verdict == "contradicted"
    for fragment in fragments:
        assert fragment in STORED[key].explanation


def test_true_sentences_are_found_true() -> None:
    assert STORED["shared_axis.svd_rule"].consistent
    assert max(STORED["shared_axis.svd_rule"].found["differences"].values()) < 0.01
    broken = STORED["regime_break.llama2"]
    assert broken.consistent
    assert broken.found == {"broken": ["llama2-13b-chat"]}


def test_the_svd_rule_needs_every_cosine_of_a_pair() -> None:
    def swapped(raw: Raw) -> None:
        raw["groups"]["large"]["cosines"]["mistral-7b-instruct|llama2-13b-chat"] = 0.35

    assert not findings(swapped)["shared_axis.svd_rule"].consistent


def test_a_stated_figure_is_read_not_remembered() -> None:
    def restate(raw: Raw) -> None:
        raw["statements"]["shared_axis.mean_cosine"]["stated"]["value"] = 0.77

    assert findings(restate)["shared_axis.mean_cosine"].consistent


def test_a_sentence_without_a_check_and_a_missing_figure_are_errors() -> None:
    def extra(raw: Raw) -> None:
        raw["statements"]["new.sentence"] = raw["statements"]["shared_axis.clusters"]

    def bare(raw: Raw) -> None:
        del raw["subjects"]["pythia-1b"]["figures"]["auroc_native"]

    def no_errors(raw: Raw) -> None:
        for subject in raw["subjects"].values():
            subject.pop("profiles", None)

    for change, message in (
        (extra, r"new\.sentence"),
        (bare, "pythia-1b has no auroc_native"),
        (no_errors, "to check"),
    ):
        with pytest.raises(GeometryBenchError, match=message):
            findings(change)
