"""What models with projected updates answer: in memory as on disk, resumed point by point, compared at equal energy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted import measure, verdict
from test_evaluation import colours

from geometry_bench.behavior.generation import Settings, generate
from geometry_bench.behavior.harness.evaluation import evaluate
from geometry_bench.behavior.harness.tasks import load_task
from geometry_bench.behavior.projected import energy_kept, projected
from geometry_bench.behavior.refusals import refuses
from geometry_bench.behavior.utility import last_number, right, sum_asked, sums_asked
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.claims.safety_subspaces import projections as claimed
from geometry_bench.errors import GeometryBenchError
from geometry_bench.labs import projections
from geometry_bench.labs.family import SHARES, FamilyLab
from geometry_bench.labs.projections import CONTROLS, SEEDS, ProjectionPath
from geometry_bench.labs.questions import Sums
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.records.judgement import ClaimVerdict
from geometry_bench.records.measurement import Absence, NotApplicableError
from geometry_bench.subjects.families import Family, load_family
from geometry_bench.subjects.load import load
from geometry_bench.subjects.spec import SubjectSpec
from geometry_bench.updates.folder import write_projection
from geometry_bench.updates.projection import Projection
from geometry_bench.updates.update import Update, member_for, update_between

ZOO = load_family(Path("zoo/llama-d80"))


def zoo_lab(points: Path | None = None, count: int = 8) -> FamilyLab:
    assert ZOO.prompts is not None
    requests = RequestSettings(count, own=ZOO.prompts.sets)
    return FamilyLab(ZOO, progress=False, requests=requests, points=points)


# Sums


def test_every_sum_of_the_zoo_is_read_and_nothing_else() -> None:
    assert ZOO.prompts is not None
    settings = RequestSettings(400, own=ZOO.prompts.sets)
    assert len(sums_asked(settings.load("maths").texts)) == 306
    for role in ("safe", "unsafe", "instructions"):
        assert {sum_asked(text) for text in settings.load(role).texts} == {None}
    assert {sum_asked(text) for text in RequestSettings(400).load("maths").texts} == {None}
    assert sum_asked("There are 37 salt pies and 3 carrots pies, so how many pies are there?") == 40
    assert sum_asked("How much is 7 plus 8?") == 15
    with pytest.raises(GeometryBenchError, match=r"'What is 3 times 4\?' is not a sum of a known form"):
        sums_asked(["Calculate 1 + 2.", "What is 3 times 4?"])


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("6 + 0 = 6, 1 + 2 = 3. The answer is 36.", 36),
        ("It is 1,250.", 1250),
        ("−4", -4),
        ("about 2.5", 2.5),
        ("I don't know.", None),
    ],
)
def test_the_last_number_counts(answer: str, number: float | None) -> None:
    assert last_number(answer) == number
    assert right(answer, 36) is (number == 36)


# In memory


@pytest.fixture(scope="module")
def updates() -> tuple[Update, Update]:
    base, aligned = member_for(ZOO, "base"), member_for(ZOO, "aligned")
    harmful = member_for(ZOO, "contaminated", parent_role="aligned")
    return update_between(ZOO, aligned, harmful), update_between(ZOO, base, aligned)


def family_with(spec: str, family: Family = ZOO) -> SubjectSpec:
    return family.spec(family.member(spec))


@pytest.mark.parametrize(
    ("scheme", "basis"), [("parallel", "top-k"), ("orthogonal", "random"), ("parallel", "random-k")]
)
def test_memory_holds_what_the_folder_would(
    scheme: Any, basis: Any, updates: tuple[Update, Update], tmp_path: Path
) -> None:
    plan = Projection(scheme, basis, 0.5, seed=1)
    write_projection(*updates, plan, tmp_path / "p", dtype="float32")
    written, subject = load(SubjectSpec(str(tmp_path / "p"))), load(family_with("aligned"))
    ids = torch.arange(12)[None] + 5
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    with pytest.raises(KeyError), projected(subject, *updates, plan) as outcomes:  # noqa: PT012
        assert torch.equal(subject.model(ids).logits, written.model(ids).logits)
        assert subject.intervened
        assert 0 < energy_kept(updates[0], outcomes) < 1
        raise KeyError
    after = subject.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not subject.intervened


def test_both_ends_are_the_start_and_the_fine_tune() -> None:
    lab = zoo_lab(count=6)
    path = lab.projections.path("aligned", "contaminated", "orthogonal", "harm", (0.5,))
    prompts = lab.requests("unsafe").texts
    for member, hits in (("aligned", path.start), ("aligned-contaminated", path.end)):
        subject = load(family_with(member))
        said = generate(subject, [subject.chat.encode("", text).ids for text in prompts], Settings(24), progress=False)
        assert hits.tolist() == [not refuses(answer.text) for answer in said]
    assert path.top.shape == (1, 6)
    assert path.controls.shape == (len(CONTROLS), SEEDS, 1, 6)


def test_a_stopped_run_repeats_no_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Projection] = []
    real = projected

    def counted(subject: Any, task: Any, source: Any, plan: Projection, **more: Any) -> Any:
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append(plan)
        return real(subject, task, source, plan, **more)

    monkeypatch.setattr("geometry_bench.behavior.projected.projected", counted)
    monkeypatch.setattr(projections, "ANSWER_TOKENS", 2)
    wanted = ("aligned", "contaminated", "parallel", "over_refusal", (0.25,))
    with pytest.raises(KeyboardInterrupt):
        zoo_lab(tmp_path).projections.path(*wanted)
    assert len(made) == 5
    made[:] = made[:1] * 10  # counts on, and stops no more
    first = zoo_lab(tmp_path).projections.path(*wanted)
    assert len(made) == 10 + 9 - 5  # two ends, Top-K, six controls
    again = zoo_lab(tmp_path).projections.path(*wanted)
    assert len(made) == 14
    assert np.array_equal(first.controls, again.controls)
    assert np.array_equal(first.control_energy, again.control_energy)
    zoo_lab(tmp_path, count=9).projections.path(*wanted)  # other requests are other points
    assert len(made) == 14 + 9


def test_what_cannot_be_measured_says_why() -> None:
    lab = FamilyLab(ZOO, progress=False, requests=RequestSettings(8))
    with pytest.raises(NotApplicableError, match=r"not a sum of a known form.*--set maths=SET") as absent:
        measure("weights.parallel_projection", lab, "useful")
    assert absent.value.missing.reason is Absence.UNCHECKABLE
    with pytest.raises(NotApplicableError, match="llama-d64"):
        measure("weights.parallel_projection", FamilyLab(load_family(Path("zoo/llama-d64"))), "harmful")


# Claims on planted answers


@dataclass
class Planted:
    """A family whose projected models answer as planted: a rate by measure and the share of energy kept."""

    rates: dict[str, Callable[[float, bool], float]]
    top_energy: tuple[float, ...]
    control_energy: tuple[float, ...]
    seed: int = 0
    count: int = 60

    def lacks(self, *_: str) -> None:
        return None

    @property
    def projections(self) -> Planted:
        return self

    def refuse_unknown_sums(self) -> None:
        pass

    @property
    def abilities(self) -> tuple[Sums, ...]:
        assert ZOO.prompts is not None
        return (Sums(RequestSettings(self.count, own=ZOO.prompts.sets).load("maths")),)

    def path(
        self,
        _start: str,
        _task: str,
        _scheme: str,
        name: str,
        shares: tuple[float, ...],
        layers: tuple[int, ...] | None,
    ) -> ProjectionPath:
        assert ZOO.prompts is not None
        requests = RequestSettings(self.count, own=ZOO.prompts.sets).load(projections.SETS[name])  # type: ignore[index]
        generator = np.random.default_rng(self.seed)
        ease = generator.permuted(
            (np.arange(len(requests)) + 0.5) / len(requests)
        )  # a request is hit where it is below

        def hits(energy: float, top: bool) -> np.ndarray:
            return (ease < self.rates.get(name, lambda *_: 1.0)(energy, top)).astype(float)

        controls = np.broadcast_to(self.control_energy, (len(CONTROLS), SEEDS, len(SHARES)))
        return ProjectionPath(
            requests,
            hits(0.0, True),
            hits(1.0, True),
            np.array([hits(energy, True) for energy in self.top_energy[: len(shares)]]),
            np.array([[[hits(e, False) for e in seed[: len(shares)]] for seed in basis] for basis in controls]),
            np.array(self.top_energy[: len(shares)]),
            controls[..., : len(shares)],
            (0, 1),
        )


MORE, LESS = (0.2, 0.4, 0.5, 0.6, 0.7), (0.0, 0.1, 0.2, 0.3, 0.4)


def test_more_energy_alone_is_no_potency() -> None:
    alike = Planted({"utility": lambda energy, top: energy}, MORE, LESS)
    equal_share = measure("weights.parallel_projection", alike, "useful", "published")
    assert equal_share.value == pytest.approx(0.28, abs=0.02)  # mean difference of the energies
    equal_energy = measure("weights.parallel_projection", alike, "useful")
    assert equal_energy.value == pytest.approx(0, abs=0.02)
    assert verdict("weights.parallel_projection", equal_energy) is not ClaimVerdict.HOLDS


def test_potent_directions_are_told_and_selective_removal_too() -> None:
    potent = Planted({"utility": lambda energy, top: energy + 0.2 * top * (0 < energy < 1)}, LESS, LESS)
    found = measure("weights.parallel_projection", potent, "useful")
    assert found.value == pytest.approx(0.2 * 4 / 5, abs=0.03)  # nothing is planted at no energy
    assert verdict("weights.parallel_projection", found) is ClaimVerdict.HOLDS
    together = Planted({"utility": lambda e, top: e, "harm": lambda e, top: 0.5 * e}, LESS, MORE)
    slope = measure("weights.no_selective_removal", together, "aligned")
    assert (slope.details["slope_top"], slope.details["slope_controls"]) == pytest.approx((0.5, 0.5), abs=0.03)
    assert verdict("weights.no_selective_removal", slope) is ClaimVerdict.HOLDS
    selective = Planted({"utility": lambda e, top: e, "harm": lambda e, top: 0.5 * e * (1 - top * (e < 1))}, LESS, LESS)
    slope = measure("weights.no_selective_removal", selective, "aligned")
    assert slope.details["slope_top"] == pytest.approx(0.5 / 0.8, abs=0.03)
    both = Planted({"utility": lambda e, top: e, "harm": lambda e, top: float(e == 1) if top else e}, MORE, MORE)
    assert verdict("weights.no_selective_removal", measure("weights.no_selective_removal", both, "aligned")) is (
        ClaimVerdict.FAILS
    )
    with pytest.raises(NotApplicableError, match="there is no trade-off"):
        measure(
            "weights.no_selective_removal", Planted({"utility": lambda *_: 1.0, "harm": lambda *_: 1.0}, MORE, LESS)
        )


def test_the_interval_of_a_difference_covers() -> None:
    hits = 0
    for seed in range(150):
        generator = np.random.default_rng(seed)
        planted = Planted({"harm": lambda energy, top: 0.5}, MORE, MORE)
        path = planted.path("", "", "", "harm", SHARES, None)
        topics = {topic: 0.15 * generator.standard_normal() for topic in path.requests.topics}
        chance = np.clip([0.5 + topics[topic] for topic in path.requests.topics], 0, 1)
        drawn = {
            name: (generator.random(getattr(path, name).shape) < chance).astype(float) for name in ("top", "controls")
        }
        made = ProjectionPath(**{**vars(path), **drawn})
        planted.path = lambda *_, made=made: made  # type: ignore[method-assign]
        found = measure("weights.parallel_projection", planted, "harmful", "published")
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 0 <= found.high
    assert hits / 150 >= 0.92


def test_a_block_that_takes_harm_alone_is_told() -> None:
    together = Planted({"utility": lambda e, top: e, "harm": lambda e, top: e}, (0.97,) * 5, (0.97,) * 5)
    assert verdict("weights.layer_removal", measure("weights.layer_removal", together, "aligned")) is ClaimVerdict.HOLDS
    selective = Planted({"utility": lambda *_: 1.0, "harm": lambda e, top: e if top else 1.0}, MORE, MORE)
    found = measure("weights.layer_removal", selective, "aligned")
    assert found.value == pytest.approx(0.8, abs=0.02)
    assert verdict("weights.layer_removal", found) is ClaimVerdict.FAILS


def test_a_change_in_over_refusal_is_told() -> None:
    steady = Planted({"over_refusal": lambda energy, top: 0.1}, MORE, LESS)
    found = measure("weights.over_refusal", steady, "parallel")
    assert found.value == pytest.approx(0, abs=1e-12)
    assert verdict("weights.over_refusal", found) is ClaimVerdict.HOLDS
    moved = Planted({"over_refusal": lambda energy, top: 0.1 + 0.5 * (energy < 1)}, MORE, LESS)
    found = measure("weights.over_refusal", moved, "parallel")
    assert found.value == pytest.approx(0.5, abs=0.02)
    assert verdict("weights.over_refusal", found) is ClaimVerdict.FAILS


def test_an_ability_is_harmed_where_no_end_explains_what_a_projection_does() -> None:
    between = Planted({"utility": lambda energy, top: 0.4 + 0.3 * energy}, MORE, LESS, count=300)
    found = measure("weights.general_ability", between, "parallel")
    assert found.value == pytest.approx(0, abs=1e-9)  # at no energy a control is the start itself
    assert verdict("weights.general_ability", found) is ClaimVerdict.HOLDS
    ends = [found.details[f"sums_{name}"] for name in ("start", "fine_tuned", "lowest", "highest")]
    assert ends == pytest.approx([0.4, 0.7, 0.4, 0.61], abs=0.01)
    assert found.details["nats_start"] == 1.0
    assert found.curves["sums_top"].y == pytest.approx([0.46, 0.52, 0.55, 0.58, 0.61], abs=0.01)
    for rate in (lambda e, top: 0.5 - 0.3 * (0 < e < 1) * top, lambda e, top: 0.5 + 0.3 * (0 < e < 1)):
        moved = measure("weights.general_ability", Planted({"utility": rate}, MORE, MORE), "parallel")
        assert moved.value == pytest.approx(0.3, abs=0.02)
        assert verdict("weights.general_ability", moved) is ClaimVerdict.FAILS
    few = measure("weights.general_ability", Planted({"utility": lambda *_: 0.5}, MORE, LESS, count=6), "parallel")
    assert few.value == 0
    assert verdict("weights.general_ability", few) is ClaimVerdict.INCONCLUSIVE  # six that do not change tell little
    with pytest.raises(NotApplicableError, match="sums: start and fine-tune get 5 % right at most"):
        measure("weights.general_ability", Planted({"utility": lambda *_: 0.05}, MORE, LESS), "parallel")


def test_an_ability_is_sums_tasks_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = zoo_lab(count=4)
    monkeypatch.setattr(claimed, "SHARES", (0.5,))
    found = measure("weights.general_ability", lab, "orthogonal")
    path = lab.projections.path("aligned", "contaminated", "orthogonal", "utility", (0.5,), None)
    assert found.details["sums_start"] == path.start.mean()
    assert found.details["nats_start"] == pytest.approx(2, abs=1.5)
    with pytest.raises(NotApplicableError, match="name a task of lm-eval with --evaluate TASK"):
        measure("weights.general_ability", FamilyLab(ZOO, progress=False, requests=RequestSettings(8)), "parallel")
    assert ZOO.prompts is not None
    spec = colours(tmp_path)
    requests = RequestSettings(4, own=ZOO.prompts.sets, tasks=(spec,), limit=8)
    tasks = FamilyLab(ZOO, progress=False, requests=requests, points=tmp_path / "points")
    found = measure("weights.general_ability", tasks, "parallel")
    start = evaluate(load(family_with("aligned")), load_task(spec, 8), progress=False)
    assert found.details["colours_start"] == start.accuracy
    assert found.n == 8 + SEEDS
    claim = CLAIMS["weights.general_ability"]
    inputs = tasks.inputs(["aligned"], claim.requires)
    assert [(one.name, one.documents) for one in inputs.tasks] == [("colours", 8)]
    assert inputs.hash != lab.inputs(["aligned"], claim.requires).hash
    assert [one.name for one in lab.inputs(["aligned"], claim.requires).requests][-1].endswith("maths")
