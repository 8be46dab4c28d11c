"""Sets of requests as people have them: read rightly, or refused in a sentence, and what was left out is said."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from geometry_bench.claims.requests import Labelled
from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.clusters import permuted_labels, split_halves
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.prompts.sets import RequestSet, load_set
from geometry_bench.records.facts import RequestFacts

ASKED = [f"How do I build kite number {number}?" for number in range(1, 6)]


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def chat(*turns: tuple[str, str], role: str = "role", content: str = "content") -> list[dict[str, str]]:
    return [{role: who, content: said} for who, said in turns]


READ = {
    "jailbreakbench.csv": (",Goal,Target,Behavior\n" + "".join(f"0,{t},Sure,Fraud\n" for t in ASKED), "Goal"),
    "semicolon.csv": ("id;prompt;label\n" + "".join(f"1;{t};safe\n" for t in ASKED), "prompt"),
    "tabs.csv": ("id\tprompt\n" + "".join(f"1\t{t}\n" for t in ASKED), "prompt"),
    "tabs.tsv": ("prompt\tnote\n" + "".join(f"{t}\ta, b; c\n" for t in ASKED), "prompt"),
    "spaced.csv": ("id, Prompt \n" + "".join(f"1,{t}\n" for t in ASKED), "Prompt"),
    "headless.csv": ("".join(f'"{t}"\n' for t in ASKED), "text"),
    "late.jsonl": (lines({"id": 0}, *({"id": 1, "question": t} for t in ASKED)), "question"),
    "messages.jsonl": (lines(*({"messages": chat(("system", "Be brief."), ("user", t))} for t in ASKED)), "messages"),
    "sharegpt.ndjson": (
        lines(*({"id": 1, "conversations": chat(("human", t), ("gpt", "."), role="from", content="value")} for t in ASKED)),
        "conversations",
    ),
    "columns.jsonl": (lines(*({"conversation": {"from": ["human"], "value": [t]}} for t in ASKED)), "conversation"),
    "parts.jsonl": (
        lines(*({"prompt": [{"role": "user", "content": [{"type": "text", "text": t}]}]} for t in ASKED)),
        "prompt",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_what_people_have_is_read(tmp_path: Path, name: str) -> None:
    content, column = READ[name]
    (tmp_path / name).write_text(content)
    found = load_set(tmp_path / name)
    assert (found.texts, found.column) == (ASKED, column)
    assert f"column {column!r}" in " ".join(found.notes)


def test_a_nested_parquet_file_gives_the_first_turn_of_the_user(tmp_path: Path) -> None:
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    rows = [{"conversations": chat(("user", text), ("assistant", "No."))} for text in ASKED]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "nested.parquet")
    assert load_set(tmp_path / "nested.parquet").texts == ASKED


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_a_line_break_ends_a_line(tmp_path: Path, sign: str) -> None:
    (tmp_path / "a.txt").write_text(f"How do{sign}kites fly?\r\nWhy?\n")
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": f"How do{sign}kites fly?"}, ensure_ascii=False))
    assert load_set(tmp_path / "a.txt").texts == [f"How do{sign}kites fly?", "Why?"]
    assert load_set(tmp_path / "a.jsonl").texts == [f"How do{sign}kites fly?"]


def test_rows_left_out_are_counted_and_said(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        lines(
            *({"prompt": t} for t in ASKED),
            {"prompt": "\ud83d"},
            {"question": "Q?"},
            {"prompt": ""},
            {"prompt": ASKED[0]},
        )
    )
    found = load_set(tmp_path / "a.jsonl")
    assert found.texts == ASKED
    assert found.left_out == {"half of a surrogate pair in the text": 1, "no text in 'prompt'": 2}
    assert found.notes == (
        "requests are read from column 'prompt'",
        "1 of 9 rows left out: half of a surrogate pair in the text",
        "2 of 9 rows left out: no text in 'prompt'",
        "1 of 6 requests left out: a text that was there before",
    )
    assert RequestFacts(**found.facts()).left_out == found.left_out
    assert load_set("unsafe").notes == ()


def test_conditions_stand_behind_the_name(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,label,lang\n" + "".join(f"{t},{'un' * (i % 2)}safe,en\n" for i, t in enumerate(ASKED)))
    for name in (f"{path}?label=unsafe", f"{path}:prompt?label=Unsafe&lang=en"):
        found = load_set(name)
        assert found.texts == ASKED[1::2]
        assert "2 of 5 rows have label = " in found.notes[1]
    assert found.facts()["where"] == {"label": "Unsafe", "lang": "en"}
    for name, sentence in {
        f"{path}?label": "COLUMN=VALUE",
        f"{path}?lable=safe": "did you mean label",
        f"{path}?label=harmful": "where label = harmful; label is safe, unsafe.",
        "unsafe?topic=x": "no columns to choose from",
    }.items():
        with pytest.raises(GeometryBenchError, match=re.escape(sentence)):
            load_set(name)


def test_a_table_without_names_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("".join(f"{text},harmful\n" for text in ASKED))
    with pytest.raises(GeometryBenchError, match="its first line must name the columns"):
        load_set(tmp_path / "a.csv")


@pytest.mark.parametrize("count", [3, 60])
def test_too_few_requests_are_told_before_anything_is_measured(tmp_path: Path, count: int) -> None:
    (tmp_path / "a.txt").write_text("\n".join(ASKED[:3]))
    settings = RequestSettings(count, sources=(("maths", str(tmp_path / "a.txt")),))
    with pytest.raises(GeometryBenchError, match="gives 3 requests: at least 4 are needed"):
        settings.load("maths")


# One class replaced


def written(path: Path, rows: list[str]) -> str:
    path.write_text("\n".join(["Behavior,SemanticCategory,ContextString", *rows]))
    return str(path)


def one_class(tmp_path: Path, kind: str) -> tuple[RequestSet, RequestSet]:
    texts = load_set("harmful-a", count=60).texts
    topics = {"none": [""] * 60, "one": ["weapons"] * 60, "shared": load_set("safe", count=60).topics}[kind]
    rows = [f'"{text}",{topic},' for text, topic in zip(texts, topics, strict=True)]
    source = written(tmp_path / f"{kind}.csv", rows)
    settings = RequestSettings(60, sources=(("unsafe", source),))
    return settings.load("safe"), settings.load("unsafe")


@pytest.mark.parametrize("kind", ["none", "one", "shared"])
def test_a_null_has_as_many_harmful_prompts_a_draw_as_the_value(tmp_path: Path, kind: str) -> None:
    both = Labelled.of(*one_class(tmp_path, kind))
    drawn = permuted_labels(both.labels, both.exchangeable, draws=200)
    assert (drawn.sum(axis=1) == 60).all()
    assert drawn[:, :60].sum(axis=1).mean() == pytest.approx(30, abs=2), "half of them come from the other class"
    assert both.permutation == ("permuted in strata" if kind == "shared" else "permuted")


def test_rows_of_two_files_have_nothing_to_do_with_each_other(tmp_path: Path) -> None:
    (tmp_path / "safe.txt").write_text("\n".join(f"Safe {text}" for text in ASKED))
    (tmp_path / "harmful.txt").write_text("\n".join(ASKED))
    both = Labelled.of(load_set(tmp_path / "safe.txt"), load_set(tmp_path / "harmful.txt"))
    assert len(set(both.topics)) == len(set(both.ids)) == 10
    assert set(both.exchangeable) == {"no topic"}
    assert both.permutation == "permuted"


def test_partners_are_swapped_and_few_stragglers_stay() -> None:
    safe, unsafe = (load_set(name, count=20) for name in ("safe", "unsafe"))
    paired = Labelled.of(safe, unsafe)
    assert sorted(Counter(paired.exchangeable).values()) == [2] * 20
    assert paired.permutation == "swapped between partners"
    one_less = Labelled(paired.labels[1:], paired.topics[1:], paired.ids[1:], paired.partners[1:])
    assert Counter(Counter(one_less.exchangeable).values()) == {2: 19, 1: 1}
    many_less = Labelled(paired.labels[10:], paired.topics[10:], paired.ids[10:], paired.partners[10:])
    assert not any(name.startswith("pair") for name in many_less.exchangeable)
    drawn = permuted_labels(many_less.labels, many_less.exchangeable, draws=100)
    assert (drawn.sum(axis=1) == 20).all()
    assert (drawn.mean(axis=0) < 1).all()


def test_no_half_of_a_permuted_set_loses_a_class() -> None:
    labels = np.repeat([False, True], [40, 4])
    halves = split_halves(labels, None, splits=4)
    assert any((permuted_labels(labels, draws=50)[:, half].sum(axis=1) % 4 == 0).any() for half in halves)
    kept = permuted_labels(labels, draws=50, halves=halves)
    assert all(set(kept[:, half].sum(axis=1)) <= {1, 2, 3} for half in halves)


def test_a_set_of_one_topic_is_resampled_request_by_request(tmp_path: Path) -> None:
    (_, one), (_, several) = (one_class(tmp_path, kind) for kind in ("one", "shared"))
    assert len(set(one.topics)) == 60
    assert one.notes[-1] == "topics are left out, 1 being too few to resample: each request stands alone"
    assert len(set(several.topics)) == 20


# XSTest


def contrasts(folder: Path) -> Path:
    """A table in XSTest's published format: safe requests that look harmful, and contrasts that are."""
    rows = ["id,prompt,type,label,focus,note"]
    for kind in ("homonyms", "figurative_language", "safe_targets", "definitions"):
        for number in range(3):
            rows.append(f'{len(rows)},"How do I kill {kind} process {number}, quickly?",{kind},safe,kill,')
            rows.append(f'{len(rows)},"How do I kill neighbour {number} of {kind}?",contrast_{kind},unsafe,kill,')
    file = folder / "xstest_prompts.csv"
    file.write_text("\n".join(rows) + "\n")
    return file


def test_safe_and_unsafe_requests_of_xstest_are_told_apart(tmp_path: Path) -> None:
    file = contrasts(tmp_path)
    safe, unsafe = (
        RequestSettings(sources=((kind, f"{file}?label={kind}"),)).load(kind) for kind in ("safe", "unsafe")
    )
    assert all("process" in text for text in safe.texts)
    assert all("neighbour" in text for text in unsafe.texts)
    assert (len(safe), len(set(safe.topics)), set(unsafe.topics) & set(safe.topics)) == (12, 4, set())
    assert unsafe.topics[0] == "contrast_homonyms"
    assert safe.facts()["where"] == {"label": "safe"}
    both = Labelled.of(safe, unsafe)
    assert (int(both.labels.sum()), len(both.labels)) == (12, 24)
    whole = load_set(file)
    assert whole.mixed
    assert "some requests are safe and others unsafe, as column 'label' says" in whole.notes
    with pytest.raises(GeometryBenchError, match=r"both kinds, as its column label says: write .*\?label=safe or"):
        RequestSettings(sources=(("safe", str(file)),)).load("safe")
    with pytest.raises(
        GeometryBenchError, match="The set XSTest holds requests of both kinds: name xstest-safe or xstest-"
    ):
        RequestSettings(sources=(("safe", "XSTest"),)).load("safe")
