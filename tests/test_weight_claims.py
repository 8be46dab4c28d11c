"""Source D's claims on weight updates as an instrument: planted updates, the embedded family, faults."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from models import tiny_model
from planted import measure, verdict
from safetensors.torch import load_file, save_file

from geometry_bench.asked import request_of
from geometry_bench.claims.model import Case
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.claims.safety_subspaces.weights import percentile_layers
from geometry_bench.errors import GeometryBenchError
from geometry_bench.labs.family import ALIGNMENT, SHARES, THRESHOLDS, FamilyLab
from geometry_bench.options import OPTIONS
from geometry_bench.records.facts import FamilyFacts
from geometry_bench.records.judgement import ClaimVerdict
from geometry_bench.records.measurement import NotApplicableError
from geometry_bench.run.execute import Session
from geometry_bench.run.plan import plan
from geometry_bench.run.request import Request, Settings
from geometry_bench.subjects.families import load_family
from geometry_bench.updates.store import Store
from geometry_bench.updates.sweep import common_names

Delta = Callable[[str, np.random.Generator, tuple[int, ...]], np.ndarray]
BLOCKS = 5


def gaussian(role: str, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return generator.standard_normal(shape)


def planted(
    folder: Path,
    delta: Delta,
    roles: tuple[str, ...] = ("aligned", "useful", "harmful"),
    *,
    step: float = 1e-2,
    exact_start: bool = False,
) -> FamilyLab:
    """A family whose members differ from their start by ``step · delta(role, generator, shape)`` in every tensor."""
    base = tiny_model("llama", folder, name="base", num_hidden_layers=BLOCKS)
    weights = {name: tensor.double() for name, tensor in load_file(base / "model.safetensors").items()}
    if exact_start:
        weights = {name: (64 * tensor).round() / 64 for name, tensor in weights.items()}
        stored = {name: tensor.float() for name, tensor in weights.items()}
        save_file(stored, base / "model.safetensors", metadata={"format": "pt"})
    text = 'schema = 1\nname = "planted"\n[[members]]\nrole = "base"\nmodel = "base"\n'
    states = {"base": weights}
    for role in roles:
        parent = "base" if role == "aligned" else "aligned"
        generator = np.random.default_rng(sum(role.encode()))
        states[role] = {
            name: start + step * torch.from_numpy(delta(role, generator, tuple(start.shape)))
            for name, start in states[parent].items()
        }
        tiny_model("llama", folder, name=role, num_hidden_layers=BLOCKS)
        stored = {name: tensor.float() for name, tensor in states[role].items()}
        save_file(stored, folder / role / "model.safetensors", metadata={"format": "pt"})
        text += f'[[members]]\nrole = "{role}"\nmodel = "{role}"\nparent = "{parent}"\n'
    (folder / "family.toml").write_text(text, encoding="utf-8")
    return FamilyLab(load_family(folder), progress=False)


@pytest.fixture(scope="module")
def unrelated(tmp_path_factory: pytest.TempPathFactory) -> FamilyLab:
    return planted(tmp_path_factory.mktemp("unrelated"), gaussian)


def test_unrelated_updates_keep_energy_by_dimension_and_overlap_by_chance(unrelated: FamilyLab) -> None:
    for task in ("useful", "harmful"):
        energy = measure("weights.energy_linear", unrelated, task)
        assert energy.value == pytest.approx(0, abs=0.02)
        assert verdict("weights.energy_linear", energy) is ClaimVerdict.HOLDS
        curves = {name: curve.y for name, curve in energy.curves.items() if len(curve.x) == len(SHARES)}
        assert curves["top"] == pytest.approx(curves["dimensions"], abs=0.05)
        assert curves["random"] == pytest.approx(curves["dimensions"], abs=0.02)
        assert curves["dimensions_floor"][0] == 0  # ⌊ρ·min⌋ is nothing where the code keeps one direction
    overlap = measure("weights.mso_above_random", unrelated, "useful-harmful")
    assert overlap.value == pytest.approx(0, abs=0.02)
    assert verdict("weights.mso_above_random", overlap) is not ClaimVerdict.HOLDS
    order = measure("weights.mso_order", unrelated, "aligned")
    assert order.details["share_highest"] == pytest.approx(1 / 3, abs=0.25)
    assert verdict("weights.mso_order", order) is not ClaimVerdict.HOLDS  # one of three is ahead by chance, no more


def test_a_harmful_update_that_undoes_alignment_is_told(tmp_path: Path) -> None:
    made: dict[tuple[int, ...], list[np.ndarray]] = {}

    def undoing(role: str, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        update = generator.standard_normal(shape) * (np.geomspace(1, 0.1, shape[0])[:, None] if len(shape) == 2 else 1)
        if role == "aligned":
            made.setdefault(shape, []).append(update)
        if role == "harmful":
            update = -0.5 * made[shape].pop(0)
        return update

    family = planted(tmp_path, undoing)
    for variant in ("published", "corrected"):
        overlap = measure("weights.mso_above_random", family, "harmful-alignment", variant)
        assert overlap.curves["mso"].y[THRESHOLDS.index(0.5)] == pytest.approx(1, abs=1e-4)
    order = measure("weights.mso_order", family, "aligned")
    assert order.details["share_highest"] == 1
    assert verdict("weights.mso_order", order) is ClaimVerdict.FAILS
    harmful = measure("weights.energy_linear", family, "harmful")
    assert verdict("weights.energy_linear", harmful) is ClaimVerdict.FAILS
    assert harmful.details["vectors_energy"] == pytest.approx(1, abs=1e-4)
    assert (
        verdict("weights.layer_restricted", measure("weights.layer_restricted", family, "aligned"))
        is ClaimVerdict.FAILS
    )


def test_a_planted_shared_subspace_gives_its_overlap(tmp_path: Path) -> None:
    rank, shared = 4, 0.75
    spans: dict[int, np.ndarray] = {}

    def within(role: str, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) == 1:
            return generator.standard_normal(shape)
        if shape[0] not in spans:
            spans[shape[0]] = np.linalg.qr(np.random.default_rng(shape[0]).standard_normal((shape[0], 2 * rank)))[0]
        span = spans[shape[0]]
        # Three of four equally strong directions lie in the alignment's span, the fourth outside of it.
        columns = range(rank) if role == "aligned" else [*range(rank - 1), rank + (role == "harmful")]
        right = np.linalg.qr(generator.standard_normal((shape[1], rank)))[0]
        update: np.ndarray = span[:, list(columns)] @ right.T
        return update

    family = planted(tmp_path, within)
    for case in ("useful-harmful", "useful-alignment", "harmful-alignment"):
        assert measure("weights.mso_above_random", family, case).curves["mso"].y[-1] == pytest.approx(shared, abs=0.01)
    assert measure("weights.layer_restricted", family, "aligned").value == pytest.approx(0, abs=0.01)


def test_an_unrelated_task_stands_beside_the_overlaps_where_the_family_has_one(tmp_path: Path) -> None:
    def own_span(role: str, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """The tasks move the first half of the outputs, the control the second, the alignment all of them."""
        update = generator.standard_normal(shape)
        if role in ("useful", "harmful"):
            update[shape[0] // 2 :] = 0
        if role == "control":
            update[: shape[0] // 2] = 0
        return update

    family = planted(tmp_path, own_span, ("aligned", "useful", "harmful", "control"))
    found = measure("weights.mso_above_random", family, "useful-harmful")
    assert found.value is not None
    assert found.value > 0.1
    chance = np.mean(found.curves["haar"].y)
    assert found.details["useful_control"] == pytest.approx(-chance, abs=0.05)
    aligned = measure("weights.mso_above_random", family, "useful-alignment")
    assert aligned.details["alignment_control"] == pytest.approx(aligned.value, abs=0.05)
    assert measure("weights.energy_linear", family, "useful").details["control_excess"] == pytest.approx(0, abs=0.03)


def test_directions_that_an_update_of_low_rank_lacks_are_not_counted_against_it(tmp_path: Path) -> None:
    def low(role: str, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        if role != "aligned" or len(shape) == 1:
            return generator.standard_normal(shape)
        # Whole numbers over a power of two: no rounding adds directions.
        left, right = generator.integers(-8, 9, (shape[0], 3)), generator.integers(-8, 9, (3, shape[1]))
        update: np.ndarray = (left @ right).astype(float)
        return update

    family = planted(tmp_path, low, step=2.0**-7, exact_start=True)
    assert {one.rank for one in family.readings("aligned")} == {3}
    energy = measure("weights.energy_linear", family, "useful")
    assert energy.value == pytest.approx(0, abs=0.03)
    assert verdict("weights.energy_linear", energy) is ClaimVerdict.HOLDS


def test_leaving_a_block_out_is_measuring_without_it(unrelated: FamilyLab) -> None:
    found = measure("weights.mso_above_random", unrelated, "useful-harmful")
    readings = unrelated.readings("aligned")
    assert found.units is not None
    assert set(found.units.ids or ()) == {"outside of blocks", *(f"block {number}" for number in range(BLOCKS))}
    without = [one for one in readings if one.layer != readings[0].layer]
    expected = np.mean([one.overlap["useful", "harmful"].excess for one in without])
    assert found.units.values[0] == pytest.approx(expected)
    assert found.profile is not None
    assert len(found.profile) == BLOCKS
    published = measure("weights.mso_above_random", unrelated, "useful-harmful", "published")
    assert published.n == len(percentile_layers(BLOCKS))
    assert [percentile_layers(layers) for layers in (28, 16, 2)] == [(19, 22, 23), (11, 12, 13), (1,)]


def test_the_published_energy_is_pooled_over_all_matrices(unrelated: FamilyLab) -> None:
    updates, kept, total = unrelated.updates("aligned"), 0.0, 0.0
    for name in common_names(updates, dimensions=2):
        axis, delta = (updates[label].delta(name).astype(np.float64) for label in (ALIGNMENT, "useful"))
        top = np.linalg.svd(axis)[0][:, : round(min(axis.shape) / 2)]
        kept, total = kept + np.sum((top.T @ delta) ** 2), total + np.sum(delta**2)
    published = measure("weights.energy_linear", unrelated, "useful", "published")
    assert published.curves["top"].y[SHARES.index(0.5)] == pytest.approx(kept / total, abs=1e-6)


def test_the_embedded_family_is_measured_with_every_role() -> None:
    family = FamilyLab(load_family(Path("zoo/llama-d80")), progress=False)
    for claim in (one for one in CLAIMS.values() if one.scope == "family" and one.asked_by is None):
        for case in claim.cases:
            if case.key == "dpo-useful-harmful":  # nothing was fine-tuned from the model tuned by DPO
                with pytest.raises(NotApplicableError, match="this pair has nothing to do with it"):
                    claim.measure(family, case)
                continue
            for estimate in claim.measure(family, case).values():
                assert estimate.null is not None
                assert estimate.low is not None
                assert np.isfinite([estimate.value, estimate.low, estimate.high]).all()
    dpo = measure("weights.dpo", family, "dpo-harmful-alignment")
    assert "fine-tunes start from safety_tuned, not from safety_dpo" in dpo.notes
    assert dpo.curves["mso"].x == list(THRESHOLDS)


def test_decompositions_are_kept_and_change_nothing(unrelated: FamilyLab, tmp_path: Path) -> None:
    plain = measure("weights.mso_above_random", unrelated, "useful-alignment")
    for _ in range(2):  # the second one reads what the first has stored
        kept = FamilyLab(unrelated.family, Store(tmp_path), progress=False)
        assert measure("weights.mso_above_random", kept, "useful-alignment").value == pytest.approx(
            plain.value, abs=1e-9
        )
    store = Store(tmp_path)
    entries = store.entries()
    assert entries
    assert store.clear(older_than=timedelta(days=1)) == 0
    assert store.clear() == len(entries)
    assert not store.entries()


# Runs and faults


def test_a_family_is_one_subject_of_a_run_and_is_resumed(unrelated: FamilyLab) -> None:
    claims = {"weights.layer_restricted": CLAIMS["weights.layer_restricted"]}
    planned = plan(Request(families=(unrelated.family,), claims=claims, settings=Settings(cache=False)))
    one = Session(planned).measure(planned.tasks[0])
    assert isinstance(one.subject, FamilyFacts)
    assert one.subject.id == "family/planted"
    assert set(one.subject.members) == {"base", "aligned", "useful", "harmful"}
    again = Session(planned, [one])
    assert again.is_resumed(again.measure(planned.tasks[0]))


def test_without_a_family_or_a_member_the_way_out_is_named(tmp_path: Path) -> None:
    claim = CLAIMS["weights.mso_order"]
    absent = plan(Request(claims={claim.id: claim}))
    assert not absent.tasks
    assert ["--weights FILE" in one.sentence for one in absent.missing] == [True]
    lacking = planted(tmp_path, gaussian, ("aligned", "useful"))
    with pytest.raises(NotApplicableError, match=r"has no member of role harmful .* `geometry-bench family build`"):
        claim.measure(lacking, Case("aligned", ("aligned",)))


def test_a_zero_update_is_told(tmp_path: Path) -> None:
    def same(role: str, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(shape) if role == "aligned" else generator.standard_normal(shape)

    with pytest.raises(GeometryBenchError, match="aligned and base of the family planted have the same matrices"):
        planted(tmp_path, same).readings("aligned")


def test_weights_of_a_family_can_be_measured_without_its_members() -> None:
    values = {option.dest: option.default for option in OPTIONS}
    alone = request_of(values | {"gb_weights": ["zoo/llama-d80"]})
    assert not alone.specs
    assert [family.id for family in alone.families] == ["zoo/llama-d80"]
    both = request_of(values | {"gb_family": ["zoo/llama-d80"], "gb_weights": ["zoo/llama-d80"]})
    assert len(both.families) == 1
    assert len(both.specs) == 10
    assert [family.id for family in request_of(values).families] == ["zoo/llama-d80"]
    assert ALIGNMENT not in {member.role for member in both.families[0].members}
