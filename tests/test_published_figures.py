"""The published figures of sources B and D: complete, looked up rightly, refused when damaged."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geometry_bench.errors import GeometryBenchError
from geometry_bench.published.schema import (
    PublishedFigures,
    PublishedTables,
    load_figures,
    load_source,
    load_tables,
    parse_figures,
)
from geometry_bench.published.tables import BASES, MEASURES
from geometry_bench.resources import data_root

Raw = dict[str, Any]
FOLDER = data_root() / "baselines" / "published"


@pytest.fixture(scope="module")
def universal() -> PublishedFigures:
    return load_figures("universal_direction")


@pytest.fixture(scope="module")
def subspaces() -> PublishedTables:
    return load_tables()


def test_every_source_is_loaded_in_its_own_form(universal: PublishedFigures, subspaces: PublishedTables) -> None:
    assert load_source("universal_direction") == universal
    assert load_source("safety_subspaces") == subspaces
    assert {file.stem for file in FOLDER.glob("*.json")} == {
        load_source(file.stem).id for file in FOLDER.glob("*.json")
    }


def test_source_b_is_complete(universal: PublishedFigures) -> None:
    assert {name: len(group.members) for name, group in universal.groups.items()} == {"small": 3, "large": 4}
    for subject in universal.subjects.values():
        group = universal.group_of(subject.key)
        assert group is not None
        expected = {"auroc_native", "auroc_universal", "universal_cosine"}
        assert set(subject.figures) == expected | ({"reference_cosine"} if subject.key != group.reference else set())
    errors = [profile for s in universal.subjects.values() if (profile := s.profile("alignment_error")) is not None]
    assert [list(profile) for profile in errors] == [[0.01, 0.1, 1.0]] * 2
    assert universal.overall == {"mean_cosine": 0.72}


def test_members_and_groups_of_source_b(universal: PublishedFigures) -> None:
    pythia = universal.find("eleutherai/PYTHIA-410m")
    assert pythia is not None
    assert (pythia.figure("reference_cosine"), pythia.figure("peak")) == (0.19, None)
    small = universal.group_of("EleutherAI/pythia-160m")
    assert small is not None
    assert (small.key, universal.reference("small").hub_id) == ("small", "EleutherAI/pythia-1b")
    assert {s.hub_id for s in universal.members("small")} == {f"EleutherAI/pythia-{n}" for n in ("160m", "410m", "1b")}
    assert universal.group_of("org/other") is None
    for version in ("v0.1", "v0.3"):
        assert universal.find(f"mistralai/Mistral-7B-Instruct-{version}") is None, "the source names no version"
    with pytest.raises(GeometryBenchError, match="no group 'middle'; it has small, large"):
        universal.members("middle")


def test_the_gram_matrix_has_each_cosine_in_its_place(universal: PublishedFigures) -> None:
    for name, group in universal.groups.items():
        gram = np.array(universal.gram(name))
        assert (gram == gram.T).all()
        assert (gram.diagonal() == 1).all()
        at = group.members.index(group.reference)
        for i, member in enumerate(universal.members(name)):
            assert gram[at, i] == member.figures.get("reference_cosine", 1.0)
    order = universal.groups["large"].members
    gram = np.array(universal.gram("large"))
    assert gram[order.index("qwen2.5-7b-instruct"), order.index("llama2-13b-chat")] == 0.46
    assert gram[order.index("mistral-7b-instruct"), order.index("llama2-13b-chat")] == 0.45


def test_source_d_is_complete(subspaces: PublishedTables) -> None:
    assert {table: len(subspaces.rows(table)) for table in subspaces.tables} == {"1": 2, "2": 3, "4": 7, "5": 7}
    assert subspaces.svd_fractions == (0.01, 0.25, 0.5, 0.75, 0.99)
    for table in subspaces.tables:
        for _, row in subspaces.rows(table):
            full = table in ("4", "5")
            assert set(row.scalars) == {row.variant, "fine_tuned", *(["base"] if full else [])}
            assert len(row.cells()) == len(MEASURES) * (len(row.scalars) + len(BASES) * len(subspaces.svd_fractions))
    assert len([s for s in subspaces.subjects.values() if s.figures]) == 2
    with pytest.raises(GeometryBenchError, match="no table '3'; it has 1, 2, 4, 5"):
        subspaces.rows("3")


def test_looking_up_an_entry_of_source_d(subspaces: PublishedTables) -> None:
    llama = subspaces.find("meta-llama/llama-2-7b-CHAT-hf")
    assert llama is not None
    tuned = llama.row("4", "safety_tuned")
    assert tuned is not None
    assert tuned.projected("utility", "top_k", 0.99) == 0.122
    assert tuned.projected("harm", "random", 0.01) == 3.55
    assert tuned.projected("harm", "random", 0.3) is None
    assert (tuned.outcome("harm", "base"), tuned.outcome("utility", "aligned")) == (4.27, None)
    assert llama.row("2") is None
    qwen = subspaces.subjects["qwen-2.5-1.5b"]
    assert (qwen.figure("mmlu_low"), qwen.figure("over_refusal_high"), llama.figure("mmlu_low")) == (0.61, 0.04, None)


def _subject(name: str, key: str) -> Callable[[Raw], Raw]:
    def at(raw: Raw) -> Raw:
        found: Raw = raw["subjects"][name][key]
        return found

    return at


def _first_row(raw: Raw) -> Raw:
    row: Raw = raw["subjects"]["qwen-2.5-1.5b"]["rows"][0]
    return row


DAMAGE: dict[str, tuple[str, Callable[[Raw], object], str]] = {
    "AUROC above one": (
        "universal_direction",
        lambda raw: _subject("pythia-160m", "figures")(raw).update(auroc_native=1.2),
        "auroc_native = 1.2",
    ),
    "infinite": (
        "universal_direction",
        lambda raw: _subject("pythia-160m", "figures")(raw).update(auroc_native=float("nan")),
        "finite",
    ),
    "unexplained": (
        "universal_direction",
        lambda raw: _subject("pythia-160m", "figures")(raw).update(charm=0.1),
        "'charm' that is explained nowhere",
    ),
    "unexplained profile": (
        "universal_direction",
        lambda raw: raw["subjects"]["pythia-1b"].update(profiles={"charm": {"0.1": 1.0}}),
        "'charm' that is explained nowhere",
    ),
    "reference outside": (
        "universal_direction",
        lambda raw: raw["groups"]["small"].update(reference="llama2-13b-chat"),
        "not one of its members",
    ),
    "no cosine of a pair": (
        "universal_direction",
        lambda raw: raw["groups"]["large"]["cosines"].popitem(),
        "each pair of members",
    ),
    "no cosine with the reference": (
        "universal_direction",
        lambda raw: _subject("pythia-160m", "figures")(raw).pop("reference_cosine"),
        "pythia-160m has no reference_cosine",
    ),
    "in two groups": (
        "universal_direction",
        lambda raw: raw["groups"].update(again=copy.deepcopy(raw["groups"]["small"])),
        "is in two groups",
    ),
    "harm off the scale": (
        "safety_subspaces",
        lambda raw: _first_row(raw)["projections"]["top_k"]["harm"].update({"0.5": 5.5}),
        "less than or equal to 5",
    ),
    "utility in per cent": (
        "safety_subspaces",
        lambda raw: _first_row(raw)["scalars"]["aligned"].update(utility=47),
        "less than or equal to 1",
    ),
    "a fraction missing": (
        "safety_subspaces",
        lambda raw: _first_row(raw)["projections"]["random"]["utility"].pop("0.75"),
        "SVD fractions are not",
    ),
    "a basis missing": ("safety_subspaces", lambda raw: _first_row(raw)["projections"].pop("random_k"), "'random_k'"),
    "a scalar missing": ("safety_subspaces", lambda raw: _first_row(raw)["scalars"].pop("aligned"), "'aligned'"),
    "a row twice": (
        "safety_subspaces",
        lambda raw: raw["subjects"]["qwen-2.5-1.5b"]["rows"].append(copy.deepcopy(_first_row(raw))),
        "two rows",
    ),
    "an unknown table": ("safety_subspaces", lambda raw: _first_row(raw).update(table="9"), "'9'"),
    "newer": ("safety_subspaces", lambda raw: raw.update(schema_version=2), "schema version 2"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_one_clear_error(what: str) -> None:
    source, damage, message = DAMAGE[what]
    raw = json.loads((FOLDER / f"{source}.json").read_text(encoding="utf-8"))
    parse_figures(raw, "whole")
    damage(raw)
    with pytest.raises(GeometryBenchError, match=message) as caught:
        parse_figures(raw, "figures.json")
    assert str(caught.value).startswith("figures.json")
    assert "\n" not in str(caught.value)


def test_a_file_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "baselines" / "published"
    folder.mkdir(parents=True)
    for source in ("universal_direction", "safety_subspaces"):
        (folder / f"{source}.json").write_text((FOLDER / f"{source}.json").read_text("utf-8")[:900], encoding="utf-8")
    monkeypatch.setattr("geometry_bench.published.schema.data_root", lambda: tmp_path)
    for load in (load_source, load_figures, load_tables):
        for source in ("universal_direction", "safety_subspaces"):
            with pytest.raises(GeometryBenchError, match="cannot be read as JSON"):
                load(source)
    (folder / "safety_subspaces.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(GeometryBenchError, match="JSON object"):
        load_tables()


def test_tables_are_asked_of_a_source_with_tables() -> None:
    with pytest.raises(GeometryBenchError, match=r"universal_direction\.json is not a sound file"):
        load_tables("universal_direction")
