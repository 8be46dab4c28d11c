"""One sentence for each kind of fault of a declaration: where, what, what to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from geometry_bench.checked import Declaration, Name, Text, checked, did_you_mean, one_of, read_toml
from geometry_bench.errors import GeometryBenchError


class Part(Declaration):
    text: Text
    count: Annotated[int, Field(strict=True, ge=2)] = 2
    kind: Annotated[str, one_of(("red", "green"))] = "red"


class Whole(Declaration):
    name: Name
    parts: Annotated[list[Part], Field(min_length=1)]


@dataclass(frozen=True)
class Plain:
    name: Text
    note: Text | None = None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"parts": [{"text": "a"}, {"txt": "a"}]},
            "has an unknown key 'txt' (did you mean text?) at 'parts[2]'; known",
        ),
        ({"nome": 1}, "has an unknown key 'nome' (did you mean name?); known are name, parts."),
        ({"parts": [{}]}, "has no key 'text' at 'parts[1]'; add it."),
        ({"parts": [{"text": " "}]}, "has an empty text at 'parts[1].text'; write it."),
        ({"parts": [{"text": 3}]}, "has a number where a text belongs at 'parts[1].text'; correct it."),
        ({"parts": [{"text": "a", "count": True}]}, "has true or false where a whole number belongs"),
        ({"parts": [{"text": "a", "count": 1}]}, "has 1 at 'parts[1].count'; write a number of at least 2."),
        ({"parts": [{"text": "a", "kind": "rad"}]}, "has the unknown 'rad' (did you mean red?) at 'parts[1].kind'"),
        ({"parts": ["a"]}, "has a text where a table belongs at 'parts[1]'"),
        ({"parts": []}, "has 0 entries, fewer than 1 at 'parts'; add some."),
        ({"name": "a/b"}, "has 'a/b' at 'name'; use letters, digits, '.', '_' and '-' only."),
    ],
)
def test_each_fault_in_its_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(GeometryBenchError) as caught:
        checked(Whole, {"name": "x", "parts": [{"text": "a"}], **change}, "The file F")
    assert str(caught.value).startswith(f"The file F {sentence}")
    assert str(caught.value)[-1] == "."


def test_dataclasses_are_checked_alike() -> None:
    assert checked(Plain, {"name": "x"}, "It") == Plain("x")
    for table, sentence in (
        ({"name": "x", "nota": "y"}, "did you mean note"),
        ({"name": ""}, "empty"),
        ("x", "a table"),
    ):
        with pytest.raises(GeometryBenchError, match=sentence):
            checked(Plain, table, "It")


def test_names_near_a_word() -> None:
    assert did_you_mean("magnitud", ["magnitude", "peak"]) == " (did you mean magnitude?)"
    assert did_you_mean("pea", ["x.peak.layer"]) == " (did you mean x.peak.layer?)"
    assert did_you_mean("zebra", ["magnitude", "peak"]) == ""


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"a = 1\nb = \n", "is not valid TOML: Invalid value (at line 2"),
        (b'a = """x\n\n', "line 2, end of the file"),
        (b'a = 1\nb = "\xff"', "is not UTF-8 text at line 2"),
        (b"schema = 2", "has schema 2; this geometry-bench reads schema = 1"),
        (b"schema = true", "has schema True"),
        (b"", "does not say its schema"),
    ],
)
def test_files_that_are_no_declaration(raw: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_bytes(raw)
    with pytest.raises(GeometryBenchError) as caught:
        read_toml(tmp_path / "f.toml", "The file F", schema=1)
    assert sentence in str(caught.value)
    with pytest.raises(GeometryBenchError, match="cannot be read"):
        read_toml(tmp_path / "absent.toml", "The file F")
