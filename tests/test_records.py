"""Files of measurements and baselines: what is kept, what is refused, what an interruption leaves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made import INPUTS, SUBJECT, measured, units
from safetensors.numpy import load_file

from geometry_bench.claims.criteria import Above
from geometry_bench.errors import GeometryBenchError
from geometry_bench.records import baselines
from geometry_bench.records.arrays import INLINE
from geometry_bench.records.baselines import (
    BaselineStore,
    Found,
    check_update,
    read_baseline,
    update_baselines,
    write_baseline,
)
from geometry_bench.records.estimates import Curve, Estimate, Null, Packed
from geometry_bench.records.files import ResultsFile
from geometry_bench.records.judgement import ClaimVerdict
from geometry_bench.records.measurement import SCHEMA, Absence, Baseline, Measurement, Missing
from geometry_bench.storage import write_atomically

NUMBERS = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(NUMBERS, st.lists(NUMBERS, min_size=1, max_size=5), st.booleans(), st.text(max_size=8))
def test_what_is_written_is_read_back(
    tmp_path: Path, value: float | None, row: list[Any], long: bool, note: str
) -> None:
    """In results and in baselines; a long row of numbers lies beside the json."""
    row = row * (INLINE + 1) if long else row
    estimate = Estimate(
        value=value,
        n=len(row),
        units=units(*row),
        notes=[note],
        details={"x": value},
        curves={"c": Curve.over_blocks(row)},
    )
    one = measured(estimate=estimate)
    file = ResultsFile(tmp_path / f"results-{long}")
    file.write(one)
    assert file.read()[-1] == one
    assert (file.path.parent / "arrays").exists() == long
    path = tmp_path / f"baseline-{long}.json"
    write_baseline(path, Baseline.of([one], "first"))
    assert read_baseline(path).measurements() == [one]
    assert path.with_suffix(".safetensors").exists() == long


def test_numbers_that_two_cases_share_are_kept_once(tmp_path: Path) -> None:
    arrays = {name: Packed.of(np.full((9, 2), number, np.float32)) for number, name in enumerate(("same", "other"))}
    one = measured(estimate=Estimate(value=0.5, n=9, arrays=arrays))
    two = one.model_copy(update={"case": "another"})
    write_baseline(tmp_path / "b.json", Baseline.of([one, two], "first"))
    assert read_baseline(tmp_path / "b.json").measurements() == [one, two]
    assert len(load_file(tmp_path / "b.safetensors")) == 2


def test_undefined_is_null_and_never_nan() -> None:
    text = measured(estimate=Estimate(value=float("nan"), error=float("inf"), n=8)).model_dump_json()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in a record"))
    assert found["estimates"]["corrected"]["value"] is None
    assert found["estimates"]["corrected"]["error"] is None


def test_a_null_leaves_undefined_draws_out() -> None:
    null = Null.of("n", [float("nan"), *range(101)], 50.5)
    assert (null.draws, null.mean, null.low, null.high) == (101, 50, pytest.approx(4.1), pytest.approx(95.9))
    assert null.percentile == pytest.approx(100 * 51 / 101)


def test_a_draw_that_rounding_alone_sets_apart_is_a_tie() -> None:
    value = 0.1 + 0.2  # just above 0.3
    assert value > 0.3
    null = Null.of("n", [0.0, *[0.3] * 30], value)
    assert (null.high, null.percentile) == (value, pytest.approx(100 / 31))
    assert Above().judge(Estimate(value=value, n=9, null=null)).verdict is ClaimVerdict.INCONCLUSIVE
    assert Null.of("n", [0.0, *[0.3 - 1e-6] * 30], value).high < value


# Refused in one sentence


def refusal(read: Callable[[], object], *words: object) -> None:
    with pytest.raises(GeometryBenchError) as error:
        read()
    assert "\n" not in str(error.value)
    for word in words:
        assert str(word) in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe", "cannot be read"),
        (b"{", "is not valid JSON"),
        (b"[]", "has no schema_version"),
        (b'{"subject": {}}', "has no schema_version"),
        ({"schema_version": SCHEMA + 1}, f"has schema {SCHEMA + 1}, newer than"),
        ({"schema_version": SCHEMA, "subject": {}}, "is damaged at 'cases' (missing)"),
        ({"schema_version": SCHEMA, "subject": {}, "cases": {}}, "is damaged at 'subject'"),
        ({"schema_version": SCHEMA, "subject": SUBJECT.model_dump(), "cases": {"c": {}}}, "is damaged at 'cases.c."),
        ({"schema_version": SCHEMA, "subject": SUBJECT.model_dump(), "cases": {}, "more": 1}, "is damaged at 'more'"),
        ({"schema_version": 1, "subject": {}, "cases": {"c": {}}}, "is damaged at 'estimates' (missing)"),
    ],
)
def test_a_bad_baseline(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "b.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    refusal(lambda: read_baseline(path), path, words)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-8] + b"12345678")])
def test_numbers_beside_the_json_that_are_missing_or_damaged(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    one = measured(estimate=Estimate(value=0.5, n=INLINE + 1, units=units(*range(INLINE + 1))))
    path, file = tmp_path / "b.json", ResultsFile(tmp_path / "results")
    write_baseline(path, Baseline.of([one], "first"))
    file.write(one)
    (beside,) = (tmp_path / "results" / "arrays").iterdir()
    for arrays, read in ((path.with_suffix(".safetensors"), lambda: read_baseline(path)), (beside, file.read)):
        damage(arrays)
        refusal(read, arrays, "is missing or damaged")


def test_a_newer_line_of_results_is_refused_with_its_number(tmp_path: Path) -> None:
    file = ResultsFile(tmp_path)
    file.write(measured())
    with file.path.open("a") as stream:
        stream.write(json.dumps(json.loads(measured("b").model_dump_json()) | {"schema_version": SCHEMA + 1}) + "\n")
    refusal(file.read, file.path, "line 2 has schema")


# Written whole or not at all


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for attempt in (
        lambda: write_atomically(tmp_path / "file" / "below.json", ""),
        lambda: ResultsFile(tmp_path / "file"),
        lambda: ResultsFile(tmp_path / "file" / "below"),
    ):
        refusal(attempt, "cannot be written")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    refusal(lambda: ResultsFile(tmp_path / "results"), "records.jsonl cannot be written")


def test_nothing_is_made_before_the_first_measurement(tmp_path: Path) -> None:
    file = ResultsFile(tmp_path / "results")
    assert file.read() == []
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("left", [1, 20, "}", 400, -1])
def test_a_line_cut_by_a_kill_costs_that_line_only(tmp_path: Path, left: Any) -> None:
    file = ResultsFile(tmp_path)
    file.write(measured("a"))
    first = file.path.read_bytes()
    file.write(measured("b"))
    second = file.path.read_bytes()[len(first) :]
    file.path.write_bytes(first + second[: second.index(b"}") + 1 if left == "}" else left])
    kept = ["a", "b"] if left == -1 else ["a"]  # with the line break alone missing the line is whole
    assert [one.case for one in file.read()] == kept
    file.write(measured("c"))
    assert [one.case for one in file.read()] == [*kept, "c"]


# Baselines


KNOWN = frozenset({"family.claim[a]", "family.claim[b]", "family.claim[c]"})


@dataclass
class Kept:
    """A store in a folder, updated by modes; ``values`` are what it holds, with the reasons."""

    store: BaselineStore

    def update(self, *measurements: Measurement, modes: str, reason: str | None = None) -> dict[str, tuple[Any, str]]:
        update_baselines(self.store, measurements, modes.split(), reason, lambda members: KNOWN)
        cases = read_baseline(self.store.path(SUBJECT)).cases
        return {key[13:-1]: (case.estimate and case.estimate.value, case.reason) for key, case in cases.items()}


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    found = Kept(BaselineStore((tmp_path,)))
    before = found.update(measured("a"), measured("b"), measured("gone"), modes="new")
    assert before == dict.fromkeys(("a", "b", "gone"), (0.5, "first measurement"))
    return found


FIRST = (0.5, "first measurement")


@pytest.mark.parametrize(
    ("modes", "cases"),
    [
        ("new", {"a": FIRST, "b": FIRST, "c": (0.5, "second"), "gone": FIRST}),
        ("changed", {"a": (0.9, "second"), "b": FIRST, "gone": FIRST}),
        ("trim", {"a": FIRST, "b": FIRST}),  # b was not measured again, and is declared
        ("new changed trim", {"a": (0.9, "second"), "b": FIRST, "c": (0.5, "second")}),
    ],
)
def test_each_mode_does_its_own(kept: Kept, modes: str, cases: dict[str, Any]) -> None:
    assert kept.update(measured("a", value=0.9), measured("c"), modes=modes, reason="second") == cases


def test_what_was_not_asked_for_is_not_kept_and_replaces_no_value(kept: Kept) -> None:
    unasked = Missing(reason=Absence.NOT_ASKED, sentence="it takes long")
    cases = [measured(case, estimates={}, missing=unasked) for case in ("a", "c")]
    assert kept.update(*cases, modes="new changed", reason="second") == dict.fromkeys(("a", "b", "gone"), FIRST)
    # and is dropped where an earlier release kept it
    path = kept.store.path(SUBJECT)
    write_baseline(path, Baseline.of([*read_baseline(path).measurements(), cases[1]], FIRST[1]))
    assert kept.update(measured("a"), modes="new") == dict.fromkeys(("a", "b", "gone"), FIRST)
    nothing = SUBJECT.model_copy(update={"id": "c/d", "name": "c/d"})
    alone = [measured(subject=nothing, estimates={}, missing=unasked)]
    assert not update_baselines(kept.store, alone, ["new"], None, lambda members: KNOWN)


def test_writing_that_is_interrupted_says_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BaselineStore((tmp_path,))
    subjects = [SUBJECT.model_copy(update={"id": name, "name": name}) for name in ("a/b", "c/d", "e/f")]
    original = baselines.write_baseline

    def second_is_interrupted(path: Path, baseline: Any) -> None:
        if "c__d" in str(path):
            raise KeyboardInterrupt
        original(path, baseline)

    monkeypatch.setattr(baselines, "write_baseline", second_is_interrupted)
    with pytest.raises(GeometryBenchError, match=r"1 of 3 files are \(\S+a__b\S+\); run it again"):
        update_baselines(store, [measured(subject=one) for one in subjects], ["new"], None, lambda members: KNOWN)
    assert [path.parts[-3] for path in tmp_path.rglob("*.json")] == ["a__b"]


@pytest.mark.parametrize(
    "change",
    [{"claim_version": 2}, {"inputs": INPUTS.model_copy(update={"hash": "q"})}, {"estimate": Estimate(value=0.5, n=9)}],
)
def test_changed_is_all_but_environment(kept: Kept, change: dict[str, Any]) -> None:
    same = measured("b").model_copy(update={"environment": measured().environment.model_copy(update={"seconds": 9.0})})
    found = kept.update(measured("a", **change), same, modes="changed", reason="second")
    assert {key: reason for key, (_, reason) in found.items()} == {"a": "second", "b": FIRST[1], "gone": FIRST[1]}


def test_replacing_needs_a_reason_and_a_known_mode() -> None:
    refusal(lambda: check_update(["all"], None), "--baseline-update=all is not known: use any of new, changed, trim")
    refusal(lambda: check_update(["new", "changed"], None), 'needs a reason: add --update-reason "..."')
    refusal(lambda: check_update(["trim"], ""), "needs a reason")
    check_update(["new"], None)


def test_where_a_baseline_lies_and_how_it_is_found(tmp_path: Path) -> None:
    own, bundled = BaselineStore((tmp_path / "own", tmp_path / "bundled")), BaselineStore((tmp_path / "bundled",))
    assert own.find("org/name", SUBJECT.revision) is None
    path = bundled.path(SUBJECT)
    assert path == tmp_path / "bundled" / "org__name" / ("a" * 40) / "float32-sdpa.json"
    write_baseline(path, Baseline.of([measured()], "first"))
    assert own.find("org/name", SUBJECT.revision) == Found(path)
    assert (own.names(), own.revisions("org/name")) == (["org/name"], ["a" * 40])
    assert own.find("org/name", "b" * 40) is None
    # one of other settings is found too, and judged incomparable by name; one of the same settings comes first
    assert own.find("org/name", SUBJECT.revision, "float32-eager") == Found(path)
    eager = SUBJECT.model_copy(update={"attention": "eager"})
    write_baseline(own.path(eager), Baseline.of([measured(subject=eager)], "first"))
    assert own.find("org/name", SUBJECT.revision, "float32-eager") == Found(own.path(eager))
    write_baseline(own.path(SUBJECT), Baseline.of([measured(value=0.7)], "own"))
    assert own.find("org/name", SUBJECT.revision, "float32-sdpa") == Found(own.path(SUBJECT))  # hides the bundled one


def test_settings_and_content_hashes_in_file_names(tmp_path: Path) -> None:
    changes = {"quantisation": "int8", "adapter_hash": "sha256:" + "c" * 64, "revision": "sha256:" + "d" * 64}
    path = BaselineStore((tmp_path,)).path(SUBJECT.model_copy(update=changes))
    assert path.parent.name == "sha256-" + "d" * 16
    assert path.stem == "float32-sdpa-int8-adapter-" + "c" * 12
