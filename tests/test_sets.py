"""The prompt sets: what the built-in ones hold, and files and public sets read into the same form."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
import re
import statistics
import subprocess
import sys
import types
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geometry_bench.errors import GeometryBenchError
from geometry_bench.prompts import public, sets, tables
from geometry_bench.prompts.builtin import BUILT_IN
from geometry_bench.prompts.sets import RequestSet, load_set

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = ROOT / "fixtures" / "prompts"
TOKENIZER = ROOT / "fixtures" / "zoo" / "llama-d80" / "base"
REAL = ROOT.parent / "shared" / "data" / "sets"


def lengths(found: RequestSet) -> list[int]:
    return [len(text.split()) for text in found.texts]


def fault(call: Callable[[], object]) -> str:
    with pytest.raises(GeometryBenchError) as caught:
        call()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert re.search(r"[.?]$", sentence)
    return sentence


# Built-in sets

COUNTS = {
    "unsafe": (300, 20),
    "safe": (300, 20),
    "safe-short": (300, 20),
    "safe-long": (300, 20),
    "safe-unmatched": (300, 20),
    "harmful-a": (500, 10),
    "harmful-b": (500, 10),
    "refusal-style": (240, 10),
    "jailbreak": (300, 20),
    "jailbreak-safe": (300, 20),
    "instructions": (3000, 12),
    "maths": (300, 10),
}


def test_counts_topics_and_distinctness() -> None:
    assert {name: (len(load_set(name)), len(set(load_set(name).topics))) for name in BUILT_IN} == COUNTS
    for name in BUILT_IN:
        found = load_set(name)
        assert found.sampled.duplicates == 0
        assert found.sampled.seed is None
        assert len({request.id for request in found.requests}) == len(found)
        assert not any(re.search(r"[{}]|  |\bA [aeio]", text) for text in found.texts)
        assert all(text[0] == text[0].upper() and text == text.strip() for text in found.texts)


def test_topics_are_balanced() -> None:
    for name, (count, topics) in COUNTS.items():
        assert set(Counter(load_set(name).topics).values()) == {count // topics}, name


def test_the_script_writes_what_is_stored() -> None:
    done = subprocess.run(
        [sys.executable, PROMPTS / "write_requests.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_unsafe_request_has_a_safe_partner_of_its_length_and_wording() -> None:
    unsafe, safe = load_set("unsafe"), load_set("safe")
    by_id = {request.id: request for request in safe.requests}
    differences = []
    for request in unsafe.requests:
        assert request.partner is not None
        partner = by_id[request.partner]
        assert partner.partner == request.id
        assert partner.topic == request.topic
        assert partner.text != request.text
        shared = set(request.text.lower().split()) & set(partner.text.lower().split())
        assert len(shared) >= 0.4 * len(request.text.split())
        differences.append(len(request.text.split()) - len(partner.text.split()))
    assert max(map(abs, differences)) <= 1
    assert statistics.mean(map(abs, differences)) < 0.1
    assert abs(statistics.mean(lengths(unsafe)) - statistics.mean(lengths(safe))) <= 0.3
    assert abs(statistics.pstdev(lengths(unsafe)) - statistics.pstdev(lengths(safe))) <= 0.3


def test_partners_have_about_as_many_tokens() -> None:
    tokenizer = pytest.importorskip("tokenizers").Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
    unsafe, safe = ([len(tokenizer.encode(text).ids) for text in load_set(n).texts] for n in ("unsafe", "safe"))
    assert abs(statistics.mean(unsafe) / statistics.mean(safe) - 1) < 0.02
    assert abs(statistics.pstdev(unsafe) / statistics.pstdev(safe) - 1) < 0.1
    assert statistics.mean(abs(a - b) for a, b in zip(unsafe, safe, strict=True)) < 2


def test_unmatched_safe_requests_differ_in_length_alone() -> None:
    safe, short, long = (load_set(name) for name in ("safe", "safe-short", "safe-long"))
    assert max(lengths(short)) < statistics.mean(lengths(safe))
    assert min(lengths(long)) > 2 * max(lengths(safe))
    assert statistics.pstdev(lengths(load_set("safe-unmatched"))) > 5 * statistics.pstdev(lengths(safe))
    for plain, wordy in zip(safe.requests, long.requests, strict=True):
        assert plain.text in wordy.text
        assert (plain.topic, plain.partner) == (wordy.topic, wordy.partner)


def test_sets_that_are_compared_share_no_text() -> None:
    names = ("unsafe", "safe", "harmful-a", "harmful-b", "refusal-style", "instructions", "maths")
    texts = {name: {text.lower() for text in load_set(name).texts} for name in names}
    for one, other in itertools.combinations(names, 2):
        assert not texts[one] & texts[other], (one, other)
    a, b = load_set("harmful-a"), load_set("harmful-b")
    assert not set(a.topics) & set(b.topics)
    assert set(a.topics) | set(b.topics) == set(load_set("unsafe").topics)


def test_jailbreaks_add_a_framing_and_nothing_else() -> None:
    plain = {request.id: request.text for request in (*load_set("unsafe").requests, *load_set("safe").requests)}
    frames: dict[str, set[str]] = {}
    for request in (*load_set("jailbreak").requests, *load_set("jailbreak-safe").requests):
        assert request.wrapper is not None
        assert request.partner is not None
        assert plain[request.partner] in request.text
        frames.setdefault(request.wrapper, set()).add(request.text.replace(plain[request.partner], "{request}"))
    assert len(frames) == 10
    assert all(len(frame) == 1 for frame in frames.values())
    for topic in set(load_set("jailbreak").topics):
        assert {r.wrapper for r in load_set("jailbreak").requests if r.topic == topic} == set(frames)


def test_hash_covers_the_content_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_set("unsafe")
    assert first == load_set("UNSAFE")
    assert re.fullmatch(r"[0-9a-f]{64}", first.hash)
    assert len({load_set(name).hash for name in BUILT_IN}) == len(BUILT_IN)
    (tmp_path / "one.txt").write_text("Sing a song.\nBake a cake.\n")
    (tmp_path / "two.txt").write_text("\r\nSing a song.  \r\n\r\nBake a cake.")
    (tmp_path / "three.txt").write_text("Sing a song.\nBake a cake!\n")
    one, two, three = (load_set(tmp_path / f"{name}.txt") for name in ("one", "two", "three"))
    assert one.hash == two.hash != three.hash
    assert one.revision != two.revision
    assert str(tmp_path) not in json.dumps(one.facts())


def test_draws_are_seeded_nested_and_keep_partners() -> None:
    few, more, other = (
        load_set("unsafe", count=20, seed=3),
        load_set("unsafe", count=60, seed=3),
        load_set("unsafe", count=20, seed=4),
    )
    assert few == load_set("unsafe", count=20, seed=3)
    assert few.sampled == sets.Sampled(seed=3, count=20, available=300, duplicates=0)
    assert set(few.requests) < set(more.requests)
    assert few.hash != other.hash
    order = {request.id: place for place, request in enumerate(load_set("unsafe").requests)}
    assert [order[r.id] for r in more.requests] == sorted(order[r.id] for r in more.requests)
    for name in ("safe", "safe-long", "safe-unmatched"):
        assert {r.partner for r in load_set(name, count=20, seed=3).requests} == {r.id for r in few.requests}
    assert {r.partner for r in load_set("jailbreak", count=20, seed=3).requests} == {r.id for r in few.requests}


# Files

ROWS = [
    {"prompt": "How do trams brake?", "kind": "a", "keep": True},
    {"prompt": "Why is rain wet, and snow white?", "kind": "b", "keep": False},
    {"prompt": " how do  trams BRAKE? ", "kind": "a", "keep": True},
    {"prompt": "Name \"three\" rivers.\nThen sort them.", "kind": "b", "keep": True},
]  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    elif path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(row["prompt"].replace("\n", " ") for row in rows))
    return path


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl", "parquet"])
def test_tables_of_every_format_give_the_same_set(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"mine.{ending}", ROWS)
    found = load_set(path, topic_column="kind")
    assert found.texts == [ROWS[0]["prompt"], ROWS[1]["prompt"], ROWS[3]["prompt"]]
    assert [r.id for r in found.requests] == ["row-1", "row-2", "row-4"]
    assert found.topics == ["a", "b", "b"]
    assert (found.name, found.origin, found.column) == (f"mine.{ending}", "file", "prompt")
    assert found.sampled == sets.Sampled(seed=None, count=3, available=3, duplicates=1)
    assert found.revision.startswith("sha256:")
    assert load_set(f"{path}:kind").texts == ["a", "b"]
    assert load_set(str(path), where={"keep": True}).texts == [ROWS[0]["prompt"], ROWS[3]["prompt"]]
    assert (
        load_set(path, topic_column="kind").hash == load_set(write(tmp_path / "x.json", ROWS), topic_column="kind").hash
    )


def test_texts_and_bare_strings_need_no_column(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", ROWS)
    (tmp_path / "b.json").write_text('{"version": 2, "prompts": ["Sing.", "Dance."]}')
    assert len(load_set(tmp_path / "a.txt")) == 3
    assert load_set(tmp_path / "a.txt").topics == ["row-1", "row-2", "row-4"]
    assert load_set(tmp_path / "b.json").texts == ["Sing.", "Dance."]
    assert load_set(tmp_path / "b.json").column == "text"


def test_usual_columns_are_found_in_their_order(tmp_path: Path) -> None:
    advbench = write(tmp_path / "a.csv", [{"target": "Sure.", "goal": "Sing a song."}])
    assert (load_set(advbench).column, load_set(advbench).texts) == ("goal", ["Sing a song."])
    behaviours = [
        {"Behavior": "Sing.", "FunctionalCategory": "standard", "SemanticCategory": "music", "ContextString": ""},
        {
            "Behavior": "Sing it.",
            "FunctionalCategory": "contextual",
            "SemanticCategory": "b",
            "ContextString": "A song.",
        },
    ]
    harmbench = write(tmp_path / "h.csv", behaviours)
    assert load_set(harmbench).texts == ["Sing.", "A song.\n\nSing it."]
    assert load_set(harmbench).topics == ["music", "b"]
    assert load_set(harmbench, where={"FunctionalCategory": "Standard"}).texts == ["Sing."]


def test_faults_of_names_and_columns(tmp_path: Path) -> None:
    assert "did you mean harmful-b or harmful-a?" in fault(lambda: load_set("harmful"))
    assert "advbench" in fault(lambda: load_set("adv-bench"))
    assert "instructions" in fault(lambda: load_set("zzzzzz"))
    assert "does not exist" in fault(lambda: load_set(tmp_path / "none.csv"))
    assert "does not exist" in fault(lambda: load_set(f"{tmp_path}/none.csv:prompt"))
    (tmp_path / "x.yaml").write_text("a")
    assert ".parquet" in fault(lambda: load_set(tmp_path / "x.yaml"))
    assert "is a folder" in fault(lambda: load_set(tmp_path))
    path = write(tmp_path / "mine.csv", ROWS)
    for sentence in (
        fault(lambda: load_set(path, column="promt")),
        fault(lambda: load_set(f"{path}:promt")),
        fault(lambda: load_set(path, topic_column="promt")),
        fault(lambda: load_set(path, where={"promt": "x"})),
    ):
        assert "'promt' (did you mean prompt?)" in sentence
        assert "prompt, kind, keep" in sentence
    unusual = write(tmp_path / "unusual.csv", [{"a": "x", "b": "y"}])
    assert "name one of a, b" in fault(lambda: load_set(unusual))
    assert "no columns" in fault(lambda: load_set("safe", column="text"))


def test_faults_of_contents(tmp_path: Path) -> None:
    def content(name: str, text: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return fault(lambda: load_set(path))

    assert "is empty" in content("a.csv", "")
    assert "is empty" in content("b.csv", "prompt,kind\n")
    assert "is empty" in content("c.txt", "\n \n")
    assert "is empty" in content("d.json", "[]")
    assert "no request" in content("e.json", '[{"prompt": " "}, {"prompt": null}]')
    assert "line 2" in content("f.txt", b"fine\n\xff\xfe\n")
    assert "line 2" in content("g.jsonl", '{"prompt": "x"}\n{"prompt": \n')
    assert "line 2" in content("h.jsonl", b'{"prompt": "x"}\n"\xff"\n')
    assert ".jsonl" in content("i.json", '{"prompt": "x"}\n{"prompt": "y"}')
    assert "no list of rows" in content("j.json", '{"prompt": "x"}')
    assert "row 2" in content("k.json", '["x", 3]')
    assert "int in row 1" in content("l.json", '[{"prompt": 3}]')
    assert "fewer cells than columns at line 3" in content("m.csv", "prompt,kind\nx,a\ny\n")
    assert "more cells than columns at line 2" in content("n.csv", "prompt,kind\nwell, then,a\n")
    assert "two columns 'a'" in content("o.csv", "a,a\nx,y\n")
    assert "parquet" in content("p.parquet", "this is no parquet file")


def test_too_few_rows_are_told_with_the_duplicates(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", ROWS)
    assert "has 3 requests (after dropping 1 duplicates), fewer than the 4" in fault(lambda: load_set(path, count=4))
    assert "has 300 requests, fewer than the 301" in fault(lambda: load_set("safe", count=301))
    assert "at least 1" in fault(lambda: load_set("safe", count=0))
    assert "kind = c" in fault(lambda: load_set(path, where={"kind": "c"}))


def test_what_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "geometry-bench[data]" in fault(lambda: load_set(tmp_path / "x.parquet"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "geometry-bench[data]" in fault(lambda: load_set("gsm8k"))


def test_importing_the_sets_imports_nothing_heavy() -> None:
    code = (
        "import sys; from geometry_bench.prompts.sets import load_set; load_set('safe', count=5); "
        "print([m for m in ('torch', 'transformers', 'datasets', 'pyarrow', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


# Public sets


def test_public_sets_are_declared_once_and_pinned_to_whole_commits() -> None:
    wanted = {
        "advbench", "harmbench", "xstest", "beavertails", "toxigen", "alpaca", "math", "gsm8k", "prompt-safety-dataset",
        "extended-refusal",
    }  # fmt: skip
    assert wanted <= set(public.PUBLIC)
    assert not set(public.PUBLIC) & set(BUILT_IN)
    for entry in public.PUBLIC.values():
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", entry.hub)
        assert entry.revision is None or re.fullmatch(r"[0-9a-f]{40}", entry.revision)


class FakeDatasets(types.ModuleType):
    """Stands in for the library: rows by (hub id, configuration), and a note of every call."""

    def __init__(self, rows: dict[tuple[str, str | None], list[dict[str, Any]]]) -> None:
        super().__init__("datasets")
        self.rows = rows
        self.calls: list[tuple[str, str | None, str, str]] = []
        self.exceptions = types.SimpleNamespace(
            DatasetsError=type("DatasetsError", (Exception,), {}),
        )

    def load_dataset(self, name: str, config: str | None, *, split: str, revision: str) -> list[dict[str, Any]]:
        self.calls.append((name, config, split, revision))
        if (name, config) not in self.rows:
            raise self.exceptions.DatasetsError(f"no {name}")
        return self.rows[name, config]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeDatasets:
    asked = [{"prompt": f"Question {i // 2}?", "is_safe": i % 4 < 2, "category": {"x": i % 2 == 0}} for i in range(12)]
    module = FakeDatasets(
        {
            ("PKU-Alignment/BeaverTails", None): asked,
            **{
                ("EleutherAI/hendrycks_math", config): [{"problem": f"Solve {config}.", "type": config}]
                for config in public.PUBLIC["math"].configs
            },
            ("me/mine", None): [{"query": "Why?", "answer": "So."}, {"query": "Who?", "answer": "We."}],
        }
    )
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_public_sets_are_read_at_their_commit(fake: FakeDatasets) -> None:
    unsafe = load_set("BeaverTails-unsafe")
    commit = public.PUBLIC["beavertails"].revision
    assert unsafe.texts == ["Question 1?", "Question 3?", "Question 5?"]
    assert (unsafe.name, unsafe.origin, unsafe.revision) == ("beavertails-unsafe", "dataset", commit)
    assert unsafe.sampled == sets.Sampled(seed=None, count=3, available=3, duplicates=3)
    assert fake.calls == [("PKU-Alignment/BeaverTails", None, "30k_train", commit)]
    maths = load_set("math", count=3, seed=1)
    assert [call[1] for call in fake.calls[1:]] == list(public.PUBLIC["math"].configs)
    assert len(set(maths.topics)) == 3


def test_any_hub_set_is_resolved_before_it_is_read(fake: FakeDatasets, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[tuple[str, str | None]] = []

    class Api:
        def dataset_info(self, name: str, *, revision: str | None, timeout: float) -> Any:
            asked.append((name, revision))
            return types.SimpleNamespace(sha="a" * 40)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert load_set("me/mine").texts == ["Why?", "Who?"]
    assert load_set("me/mine@v2:answer").texts == ["So.", "We."]
    assert load_set("me/mine").revision == "a" * 40
    assert asked == [("me/mine", None), ("me/mine", "v2"), ("me/mine", None)]
    assert {call[3] for call in fake.calls} == {"a" * 40}
    assert "its columns are query, answer" in fault(lambda: load_set("me/mine:quary"))
    assert "me/other cannot be loaded" in fault(lambda: load_set("me/other"))


def test_offline_the_cached_commit_is_used(fake: FakeDatasets, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    class Api:
        def dataset_info(self, *_: object, **__: object) -> Any:
            raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert "cannot be reached" in fault(lambda: load_set("me/mine"))
    (tmp_path / "datasets--me--mine" / "refs").mkdir(parents=True)
    (tmp_path / "datasets--me--mine" / "refs" / "main").write_text("b" * 40)
    assert load_set("me/mine").revision == "b" * 40


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="needs the extra data")
def test_the_real_library_reads_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder named like a Hub id is read by the library itself."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me" / "mine").mkdir(parents=True)
    write(tmp_path / "me" / "mine" / "train.jsonl", ROWS)
    monkeypatch.setattr(public, "commit_of", lambda _: "c" * 40)
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = list(public.hub_rows(public.Public("me/mine"), "c" * 40))
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in ROWS]
    assert "other cannot be loaded" in fault(lambda: list(public.hub_rows(public.Public("./other"), "c" * 40)))


# Real files


@pytest.mark.parametrize(
    ("file", "column", "count", "duplicates"),
    [
        ("advbench/harmful_behaviors.csv", "goal", 520, 0),
        ("harmbench/harmbench_behaviors_text_all.csv", "Behavior", 400, 0),
        ("gsm8k/test.jsonl", "question", 1319, 0),
        ("refusal_direction/splits_harmful_test.json", "instruction", None, None),
        ("toxigen/hate_women_1k.txt", "text", None, None),
    ],
)
def test_real_files(file: str, column: str, count: int | None, duplicates: int | None) -> None:
    path = REAL / file
    if not path.is_file():
        pytest.skip(f"the optional file {file} is not beside the repository")
    found = load_set(path)
    assert found.column == column
    assert len(found) + found.sampled.duplicates == (count or len(list(tables.read_rows(path))))
    assert duplicates is None or found.sampled.duplicates == duplicates
    assert all(len(text) > 5 for text in found.texts)
    assert len(load_set(path, count=50, seed=2)) == 50


def test_the_built_in_files_hold_the_declared_sets_and_no_other() -> None:
    from geometry_bench.prompts.collection import read_collection

    names = [read_collection(PROMPTS / file, file).names for file in dict.fromkeys(BUILT_IN.values())]
    assert sorted(itertools.chain.from_iterable(names)) == sorted(BUILT_IN)
