"""What the sources published: complete, looked up rightly, refused when damaged."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geometry_bench.errors import GeometryBenchError
from geometry_bench.published.alignment import alignment_group_of
from geometry_bench.published.load import SOURCES, load_publication, parse_publication
from geometry_bench.published.tables import agrees
from geometry_bench.resources import data_root

Raw = dict[str, Any]
FOLDER = data_root() / "baselines" / "published"


def raw(source: str) -> Raw:
    content: Raw = json.loads((FOLDER / f"{source}.json").read_text(encoding="utf-8"))
    return content


def test_every_source_has_a_file_of_its_own_name() -> None:
    assert {file.stem for file in FOLDER.glob("*.json")} == set(SOURCES)
    assert [load_publication(source).id for source in SOURCES] == list(SOURCES)


def test_source_a_has_every_model_pair_and_block() -> None:
    publication = load_publication("safety_compassion")
    layers = {subject.key: subject.layers for subject in publication.subjects.values()}
    assert sorted(layers.values()) == [28, 32, 32, 32, 32, 40, 42, 48]
    for subject in publication.subjects.values():
        pairs = [name for name in subject.curves if "|" in name]
        assert [sum(name.startswith(f"{s}/") for name in pairs) for s in ("suffering", "benign")] == [15, 5]
        expected = list(range(round(22 * subject.layers / 32), subject.layers))
        assert all(list(subject.curves[name]) == expected for name in pairs)
        for axis in ("chenrezig", "tara", "agape", "rahma", "secular", "empty"):
            assert list(subject.points(f"norm/suffering/{axis}")) == list(range(subject.layers))
    assert publication.subjects["apertus-8b"].curve("norm/benign/safety") is None, "the source kept none"
    assert publication.subjects["ke-v9"].parent == "llama-3.1-8b"


def test_lookup_goes_by_key_or_hub_id_and_either_order_of_axes() -> None:
    publication = load_publication("safety_compassion")
    gemma = publication.find("GOOGLE/gemma-2-9b-IT")
    assert gemma is not None
    assert gemma is publication.find("gemma-2-9b")
    assert gemma.alignment_group == "preference"
    assert gemma.cosine("benign", "empty", "safety") == gemma.curve("benign/safety|empty")
    assert gemma.number("benign/safety|empty") == gemma.points("benign/safety|empty")[41] == -0.3047
    assert gemma.cosine("suffering", "safety", "empty") is None
    assert publication.find("org/other") is None
    with pytest.raises(GeometryBenchError, match="gemma-2-9b has no charm"):
        gemma.number("charm")
    assert publication.label("benign/safety|empty") == "safety↔baseline"
    assert publication.label("suffering/tara|agape") == "tara↔agape"
    assert publication.table("traditions").value("phi-4", "suffering/agape|rahma") == 0.43


def test_groups_of_source_b_and_their_gram_matrix() -> None:
    publication = load_publication("universal_direction")
    assert {subject.hub_id for subject in publication.members("small")} == {
        f"EleutherAI/pythia-{size}" for size in ("160m", "410m", "1b")
    }
    for version in ("v0.1", "v0.3"):
        assert publication.find(f"mistralai/Mistral-7B-Instruct-{version}") is None, "the source names no version"
    for name, group in publication.groups.items():
        gram, at = np.array(publication.gram(name)), group.members.index(publication.reference(name).key)
        assert (gram == gram.T).all()
        assert (gram.diagonal() == 1).all()
        assert list(gram[at]) == [member.values.get("reference_cosine", 1.0) for member in publication.members(name)]
    order = publication.groups["large"].members
    gram = np.array(publication.gram("large"))
    assert gram[order.index("qwen2.5-7b-instruct"), order.index("llama2-13b-chat")] == 0.46
    with pytest.raises(GeometryBenchError, match="no group 'middle'; it has small, large"):
        publication.members("middle")


def test_sweeps_of_source_d() -> None:
    publication = load_publication("safety_subspaces")
    assert {title: len(table.rows) for title, table in publication.tables.items()} == {"1": 2, "2": 3, "4": 7, "5": 7}
    llama = publication.subjects["llama-2-7b"]
    assert llama.points("table4/safety_tuned/top_k/utility")[0.99] == 0.122
    assert list(llama.points("table4/aligned/random/harm")) == [0.01, 0.25, 0.5, 0.75, 0.99]
    assert (llama.value("table4/safety_tuned/base/harm"), llama.value("mmlu_low")) == (4.27, None)
    with pytest.raises(GeometryBenchError, match="no table '3'; it has 1, 2, 4, 5"):
        publication.table("3")


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


def test_agreement_is_rounding_either_way_at_the_edge() -> None:
    assert agrees(0.81, 0.8050)
    assert agrees(0.80, 0.8050)
    assert not agrees(0.81, 0.8047)
    assert not agrees(-0.31, -0.3047)


def _curve(raw: Raw, name: str = "benign/safety|empty") -> Raw:
    curve: Raw = raw["subjects"]["phi-4"]["curves"][name]
    return curve


def _values(raw: Raw) -> Raw:
    values: Raw = next(iter(raw["subjects"].values()))["values"]
    return values


SWEEP = "table1/aligned/top_k/harm"
A, B, D = "safety_compassion", "universal_direction", "safety_subspaces"
DAMAGE: dict[str, tuple[str, Callable[[Raw], object], str]] = {
    "newer": (A, lambda raw: raw.update(schema_version=3), "schema version 3.*update"),
    "no version": (A, lambda raw: raw.pop("schema_version"), "schema version None"),
    "unknown field": (A, lambda raw: raw["subjects"]["phi-4"].update(colour="blue"), "colour"),
    "cosine of two": (A, lambda raw: _curve(raw).update({"39": 2.0}), r"phi-4.*= 2, which cannot lie outside"),
    "block outside": (A, lambda raw: _curve(raw).update({"40": 0.1}), "block 40 of a model with 40"),
    "no final block": (A, lambda raw: _curve(raw).pop("39"), "ends at block 38"),
    "pair twice": (
        A,
        lambda raw: raw["subjects"]["phi-4"]["curves"].update({"benign/empty|safety": {"39": 0.1}}),
        "twice",
    ),
    "unknown method": (A, lambda raw: raw["subjects"]["phi-4"].update(alignment_method="magic"), "'magic' names none"),
    "unknown parent": (A, lambda raw: raw["subjects"]["phi-4"].update(parent="gpt"), "'gpt' is named"),
    "ragged table": (A, lambda raw: raw["tables"]["safety"]["rows"][0]["values"].pop(), "values for 2 columns"),
    "stranger in table": (A, lambda raw: raw["tables"]["safety"]["rows"][0].update(subject="gpt"), "'gpt' is named"),
    "unknown column": (A, lambda raw: raw["tables"]["finetune"]["columns"].append("charm"), "for 7 columns"),
    "printed of nothing": (A, lambda raw: raw["printed"][0].update(name="suffering/a|b"), r"no suffering/a\|b"),
    "unknown check": (
        A,
        lambda raw: raw["statements"]["compassion.range"]["check"].update(kind="guess"),
        "'guess'",
    ),
    "AUROC above one": (B, lambda raw: _values(raw).update(auroc_native=1.2), "auroc_native = 1.2"),
    "not finite": (B, lambda raw: _values(raw).update(auroc_native=float("nan")), "finite"),
    "unexplained": (B, lambda raw: _values(raw).update(charm=0.1), "'charm', which is explained nowhere"),
    "reference outside": (B, lambda raw: raw["groups"]["small"].update(reference="llama2-13b-chat"), "not one of its"),
    "pair missing": (B, lambda raw: raw["groups"]["large"]["cosines"].popitem(), "each pair of members"),
    "no reference cosine": (B, lambda raw: _values(raw).pop("reference_cosine"), "160m has no reference_cosine"),
    "in two groups": (B, lambda raw: raw["groups"].update(again=dict(raw["groups"]["small"])), "in two groups"),
    "harm off the scale": (
        D,
        lambda raw: raw["subjects"]["qwen-2.5-1.5b"]["curves"][SWEEP].update({"0.5": 5.5}),
        "harm = 5.5",
    ),
    "a fraction missing": (
        D,
        lambda raw: raw["subjects"]["qwen-2.5-1.5b"]["curves"][SWEEP].pop("0.5"),
        r"is given at \[0.01, 0.25, 0.75",
    ),
    "a sweep missing": (
        D,
        lambda raw: raw["subjects"]["qwen-2.5-1.5b"]["curves"].pop(SWEEP),
        f"no {SWEEP} for its row of table 1",
    ),
    "a row twice": (D, lambda raw: raw["tables"]["1"]["rows"].append(raw["tables"]["1"]["rows"][0]), "two rows"),
    "extends nothing": (D, lambda raw: raw["tables"]["4"].update(extends="9"), "'9' is extended"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_one_clear_sentence(what: str) -> None:
    source, damage, message = DAMAGE[what]
    content = raw(source)
    damage(content)
    with pytest.raises(GeometryBenchError, match=message) as caught:
        parse_publication(content, "values.json")
    assert str(caught.value).startswith("values.json")
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GeometryBenchError, match="no published values of 'nothing'"):
        load_publication("nothing")
    folder = tmp_path / "baselines" / "published"
    folder.mkdir(parents=True)
    monkeypatch.setattr("geometry_bench.published.load.data_root", lambda: tmp_path)
    whole = (FOLDER / f"{B}.json").read_text(encoding="utf-8")
    for text, message in [
        (whole[:900], "cannot be read as JSON"),
        ("[1]", "does not hold a JSON object"),
        (whole.replace('"id":', '"id": "x", "id":', 1), "a key stands twice"),
    ]:
        (folder / "damaged.json").write_text(text, encoding="utf-8")
        with pytest.raises(GeometryBenchError, match=message):
            load_publication("damaged")
    assert copy.copy(load_publication(B)) == load_publication(B)
