"""The calibration of the gate: edits are what they are called, a tiny one works end to end, the page is its outcomes'."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from geometry_bench.behavior.ablated import ablated
from geometry_bench.resources import data_root
from geometry_bench.subjects.subject import Subject

CALIBRATION = data_root() / "benchmarks" / "calibration"
sys.path.insert(0, str(CALIBRATION))

import calibrate  # noqa: E402
import edits  # noqa: E402
import report  # noqa: E402
import runs  # noqa: E402
import zoo  # noqa: E402
from outcomes import Share, Stored  # noqa: E402


@pytest.fixture(scope="module", params=["llama-d64/aligned", "neox-d96/aligned"])
def parent(request: pytest.FixtureRequest) -> zoo.Parent:
    return zoo.Parent(request.param, zoo.committed(16), answered=4)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.arange(5, 25)[None]).logits


def test_a_rotation_turns_by_its_angle_and_keeps_lengths() -> None:
    direction, towards = torch.nn.functional.normalize(torch.randn(2, 12, generator=torch.Generator().manual_seed(0)))
    turned = edits.rotation(direction, towards, 10)
    torch.testing.assert_close(turned @ turned.T, torch.eye(12))
    moved = turned @ direction
    assert float(moved @ direction) == pytest.approx(np.cos(np.deg2rad(10)), abs=1e-6)
    assert float((moved - direction).norm()) == pytest.approx(2 * np.sin(np.deg2rad(5)), abs=1e-6)
    assert float(moved @ towards) > float(direction @ towards)


def test_an_ablation_is_that_of_the_package_and_edits_leave_the_model_alone(parent: zoo.Parent) -> None:
    before, direction = weights(parent.model), parent.direction("random", 0)
    edited = edits.written_through(parent.model, edits.ablation(direction, 0.4))
    with ablated(Subject.wrap(parent.model, parent.tokenizer), direction.numpy(), strength=0.4):
        torch.testing.assert_close(logits(edited), logits(parent.model), atol=1e-3, rtol=1e-3)
    model = parent.model
    for other in (edits.scrambled(model, 0.2, 0), edits.noisy(model, 1e-2, 0), edits.rounded(model, 4)):
        assert not torch.equal(logits(other), logits(parent.model))
    assert all(torch.equal(before[name], now) for name, now in weights(parent.model).items())


def test_doses_are_what_they_say(parent: zoo.Parent) -> None:
    model, before = parent.model, weights(parent.model)
    changed = {
        name: now for name, now in weights(edits.scrambled(model, 0.2, 0)).items() if not torch.equal(before[name], now)
    }
    (name,) = changed
    rows = (changed[name] != before[name]).any(dim=1).sum()
    assert int(rows) == round(0.2 * len(before[name]))
    for name, now in weights(edits.noisy(model, 1e-2, 0)).items():
        if now.numel() > 1000 and before[name].std() > 0:
            assert float((now - before[name]).norm() / before[name].norm()) == pytest.approx(1e-2, rel=0.1)
    for now in weights(edits.rounded(model, 4)).values():
        if now.ndim == 2:
            assert max(len(np.unique(row.numpy())) for row in now[:8]) <= 15


def test_a_tiny_calibration_end_to_end_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["calibrate", "--quick", "--out", str(tmp_path)])
    calibrate.main()
    stored = Stored.read(tmp_path / calibrate.OUTCOMES)
    harmless = stored.of(lambda one: one.harmless)
    assert len(stored.outcomes) == len(runs.quick_runs())
    assert not any(one.moved() for one in harmless)
    assert max(one.largest for one in harmless) < 0.01
    (ablated_whole,) = (one for one in stored.outcomes if one.row["edit"] == "ablation")
    assert ablated_whole.moved("gate.refusal")
    assert ablated_whole.largest > 0.5
    assert "2 children that" not in report.page(stored)

    file = tmp_path / "outcomes.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("".join(f"{line}\n" for line in lines[:-1]) + lines[-1][:20])  # killed while it wrote
    measured: list[str] = []
    monkeypatch.setattr(calibrate, "outcome", lambda run, _: measured.append(run.key) or json.loads(lines[-1]))
    calibrate.main()
    assert measured == [runs.quick_runs()[-1].key]
    assert Stored.read(tmp_path / calibrate.OUTCOMES) == stored


def test_the_page_is_what_the_script_writes_from_the_stored_outcomes() -> None:
    assert report.PAGE.read_text(encoding="utf-8") == report.page(Stored.read(report.STORED))


def test_shares_and_their_bounds() -> None:
    assert Share(0, 240).upper == pytest.approx(1 - 0.05 ** (1 / 240))
    assert Share(3, 3).upper == 1
    assert Share(0, 0).shown == "–"
    assert Share(5, 10).shown == "5 of 10 (50%; 24% to 76%)"
