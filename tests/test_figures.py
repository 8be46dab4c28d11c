"""Figures: every kind over the stored baselines, its specification, its drawing, and what hostile names do to it."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from planted import made_up

import geometry_bench as gb
from geometry_bench import plots
from geometry_bench.errors import GeometryBenchError
from geometry_bench.judging import judge_run
from geometry_bench.records.baselines import BaselineStore
from geometry_bench.records.estimates import Curve, Estimate, Null
from geometry_bench.records.facts import TrajectoryFacts
from geometry_bench.records.judgement import Judgement
from geometry_bench.report.figures import FIGURES, config, drawn, svg
from geometry_bench.report.figures.headline import NAME_HEIGHT, Course, apart
from geometry_bench.report.figures.layers import read_at
from geometry_bench.report.figures.theme import palette
from geometry_bench.resources import data_root

HOSTILE = "\"><script>alert('x')</script> ‮evil⁦ {{datum.x}} " + "w" * 300
NOT_STORED = {"trajectory", "changes", "displacement"}
"""Kinds of which no baseline holds anything: a training run, and comparisons, which are derived."""


@pytest.fixture(scope="module")
def stored() -> list[Judgement]:
    """The zoo's aligned model and the family, the groups and a real model, as they are stored."""
    store = BaselineStore((data_root() / "baselines" / "measured",))
    names = (
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "zoo/llama-d64/aligned",
        "family/zoo/llama-d80",
        "group/zoo-aligned",
    )
    return judge_run(one for name in names for found in store.all(name) for one in found.baseline.measurements())


def together(judged: Sequence[Judgement], scope: str) -> list[list[Judgement]]:
    """The judgements that a page of a scope shows together."""
    groups: dict[object, list[Judgement]] = defaultdict(list)
    for one in judged:
        key = one.measurement.key, one.measurement.subject.id
        groups[{"measurement": key, "claim": one.measurement.claim, "board": 0}.get(scope, key[1])].append(one)
    return list(groups.values())


def test_every_kind_draws_the_stored_baselines(stored: list[Judgement]) -> None:
    for figure in FIGURES.values():
        rows = [row for group in together(stored, figure.scope) for row in figure.rows(group)]
        assert bool(rows) == (figure.name not in NOT_STORED), figure.name
        json.dumps(rows, allow_nan=False)
        assert all(isinstance(value, float | int | str | bool | None) for row in rows for value in row.values())


@pytest.mark.parametrize("name", FIGURES)
def test_every_specification_is_valid_without_data_and_the_same_each_time(name: str) -> None:
    """Altair validates against Vega-Lite's schema."""
    found, again = FIGURES[name].specification(), FIGURES[name].chart().to_dict(validate=False)
    assert found["data"] == {"name": "values"}
    assert "datasets" not in found
    assert {**again, "description": FIGURES[name].caption} == {**found, "config": again["config"]}


def test_vega_draws_a_mark_of_every_kind_and_an_empty_picture_of_nothing(stored: list[Judgement]) -> None:
    for figure in FIGURES.values():
        rows = next((rows for group in together(stored, figure.scope) if (rows := figure.rows(group))), [])
        text = svg(figure, rows, dark=figure.scope == "claim")
        assert config(figure.scope == "claim")["background"] in text
        assert bool(re.search('aria-roledescription="(point|rect mark)"', text)) == bool(rows), figure.name


def test_names_stay_data() -> None:
    claims = ("safety.baseline_sign", "safety.compassion_alignment")
    judged = judge_run(
        one.model_copy(update={"estimates": {"corrected": profiled(one.estimates["published"])}})
        for one in (made_up(claim, 0.4, HOSTILE) for claim in claims)
    )
    for scope in ("board", "claim", "measurement"):
        for figure, rows in drawn(judged if scope == "board" else judged[:1], scope):
            text = svg(figure, rows)
            assert "<script" not in text
            assert "&lt;script" in text or figure.scope == "measurement"
            assert "evil" not in json.dumps(figure.specification())


def profiled(estimate: Estimate) -> Estimate:
    null = Null.of("made up", np.linspace(-0.2, 0.3, 101), 0.4)
    return estimate.model_copy(
        update={"value": 0.4, "low": 0.1, "high": 0.6, "block": 1, "curves": {"profile": Curve.over_blocks([0.1, 0.4])}}
        | {"null": null}
    )


def test_the_null_band_is_the_null_of_the_value_at_the_block_that_it_is_read_at() -> None:
    made = made_up("safety.compassion_alignment", 0.4)
    estimate = profiled(made.estimates["published"])
    (one,) = judge_run([made.model_copy(update={"estimates": {"corrected": estimate}})])
    rows = {part: [row for row in FIGURES["profile"].rows([one]) if row["part"] == part] for part in ("null", "value")}
    (band,), (value,), null = rows["null"], rows["value"], estimate.null
    assert null is not None
    assert (band["low"], band["high"]) == (null.low, null.high)
    assert (band["from"], band["to"], value["x"], value["y"]) == (0.5, 1.5, 1.0, 0.4)


def test_a_value_that_is_no_point_of_the_profile_has_no_place_on_it() -> None:
    curve = {"profile": Curve.over_blocks([0.1, 0.5, 0.3, 0.2])}
    assert read_at(Estimate(value=0.5, n=1, block=1, curves=curve)) == (1, 1)
    assert read_at(Estimate(value=0.5, n=1, block=2, curves=curve)) is None
    assert read_at(Estimate(value=0.4, n=1, curves=curve), range(1, 3)) == (1, 2)
    assert read_at(Estimate(value=0.1, n=1, curves=curve)) == (0, 0)
    assert read_at(Estimate(value=0.275, n=1, curves=curve)) == (0, 3)
    assert read_at(Estimate(value=0.27, n=1, curves=curve)) is None
    assert read_at(Estimate(value=None, n=1, curves=curve)) is None


def test_a_row_of_the_headline_holds_both_profiles_and_the_slider_finds_the_nearest_block(
    stored: list[Judgement],
) -> None:
    rows = {row["subject"]: row for row in FIGURES["headline"].rows(stored) if row["variant"] == "corrected"}
    assert set(rows) == {"HuggingFaceTB/SmolLM2-135M-Instruct", "zoo/llama-d64/aligned"}
    for name, row in rows.items():
        profiles = [
            one.measurement.estimate.profile  # type: ignore[union-attr]
            for claim in ("safety.baseline_sign", "safety.compassion_alignment")
            for one in stored
            if (one.measurement.claim, one.measurement.subject.id) == (claim, name)
        ]
        assert [[float(x) for x in str(row[axis]).split(" ")] for axis in ("xs", "ys")] == [
            pytest.approx(profile, abs=5e-5) for profile in profiles
        ]
        assert row["at"] == row["layers"] - 1
    course = Course({}, 5, {block: (block / 10, 0.0) for block in range(1, 5)})
    assert [course.near(depth) for depth in (0.0, 0.13, 0.6, 1.0)] == [None, (0.1, 0.0), (0.2, 0.0), (0.4, 0.0)]


def test_published_models_stand_in_the_headline_without_any_measurement() -> None:
    rows = {row["subject"]: row for row in FIGURES["headline"].rows([])}
    assert len(rows) == 8
    assert {row["kind"] for row in rows.values()} == {"published"}
    llama = rows["Llama 3.1 8B"]
    assert float(str(llama["xs"]).split(" ")[-1]) == pytest.approx(-0.29, abs=0.01)
    assert llama["first"] == 22


def test_the_source_s_own_values_are_drawn_of_the_source_and_of_its_models() -> None:
    (found,) = BaselineStore((data_root() / "baselines" / "measured",)).all("publication/universal_direction")
    rows = FIGURES["auroc"].rows(judge_run(found.baseline.measurements()))
    assert {row["part"] for row in rows} == {"reported"}
    assert len(rows) == 14
    reported = {row["direction"]: row["x"] for row in rows if row["member"] == "Llama 2 13B Chat"}
    assert reported == {"own direction": 0.8508, "shared direction": 0.2347}


def test_names_do_not_meet() -> None:
    names = [(0.0, 0.5, 0.1), (0.2, 0.7, 0.11), (0.4, 0.9, 0.1), (0.95, 1.2, 0.1)]
    moved = [(left, right, height + by) for (left, right, height), by in zip(names, apart(names), strict=True)]
    assert moved[3] == names[3]
    for (a, b, y), (left, right, other) in combinations(moved, 2):
        assert a >= right or left >= b or abs(y - other) >= NAME_HEIGHT - 1e-9


def test_a_comparison_is_drawn_in_units_of_its_margins(stored: list[Judgement]) -> None:
    store = BaselineStore((data_root() / "baselines" / "measured",))
    child, parent = (
        gb.Results(tuple(store.all(f"zoo/llama-d80/aligned{more}")[0].baseline.measurements()))
        for more in ("-harmful", "")
    )
    judged = gb.compare(child, parent).judgements
    rows = {row["case"]: row for row in FIGURES["changes"].rows(judged)}
    (refusal,) = (one for one in judged if one.measurement.key == "gate.refusal")
    assert next(iter(rows)).startswith("gate.")
    assert rows["gate.refusal"]["x"] == pytest.approx(refusal.baseline.facts["delta"] / 0.1)
    assert rows["gate.refusal"]["verdict"] == "MOVED"
    blocks = [row for row in FIGURES["displacement"].rows(judged) if row.get("case") == "gate.refusal"]
    assert [row["y"] for row in blocks] == refusal.compared.curves["by_block"].y  # type: ignore[union-attr]


def test_a_training_run_is_drawn_by_its_steps() -> None:
    steps = [0.0, 50.0, 100.0]
    facts = TrajectoryFacts(id="run", name="run", revision="r", members={}, steps=steps)
    curve = Curve(axis="step", x=steps, y=[0.5, None, -0.2], low=[0.4, None, -0.3], high=[0.6, None, -0.1])
    estimate = Estimate(value=0.9, n=3, curves={"by_step": curve})
    made = made_up("finetune.trajectory", 0.9, case="safety-baseline")
    (one,) = judge_run([made.model_copy(update={"subject": facts, "estimates": {"corrected": estimate}})])
    assert [(row["x"], row["y"], row["low"]) for row in FIGURES["trajectory"].rows([one])] == [
        (0.0, 0.5, 0.4),
        (100.0, -0.2, -0.3),
    ]


def test_power_counts_the_calibration_s_runs(stored: list[Judgement]) -> None:
    gate = [one for one in stored if one.measurement.claim == "gate.refusal"]
    rows = {
        (row["line"], row["x"]): row for row in FIGURES["power"].rows(gate) if row["panel"].startswith("direction ro")
    }
    runs = json.loads((data_root() / "benchmarks" / "calibration" / "outcomes.json").read_text())["runs"]
    found = [run for run in runs if (run["edit"], run["what"], run["dose"]) == ("rotation", "refusal", 20)]
    moved = sum(run["cases"]["gate.refusal"]["verdict"] == "MOVED" for run in found)
    assert (rows["refusal direction", 20]["moved"], rows["refusal direction", 20]["runs"]) == (moved, len(found))
    assert FIGURES["power"].rows([one for one in stored if one.measurement.claim == "gate.ruler"]) == []


# In Python


def test_each_kind_has_its_function_and_the_sentence_says_what_to_choose(stored: list[Judgement]) -> None:
    results = gb.Results(tuple(one.measurement for one in stored))
    assert {f"plot_{name}" for name in FIGURES} == {name for name in gb.__all__ if name.startswith("plot_")}
    assert all(getattr(gb, f"plot_{name}").__name__ == f"plot_{name}" for name in FIGURES)
    chart = gb.plot_profile(results, claim="safety.baseline_sign", subject="zoo/llama-d64/aligned")
    assert chart.to_dict()["datasets"]["values"]
    assert gb.plot_axes(results["safety.baseline_sign", "zoo/llama-d64/aligned"]).to_dict() != chart.to_dict()
    with pytest.raises(
        GeometryBenchError, match=r"2 figures 'axes' can be drawn .* choose one with claim= and subject="
    ):
        gb.plot_axes(results)
    with pytest.raises(GeometryBenchError, match="nothing to draw as 'energy'"):
        gb.plot_energy(results, subject="zoo/llama-d64/aligned")
    with pytest.raises(GeometryBenchError, match="There is no figure 'pie'"):
        plots.plot(results, "pie")


def test_without_altair_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from geometry_bench.report.figures import model

    monkeypatch.setattr(model, "has_altair", lambda: False)
    model._specification.cache_clear()
    with pytest.raises(GeometryBenchError, match=r"Figures need altair: pip install 'geometry-bench\[report\]'"):
        FIGURES["profile"].specification()


def test_curves_are_a_frame_of_every_place(stored: list[Judgement]) -> None:
    results = gb.Results(tuple(one.measurement for one in stored))
    frame = results.curves()
    places = sum(
        len(curve.x)
        for one in stored
        for found in one.measurement.estimates.values()
        for curve in found.curves.values()
    )
    assert len(frame) == places
    assert {"variant", "curve", "axis", "x", "y"} <= set(frame.columns)
    assert list(gb.Results(()).curves().columns) == list(frame.columns)


# Colours

# Machado, Oliveira & Fernandes (2009), severity 1, on linear RGB.
SEEN = {
    "normal": np.eye(3),
    "deuteranopia": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "protanopia": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
}
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], LUMINANCE, [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / TO_XYZ.sum(axis=1)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("dark", [False, True])
def test_colours_are_told_apart_with_colour_blindness_and_stand_out_from_the_page(dark: bool) -> None:
    page = LUMINANCE @ linear(config(dark)["background"])
    for matrix in SEEN.values():
        seen = [lab(matrix @ linear(colour)) for colour in palette(dark)]
        assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 15
    for colour in palette(dark):
        light, dim = sorted((LUMINANCE @ linear(colour), page), reverse=True)
        assert (light + 0.05) / (dim + 0.05) >= 3
