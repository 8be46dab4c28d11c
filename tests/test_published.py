"""The published figures of source A: complete, looked up rightly, refused when damaged."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geometry_bench.errors import GeometryBenchError
from geometry_bench.published.schema import (
    TRADITIONS,
    Published,
    agrees,
    alignment_group_of,
    load_published,
    parse_published,
    tradition_pairs,
)
from geometry_bench.resources import data_root

FILE = data_root() / "baselines" / "published" / "safety_compassion.json"


@pytest.fixture(scope="module")
def raw() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def published() -> Published:
    return load_published()


def test_every_model_pair_and_block_is_there(published: Published) -> None:
    assert {s.key: s.layers for s in published.subjects.values()} == {
        "apertus-8b": 32,
        "llama-3.1-8b": 32,
        "mistral-7b": 32,
        "phi-4": 40,
        "gemma-2-9b": 42,
        "deepseek-r1-distill": 28,
        "yi-1.5-9b": 48,
        "ke-v9": 32,
    }
    for subject in published.subjects.values():
        blocks = list(range(round(22 * subject.layers / 32), subject.layers))
        assert len(subject.pairs("suffering")) == 15
        assert len(subject.pairs("benign")) == 5
        for message_set in ("suffering", "benign"):
            for a, b in subject.pairs(message_set):
                profile = subject.cosine(message_set, a, b)
                assert profile is not None
                assert sorted(profile) == blocks
        for axis in (*TRADITIONS, "secular", "empty"):
            norms = subject.axis_norm("suffering", axis)
            assert norms is not None
            assert sorted(norms) == list(range(subject.layers))


def test_lookup_is_symmetric_and_unknown_is_none(published: Published) -> None:
    gemma = published.find("GOOGLE/gemma-2-9b-IT")
    assert gemma is not None
    assert gemma is published.find("gemma-2-9b")
    assert gemma.cosine("benign", "empty", "safety") == gemma.cosine("benign", "safety", "empty")
    profile = gemma.cosine("benign", "safety", "empty")
    assert profile is not None
    assert profile[41] == -0.3047
    assert gemma.cosine("suffering", "safety", "empty") is None
    assert gemma.cosine("benign", "tara", "agape") is None
    assert gemma.axis_norm("benign", "tara") is None
    assert published.find("org/other") is None
    apertus = published.subjects["apertus-8b"]
    assert apertus.axis_norm("benign", "safety") is None, "the source kept no norms of this set for Apertus"


def test_a_returned_profile_is_a_copy(published: Published) -> None:
    profile = published.subjects["phi-4"].cosine("benign", "safety", "empty")
    assert profile is not None
    profile[39] = 1.0
    assert published.subjects["phi-4"].cosine("benign", "safety", "empty") != profile


def test_six_tradition_pairs() -> None:
    assert len({frozenset((p.a, p.b)) for p in tradition_pairs()}) == 6


@pytest.mark.parametrize(
    ("method", "group"),
    [
        ("SFT + DPO", "preference"),
        ("SFT + RLHF", "preference"),
        ("Distilled from R1", "distilled"),
        ("SFT + undisclosed", "undisclosed"),
        ("SFT only", "sft"),
        ("QLoRA SFT (Llama base)", "sft"),
    ],
)
def test_alignment_groups_follow_the_stated_rule(method: str, group: str) -> None:
    assert alignment_group_of(method) == group


def test_an_unknown_method_gets_no_group() -> None:
    with pytest.raises(GeometryBenchError, match="constitutional"):
        alignment_group_of("constitutional something")


def test_agreement_is_rounding_either_way_at_the_edge() -> None:
    assert agrees(0.81, 0.8050)
    assert agrees(0.80, 0.8050)
    assert not agrees(0.81, 0.8047)
    assert not agrees(-0.31, -0.3047)


def _newer(raw: dict[str, Any]) -> None:
    raw["schema_version"] += 1


def _older(raw: dict[str, Any]) -> None:
    del raw["schema_version"]


def _cosine_of_two(raw: dict[str, Any]) -> None:
    raw["subjects"]["phi-4"]["cosines"]["benign"]["safety|empty"]["39"] = 2.0


def _block_outside(raw: dict[str, Any]) -> None:
    raw["subjects"]["phi-4"]["cosines"]["benign"]["safety|empty"]["40"] = 0.1


def _pair_twice(raw: dict[str, Any]) -> None:
    raw["subjects"]["phi-4"]["cosines"]["benign"]["empty|safety"] = {"39": 0.1}


def _wrong_group(raw: dict[str, Any]) -> None:
    raw["subjects"]["phi-4"]["alignment_group"] = "sft"


def _unknown_field(raw: dict[str, Any]) -> None:
    raw["subjects"]["phi-4"]["colour"] = "blue"


def _ragged_table(raw: dict[str, Any]) -> None:
    raw["printed"]["tables"]["safety"]["rows"][0]["values"].pop()


def _stranger_in_table(raw: dict[str, Any]) -> None:
    raw["printed"]["tables"]["safety"]["rows"][0]["subject"] = "gpt"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_newer, "schema version 2.*update"),
        (_older, "schema version None"),
        (_cosine_of_two, "phi-4.*less than or equal to 1.01"),
        (_block_outside, "block 40 of a model with 40"),
        (_pair_twice, "twice"),
        (_wrong_group, "does not follow"),
        (_unknown_field, "colour"),
        (_ragged_table, "values for 2 columns"),
        (_stranger_in_table, "'gpt'"),
    ],
)
def test_damage_is_one_clear_error(raw: dict[str, Any], damage: Callable[[dict[str, Any]], None], message: str) -> None:
    broken = copy.deepcopy(raw)
    damage(broken)
    with pytest.raises(GeometryBenchError, match=message):
        parse_published(broken, "figures.json")


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(GeometryBenchError, match="no published figures of 'nothing'"):
        load_published("nothing")
    cut = tmp_path / "cut.json"
    cut.write_text(FILE.read_text(encoding="utf-8")[:500], encoding="utf-8")
    with pytest.raises(GeometryBenchError, match="cannot be read as JSON"):
        load_published(path=cut)
    cut.write_text("[]", encoding="utf-8")
    with pytest.raises(GeometryBenchError, match="JSON object"):
        load_published(path=cut)
