"""Documents of schema 1, read as those of today: every baseline that was ever committed in it, and lines of results."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import pytest

from geometry_bench.claims.registry import CLAIMS
from geometry_bench.judging import judge_claim
from geometry_bench.records.baselines import read_baseline
from geometry_bench.records.files import read_measurements
from geometry_bench.records.measurement import SCHEMA, Absence, Baseline
from geometry_bench.records.migration import _CURVES, parse

ARCHIVE = Path(__file__).parent / "data" / "baselines-schema-1.tar.xz"


def stored() -> dict[str, str]:
    with tarfile.open(ARCHIVE) as archive:
        files = [(member.name, archive.extractfile(member)) for member in archive]
        return {name: file.read().decode() for name, file in files if file is not None}


STORED = stored()


@pytest.mark.parametrize("name", STORED)
def test_a_committed_baseline_loses_nothing_and_is_judged_as_it_was(name: str, tmp_path: Path) -> None:
    raw = json.loads(STORED[name])
    path = tmp_path / "b.json"
    path.write_text(STORED[name], encoding="utf-8")
    found = read_baseline(path)
    assert found.schema_version == SCHEMA
    assert (found.subject.id, found.subject.revision) == (raw["subject"]["id"], raw["subject"]["revision"])
    assert list(found.cases) == list(raw["cases"])
    for key, measurement in zip(raw["cases"], found.measurements(), strict=True):
        old, case = raw["cases"][key], found.cases[key]
        assert measurement.key == key
        assert case.reason == old["reason"]
        assert list(case.estimates) == list(old["estimates"])
        for variant, was in old["estimates"].items():
            now = case.estimates[variant]
            for field in ("value", "error", "low", "high", "n", "label", "notes", "arithmetic", "profile"):
                assert getattr(now, field) == was[field]
            assert now.block == was["layer"]
            assert (now.null and now.null.model_dump(exclude_none=True)) == was["null"]
            assert (None if now.units is None else now.units.values) == was["leave_one_out"]
            points: dict[str, list[tuple[float, float | None]]] = {}
            for detail in was["details"].keys() - now.details.keys():
                curve = re.fullmatch(r"(.*?)(?:_at)?_([\d.e+-]+)", detail)
                assert curve is not None
                points.setdefault(curve[1], []).append((float(curve[2]), was["details"][detail]))
            found_points = {
                one: list(zip(of.x, of.y, strict=True)) for one, of in now.curves.items() if one != "profile"
            }
            assert {one: sorted(of) for one, of in found_points.items()} == {
                one: sorted(of) for one, of in points.items()
            }
            assert now.details == {one: was["details"][one] for one in now.details}
            assert not [one for one in now.details for pattern in _CURVES if re.fullmatch(pattern, one)]
        answer = judge_claim(CLAIMS[measurement.claim], measurement)
        assert answer.verdict == old["claim"]
        if not old["estimates"]:
            assert case.missing is not None
            assert case.missing.reason is Absence.UNSAID
            assert case.missing.sentence == answer.sentence == old["claim_reason"]


def as_lines(text: str) -> list[str]:
    """The stored cases as lines of results of schema 1."""
    raw = json.loads(text)
    lines = []
    for key, kept in raw["cases"].items():
        claim, _, case = key.partition("[")
        verdicts = {"claim": kept["claim"], "claim_reason": kept["claim_reason"]}
        whose = {"schema_version": 1, "claim": claim, "case": case.removesuffix("]"), "subject": raw["subject"]}
        same = {name: kept[name] for name in ("claim_version", "inputs", "estimates", "environment")}
        lines.append(json.dumps({**whose, **same, "verdicts": verdicts}))
    return lines


@pytest.mark.parametrize("subject", ["family__zoo__llama-d80", "group__zoo-base", "zoo__neox-d96__base"])
def test_a_line_of_results_reads_as_the_stored_case(subject: str, tmp_path: Path) -> None:
    (text,) = (text for name, text in STORED.items() if f"/{subject}/" in name)
    path = tmp_path / "records.jsonl"
    nobody = json.loads(as_lines(text)[0]) | {"inputs": {}, "estimates": {}}  # kept of subjects that a run did not have
    path.write_text("\n".join([*as_lines(text), json.dumps(nobody)]), encoding="utf-8")
    assert list(read_measurements(path)) == parse(Baseline, text, "it").measurements()
