"""Record and baseline files: what is kept, what is refused, what an interruption leaves."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from geometry_bench.records.schema import (
    SCHEMA,
    Baseline,
    BaselineVerdict,
    ClaimVerdict,
    Estimate,
    Null,
    PublishedVerdict,
    Record,
    Verdicts,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geometry_bench.errors import GeometryBenchError
from geometry_bench.records.files import (
    BaselineStore,
    ResultsFile,
    read_baseline,
    settings_name,
    updated,
)
from geometry_bench.storage import write_atomically

SUBJECT = {
    "id": "org/name",
    "name": "org/name",
    "revision": "a" * 40,
    "dtype": "float32",
    "attention": "sdpa",
    "quantisation": None,
    "adapter_hash": None,
}


def record(case: str = "a", value: float | None = 0.5, claim: str = "HOLDS", **fields: Any) -> Record:
    return Record(
        claim="family.claim",
        claim_version=fields.pop("version", 1),
        case=case,
        subject=SUBJECT,
        inputs=fields.pop("inputs", {"pack_hash": "p"}),
        estimates={"corrected": Estimate(value=value, n=8, **fields)},
        verdicts=Verdicts(
            claim=ClaimVerdict(claim),
            claim_reason="so",
            published=PublishedVerdict.NO_FIGURE,
            published_reason="none",
            baseline=BaselineVerdict.NO_BASELINE,
            baseline_reason="none",
        ),
        environment={"seconds": 0.1},
    )


NUMBERS = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(NUMBERS, st.lists(NUMBERS, max_size=5), st.text(max_size=8))
def test_what_is_written_is_read_back(tmp_path: Path, value: float | None, left_out: list[Any], note: str) -> None:
    written = record(value=value, leave_one_out=left_out, notes=[note], details={"x": value})
    file = ResultsFile(tmp_path)
    file.append(written)
    assert file.read()[-1] == written


def test_undefined_is_null_and_never_nan(tmp_path: Path) -> None:
    text = record(value=float("nan"), error=float("inf")).model_dump_json()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in a record"))
    assert found["estimates"]["corrected"]["value"] is None
    assert found["estimates"]["corrected"]["error"] is None


def test_a_null_leaves_undefined_draws_out() -> None:
    null = Null.of("n", [float("nan"), *range(101)], 50.5)
    assert (null.draws, null.mean, null.low, null.high) == (101, 50, 5, 95)
    assert null.percentile == pytest.approx(100 * 51 / 101)


# --- refused ---------------------------------------------------------------------------------------------------------


def one_sentence(error: pytest.ExceptionInfo[GeometryBenchError], path: Path) -> str:
    text = str(error.value)
    assert str(path) in text
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not valid JSON"),
        ("", "is not valid JSON"),
        ("[]", "has no schema_version"),
        ('{"subject": {}}', "has no schema_version"),
        (json.dumps({"schema_version": SCHEMA + 1}), f"has schema {SCHEMA + 1}, newer than"),
        (json.dumps({"schema_version": SCHEMA, "subject": {}}), "is damaged at 'cases'"),
        (json.dumps({"schema_version": SCHEMA, "subject": {}, "cases": {"c": {}}}), "is damaged at 'cases.c."),
        (json.dumps({"schema_version": SCHEMA, "subject": {}, "cases": {}, "more": 1}), "is damaged at 'more'"),
    ],
)
def test_a_bad_baseline_is_told_in_one_sentence(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "org__name" / "a" / "float32-sdpa.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(GeometryBenchError) as error:
        read_baseline(path)
    assert words in one_sentence(error, path)
    with pytest.raises(GeometryBenchError):
        BaselineStore((tmp_path,)).all()


def test_a_baseline_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(GeometryBenchError) as error:
        read_baseline(path)
    assert "cannot be read" in one_sentence(error, path)


def test_a_newer_record_is_refused_with_its_line(tmp_path: Path) -> None:
    file = ResultsFile(tmp_path)
    file.append(record())
    newer = json.loads(record("b").model_dump_json()) | {"schema_version": SCHEMA + 1}
    with file.path.open("a") as stream:
        stream.write(json.dumps(newer) + "\n")
    with pytest.raises(GeometryBenchError) as error:
        file.read()
    assert "line 2 has schema" in one_sentence(error, file.path)


# --- written whole or not at all -------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for attempt in (
        lambda: write_atomically(tmp_path / "file" / "below.json", ""),
        lambda: ResultsFile(tmp_path / "file"),
        lambda: ResultsFile(tmp_path / "file" / "below"),
    ):
        with pytest.raises(GeometryBenchError, match="cannot be written"):
            attempt()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(GeometryBenchError, match="not writable"):
        ResultsFile(tmp_path / "results")


def test_nothing_is_made_before_the_first_record(tmp_path: Path) -> None:
    file = ResultsFile(tmp_path / "results")
    assert not (tmp_path / "results").exists()
    assert file.read() == []
    file.append(record())
    assert len(file.path.read_text().splitlines()) == 1


@pytest.mark.parametrize("left", [1, 20, 400, -1])
def test_a_line_cut_by_a_kill_costs_that_line_only(tmp_path: Path, left: int) -> None:
    file = ResultsFile(tmp_path)
    file.append(record("a"))
    whole = file.path.read_bytes()
    file.append(record("b"))
    both = file.path.read_bytes()
    file.path.write_bytes(both[: len(whole) + left] if left > 0 else both[:-1])
    kept = ["a"] if left > 0 else ["a", "b"]  # only the line break missing: the record is whole
    assert [r.case for r in file.read()] == kept
    file.append(record("c"))
    assert [r.case for r in file.read()] == [*kept, "c"]


def test_a_line_cut_right_after_a_brace(tmp_path: Path) -> None:
    file = ResultsFile(tmp_path)
    file.append(record("a"))
    text = record("b").model_dump_json()
    file.path.write_bytes(file.path.read_bytes() + text[: text.index("}") + 1].encode())
    assert [r.case for r in file.read()] == ["a"]


# --- baselines -------------------------------------------------------------------------------------------------------

KNOWN = frozenset({"family.claim[a]", "family.claim[b]", "family.claim[c]"})


def baseline(*records: Record, reason: str = "first") -> Baseline:
    return updated(None, records, ["new"], reason, KNOWN)


def test_new_adds_and_replaces_nothing() -> None:
    old = baseline(record("a"))
    found = updated(old, [record("a", 0.9), record("b")], ["new"], "second", KNOWN)
    assert list(found.cases) == ["family.claim[a]", "family.claim[b]"]
    assert found.cases["family.claim[a]"] == old.cases["family.claim[a]"]
    assert found.cases["family.claim[b]"].reason == "second"


@pytest.mark.parametrize(
    "change",
    [{"value": 0.9}, {"claim": "FAILS"}, {"version": 2}, {"inputs": {"pack_hash": "q"}}, {"leave_one_out": [0.1, 0.2]}],
)
def test_changed_replaces_what_differs_and_adds_nothing(change: dict[str, Any]) -> None:
    old = baseline(record("a"), record("b"))
    found = updated(old, [record("a", **change), record("b"), record("c")], ["changed"], "second", KNOWN)
    assert list(found.cases) == ["family.claim[a]", "family.claim[b]"]
    assert found.cases["family.claim[a]"].reason == "second"
    assert found.cases["family.claim[b]"] == old.cases["family.claim[b]"]


def test_trim_drops_what_no_claim_declares_and_nothing_that_was_merely_not_measured() -> None:
    old = baseline(record("a"), record("b"), record("gone"))
    found = updated(old, [record("a", 0.9)], ["trim"], "second", KNOWN)
    assert list(found.cases) == ["family.claim[a]", "family.claim[b]"]
    assert found.cases["family.claim[a]"] == old.cases["family.claim[a]"]
    assert list(updated(old, [record("a")], ["new", "changed"], "second", KNOWN).cases) == list(old.cases)


def test_all_modes_together() -> None:
    old = baseline(record("a"), record("gone"))
    found = updated(old, [record("a", 0.9), record("b")], ["new", "changed", "trim"], "second", KNOWN)
    assert {key: case.estimates["corrected"].value for key, case in found.cases.items()} == {
        "family.claim[a]": 0.9,
        "family.claim[b]": 0.5,
    }


def test_where_a_baseline_lies_and_how_it_is_found(tmp_path: Path) -> None:
    own, bundled = BaselineStore((tmp_path / "own", tmp_path / "bundled")), BaselineStore((tmp_path / "bundled",))
    assert own.find("org/name", "a" * 40, SUBJECT) is None
    path = bundled.path(SUBJECT)
    assert path == tmp_path / "bundled" / "org__name" / ("a" * 40) / "float32-sdpa.json"
    write_atomically(path, baseline(record()).model_dump_json())
    found = own.find("org/name", "a" * 40, SUBJECT)
    assert found is not None
    assert (found.path, own.names(), own.revisions("org/name")) == (path, ["org/name"], ["a" * 40])
    assert own.find("org/name", "b" * 40, SUBJECT) is None
    # other settings are found too, and judged incomparable by name; the same settings come first
    eager = SUBJECT | {"attention": "eager"}
    found = own.find("org/name", "a" * 40, eager)
    assert found is not None
    assert found.path == path
    write_atomically(own.path(eager), baseline(record()).model_dump_json())
    found = own.find("org/name", "a" * 40, eager)
    assert found is not None
    assert found.path == tmp_path / "own" / "org__name" / ("a" * 40) / "float32-eager.json"


def test_settings_and_content_hashes_in_file_names(tmp_path: Path) -> None:
    facts = SUBJECT | {"quantisation": "int8", "adapter_hash": "sha256:" + "c" * 64, "revision": "sha256:" + "d" * 64}
    assert settings_name(facts) == "float32-sdpa-int8-adapter-" + "c" * 12
    assert BaselineStore((tmp_path,)).path(facts).parent.name == "sha256-" + "d" * 16
