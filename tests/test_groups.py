"""Groups of models and source B's claims: planted truth through a group's lab, real small models, faults."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from models import tiny_model
from planted import NOT_SHOWN, made_up, measure, verdict
from scipy import stats
from scipy.stats import ortho_group

from geometry_bench.asked import request_of
from geometry_bench.claims.model import Case
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.claims.universal_direction import directions as universal
from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.mapped import broadcast, direction_cosines, inner_products, shared_scores
from geometry_bench.judging import reported_value
from geometry_bench.labs.group import GroupLab, block_at
from geometry_bench.labs.prompt_inputs import prompt_inputs
from geometry_bench.labs.requirements import MEAN_LAST_FIVE, Requirements
from geometry_bench.options import OPTIONS
from geometry_bench.prompts.names import ALIGNMENT
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.published.load import load_publication
from geometry_bench.records.facts import GroupFacts, MemberFacts, PromptInputs
from geometry_bench.records.judgement import ClaimVerdict
from geometry_bench.records.measurement import Measurement, NotApplicableError
from geometry_bench.run.bench import Bench, Output
from geometry_bench.run.execute import Session, execute
from geometry_bench.run.plan import plan
from geometry_bench.run.request import Request, Settings
from geometry_bench.subjects.groups import DEPTH, embedded_groups, group_of, load_group
from geometry_bench.subjects.spec import SubjectSpec

WIDTH, LAYERS, COUNT = 32, 6, 300
Make = Callable[[str, str, np.ndarray], np.ndarray]


def planted_group(
    make: Make,
    members: tuple[str, ...] = ("a", "b", "c"),
    count: int = COUNT,
    untrained: Make = lambda name, role, latent: latent,
) -> GroupLab:
    """A group whose members see one latent (prompts, WIDTH) a role: ``make(member, role, latent)`` gives its states.

    So does ``untrained`` those of a member's twins, by their names: as a default what is there before anything is learned.
    """
    settings = RequestSettings(count)
    latents = {
        role: np.random.default_rng(place).standard_normal((len(settings.load(role)), WIDTH))
        for place, role in enumerate(("safe", "unsafe", ALIGNMENT))
    }

    def read(name: str, making: Make) -> Callable[..., Any]:
        def requests(role: str, **_: Any) -> Any:
            states = making(name, role, latents[role].copy()).astype(np.float32)
            return SimpleNamespace(states={MEAN_LAST_FIVE: np.repeat(states[:, None], LAYERS, axis=1)})

        return requests

    def member(name: str) -> Any:
        return SimpleNamespace(
            layers=LAYERS,
            requests=read(name, make),
            twin=lambda seed: nullcontext(SimpleNamespace(layers=LAYERS, requests=read(f"{name} {seed}", untrained))),
            subject=SimpleNamespace(tokenizer=SimpleNamespace(get_vocab=lambda: {"x" if name == "alien" else "e": 0})),
            facts=lambda id: SimpleNamespace(alignment="DPO" if name == "c" else "SFT"),
            inputs=PromptInputs(hash=name, pooling="", site="", truncated_prompts=0),
        )

    return GroupLab(members, members[0], member, CLAIMS["universal.auroc"].requires, settings)


@pytest.fixture(autouse=True)
def _inputs_of_planted_members(monkeypatch: pytest.MonkeyPatch) -> None:
    def inputs(lab: Any, required: Requirements) -> PromptInputs:
        return lab.inputs if isinstance(lab, SimpleNamespace) else prompt_inputs(lab, required)

    monkeypatch.setattr("geometry_bench.labs.group.prompt_inputs", inputs)


ROTATIONS = {
    name: ortho_group.rvs(WIDTH, random_state=place) if place else np.eye(WIDTH) for place, name in enumerate("abc")
}


D_PRIME = 1.5


@pytest.fixture(scope="module")
def rotated() -> GroupLab:
    """One latent, turned differently in each member; harmful requests lie D_PRIME further along its first axis."""

    def make(member: str, role: str, latent: np.ndarray) -> np.ndarray:
        latent[:, 0] += D_PRIME * (role == "unsafe")
        turned: np.ndarray = latent @ ROTATIONS[member] + 3.0
        return turned

    return planted_group(make)


def reliability(prompts: int) -> float:
    """Cosine of the directions of two halves: the effect's square over it and the noise of both means."""
    return D_PRIME**2 / (D_PRIME**2 + WIDTH * 2 / (prompts / 2))


def test_a_direction_that_is_shared_is_found_through_the_maps(rotated: GroupLab) -> None:
    found = measure("universal.reference_cosine", rotated, "b")
    assert found.value == pytest.approx(reliability(COUNT), abs=0.05)
    assert found.details["halves_of_the_reference"] == pytest.approx(found.value, abs=0.01)
    assert found.details["same_prompts"] == pytest.approx(1.0, abs=1e-3)
    assert found.null is not None
    assert found.null.mean == pytest.approx(0, abs=0.05)
    assert verdict("universal.reference_cosine", found) is ClaimVerdict.HOLDS
    for case in ("mean", "a", "c"):
        shared = measure("universal.shared_axis", rotated, case)
        assert shared.value == pytest.approx(reliability(COUNT), abs=0.05)
        assert verdict("universal.shared_axis", shared) is ClaimVerdict.HOLDS
    assert shared.details["top_singular_share"] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("safest", ["lowest", "highest"])
def test_routing_gains_what_the_lowest_projection_knows(safest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The member whose harmful request lies lowest, or highest, is the only one to refuse it."""
    moved = 4 * np.random.default_rng(5).standard_normal((3, COUNT))

    def make(member: str, role: str, latent: np.ndarray) -> np.ndarray:
        if role == "unsafe":
            latent[:, 0] += 4 * D_PRIME + moved["abc".index(member)]
        turned: np.ndarray = latent @ ROTATIONS[member]
        return turned

    refusing = moved.argmin(axis=0) if safest == "lowest" else moved.argmax(axis=0)

    def refused(group: GroupLab, member: str, role: str, new_tokens: int) -> np.ndarray:
        return (refusing == "abc".index(member)) & (role == "unsafe")

    monkeypatch.setattr(GroupLab, "refused", refused)
    found = measure("universal.routing", planted_group(make))
    assert found.details["refused_oracle"] == 1
    assert found.details["refused_at_random"] == pytest.approx(1 / 3)
    assert found.value == pytest.approx(2 / 3 if safest == "lowest" else -1 / 3, abs=0.03)
    assert verdict("universal.routing", found) is (ClaimVerdict.HOLDS if safest == "lowest" else ClaimVerdict.FAILS)
    assert found.null is not None
    assert found.null.mean == pytest.approx(0, abs=0.01)
    monkeypatch.setattr(GroupLab, "refused", lambda *_: np.ones(COUNT, dtype=bool))
    with pytest.raises(NotApplicableError, match="nothing to choose"):
        measure("universal.routing", planted_group(make))


def test_what_untrained_models_show_too_is_inside_the_null() -> None:
    def words(seed: int) -> Make:
        """Classes that differ in their words: every model sees that, trained or not, with some noise of its own."""

        def make(name: str, role: str, latent: np.ndarray) -> np.ndarray:
            latent[:, 0] += D_PRIME * (role == "unsafe")
            noise = np.random.default_rng([seed, *name.encode(), len(role)]).standard_normal(latent.shape)
            seen: np.ndarray = latent + 0.3 * noise
            return seen

        return make

    verdicts = []
    for group in (planted_group(words(seed), untrained=words(seed)) for seed in range(2)):
        assert group.twins == tuple(f"{name} untrained {seed}" for name in "abc" for seed in (0, 1))
        for claim, cases in (("reference_cosine", "bc"), ("shared_axis", "abc"), ("auroc", "abc")):
            for found in (measure(f"universal.{claim}", group, case) for case in cases):
                assert found.value is not None
                assert found.value > found.details["permuted_high"] + 0.1  # type: ignore[operator]
                assert found.details["untrained_mean"] == pytest.approx(found.value, abs=0.03)
                verdicts.append(verdict(f"universal.{claim}", found))
    assert verdicts.count(ClaimVerdict.HOLDS) <= 2  # of 16, each by a chance of 5 %


def test_published_cosines_are_those_of_all_prompts_and_so_is_any_contrast(rotated: GroupLab) -> None:
    # A map without intercept has to carry the members' common mean, and bends a little for it.
    found = measure("universal.reference_cosine", rotated, "b", "published")
    assert found.value == pytest.approx(1.0, abs=0.06)
    assert found.details["any_contrast_mean"] == pytest.approx(1.0, abs=0.06)
    shared = measure("universal.shared_axis", rotated, "mean", "published")
    assert shared.value == pytest.approx(1.0, abs=0.06)
    assert shared.details["orthogonal_directions"] == pytest.approx(1 / np.sqrt(3))


def test_members_that_read_the_same_prompts_agree_about_noise_and_the_corrected_values_do_not() -> None:
    def no_effect(member: str, role: str, latent: np.ndarray) -> np.ndarray:
        turned: np.ndarray = latent @ ROTATIONS[member]
        return turned

    group = planted_group(no_effect, count=60)
    assert measure("universal.reference_cosine", group, "b", "published").value == pytest.approx(1.0, abs=0.05)
    for claim, case in (("universal.reference_cosine", "b"), ("universal.shared_axis", "mean")):
        found = measure(claim, group, case)
        assert found.details["same_prompts"] == pytest.approx(1.0, abs=0.05)
        assert found.value == pytest.approx(0, abs=0.3)
        assert verdict(claim, found) is not ClaimVerdict.HOLDS
    assert verdict("universal.auroc", measure("universal.auroc", group, "b")) is not ClaimVerdict.HOLDS
    threshold = measure("universal.no_global_threshold", group)
    assert verdict("universal.no_global_threshold", threshold) is not ClaimVerdict.HOLDS


def test_the_shared_direction_separates_as_its_d_prime_says(rotated: GroupLab) -> None:
    expected = stats.norm.cdf(D_PRIME / np.sqrt(2))
    found = measure("universal.auroc", rotated, "b")
    # 32 noisy dimensions of a direction fitted on half of 600 prompts cost a little; the published one is flattered by them.
    assert found.details["universal"] == pytest.approx(expected, abs=0.03)
    assert found.details["native_in_sample"] > found.details["native"]  # type: ignore[operator]
    assert found.value == pytest.approx(0, abs=0.01)
    assert verdict("universal.auroc", found) is ClaimVerdict.HOLDS
    assert measure("universal.auroc", rotated, "b", "published").details["universal"] > expected  # type: ignore[operator]
    assert measure("universal.no_global_threshold", rotated).value == pytest.approx(0, abs=0.02)


def test_unrelated_directions_share_nothing_once_a_member_is_left_out() -> None:
    def make(member: str, role: str, latent: np.ndarray) -> np.ndarray:
        latent[:, "abc".index(member)] += 20.0 * (role == "unsafe")
        return latent

    group = planted_group(make)
    # Which direction orthogonal ones "share" is arbitrary; the sum of squared cosines with it is one all the same.
    published = [measure("universal.shared_axis", group, case, "published").value or 0 for case in "abc"]
    assert np.mean(np.square(published)) == pytest.approx(1 / 3, abs=0.01)
    for case in ("mean", "a", "b", "c"):
        corrected = measure("universal.shared_axis", group, case)
        assert corrected.value == pytest.approx(0, abs=0.1)
        assert verdict("universal.shared_axis", corrected) is not ClaimVerdict.HOLDS
    with pytest.raises(NotApplicableError, match="no member's mapped direction has a cosine above"):
        measure("universal.regime_break", group)


def test_a_member_whose_few_loud_prompts_turn_its_mean_breaks_the_transfer_in_spite_of_its_cosine() -> None:
    def make(member: str, role: str, latent: np.ndarray) -> np.ndarray:
        shift = np.full(len(latent), 2.0)
        if member == "c":  # one harmful prompt in ten lies far along, all others lie against the direction
            shift = np.where(np.arange(len(latent)) % 10 == 0, 40.0, -2.0)
        latent[:, 0] += shift * (role == "unsafe")
        return latent

    group = planted_group(make)
    broken = measure("universal.regime_break", group)
    assert broken.label == "c"
    assert broken.value is not None
    assert broken.value < 0.25
    assert verdict("universal.regime_break", broken) is ClaimVerdict.HOLDS
    assert any("flips the sign" in note for note in broken.notes)
    assert measure("universal.auroc", group, "c").details["sign"] == -1


def test_a_group_of_one_regime_has_no_break_to_show(rotated: GroupLab) -> None:
    alike = planted_group(lambda member, role, latent: latent, ("a", "b"), 20)
    with pytest.raises(NotApplicableError, match=r"all members were aligned alike \(sft\)"):
        measure("universal.regime_break", alike)
    assert measure("universal.regime_break", rotated).value is not None


def test_members_on_other_scales_need_thresholds_of_their_own() -> None:
    def make(member: str, role: str, latent: np.ndarray) -> np.ndarray:
        latent[:, 0] += 3.0 * (role == "unsafe") + (6.0 * "abc".index(member) if role != ALIGNMENT else 0)
        return latent

    found = measure("universal.no_global_threshold", planted_group(make))
    assert found.details["own_thresholds"] == pytest.approx(stats.norm.cdf(1.5), abs=0.02)
    assert found.value is not None
    assert found.value > 0.15
    assert verdict("universal.no_global_threshold", found) is ClaimVerdict.HOLDS


def test_a_moderate_penalty_wins_where_maps_are_noisy_and_loses_where_they_are_exact(rotated: GroupLab) -> None:
    def make(member: str, role: str, latent: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(sum(member.encode())).standard_normal(latent.shape)
        return latent + (noise if member != "a" else 0)

    noisy = measure("universal.alignment_error", planted_group(make, count=10), "b")
    assert noisy.value is not None
    assert noisy.value > 0
    assert verdict("universal.alignment_error", noisy) is ClaimVerdict.HOLDS
    exact = measure("universal.alignment_error", rotated, "b")
    assert exact.details["best_at_edge_of_grid"] == 1
    assert verdict("universal.alignment_error", exact) is ClaimVerdict.FAILS


def shared_by(unit: np.ndarray, reference: int) -> np.ndarray:
    """First right singular vector of unit directions (members, width), signed to agree with the reference."""
    first: np.ndarray = np.linalg.svd(unit)[2][0]
    return first * np.sign(first @ unit[reference])


def test_inner_products_give_what_the_states_give() -> None:
    generator = np.random.default_rng(0)
    states = [generator.standard_normal((20, 7)) + 5 for _ in range(3)]
    contrasts = broadcast(generator.standard_normal((4, 20)), 3)
    contrasts -= contrasts.mean(axis=-1, keepdims=True)
    products = inner_products(states, 1)
    for draw, cosines in enumerate(direction_cosines(products, contrasts)):
        directions = np.array([c @ s for c, s in zip(contrasts[draw], states, strict=True)])
        unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        assert cosines == pytest.approx(unit @ unit.T)
        shared = shared_by(unit, 1)
        scores = shared_scores(products, contrasts, 2, reference=1, leave_one_out=False)[draw]
        assert scores == pytest.approx((states[2] - states[1].mean(axis=0)) @ shared)
        others = shared_by(unit[:2], 1)
        assert shared_scores(products, contrasts, 2, reference=1)[draw] == pytest.approx(
            (states[2] - states[1].mean(axis=0)) @ others
        )


def test_relative_depth_counts_blocks_passed() -> None:
    assert [block_at(depth, 24) for depth in (0, 0.25, 0.5, DEPTH, 1)] == [0, 5, 11, 15, 23]
    assert block_at(0.1, 2) == 0


# Faults


def manifest(folder: Path, *members: tuple[str, object], reference: str = "one", name: str = "mine") -> Path:
    tables = "".join(f'[[members]]\nname = "{name}"\nmodel = "{model}"\n' for name, model in members)
    path = folder / "group.toml"
    path.write_text(f'schema = 1\nname = "{name}"\nreference = "{reference}"\n{tables}', encoding="utf-8")
    return path


ZOO = "zoo/llama-d64/aligned"


@pytest.mark.parametrize(
    ("members", "reference", "sentence"),
    [
        ([("one", ZOO)], "one", "has one member, one: a group needs two models or more"),
        (
            [("one", ZOO), ("two", "zoo/neox-d64/aligned")],
            "three",
            "reference three is no member of group/mine",
        ),
        ([("one", ZOO), ("one", "zoo/neox-d64/aligned")], "one", "called 'one' like another one"),
        ([("one", ZOO), ("two", "nowhere/at/all")], "one", "names the model 'nowhere/at/all', but there is no folder"),
    ],
)
def test_a_faulty_manifest_is_told(
    tmp_path: Path, members: list[tuple[str, object]], reference: str, sentence: str
) -> None:
    with pytest.raises(GeometryBenchError, match=sentence):
        load_group(manifest(tmp_path, *members, reference=reference))


def test_no_manifest_and_one_checkpoint_twice_are_told(tmp_path: Path) -> None:
    with pytest.raises(GeometryBenchError, match="There is no group manifest"):
        load_group(tmp_path / "none.toml")
    twice = load_group(manifest(tmp_path, ("one", ZOO), ("two", ZOO)))
    with pytest.raises(GeometryBenchError, match="one and two of the group group/mine are the same checkpoint"):
        plan(Request(groups=(twice,)))


def values(**given: Any) -> dict[str, Any]:
    return {option.dest: option.default for option in OPTIONS} | {f"gb_{name}": value for name, value in given.items()}


def test_a_reference_makes_a_group_of_the_models_of_a_run() -> None:
    models = ["zoo/llama-d64/aligned", "zoo/neox-d64/aligned"]
    asked = request_of(values(model=models, reference=models[1], dtype="float32"))
    assert [group.id for group in asked.groups] == ["group/run"]
    assert list(asked.groups[0].members) == models
    assert asked.groups[0].members[models[0]].dtype == "float32"
    with pytest.raises(GeometryBenchError, match="has one member"):
        request_of(values(model=models[:1], reference=models[0]))
    with pytest.raises(GeometryBenchError, match="reference elsewhere is no member"):
        request_of(values(model=models, reference="elsewhere"))
    with pytest.raises(GeometryBenchError, match="--reference goes with --model"):
        request_of(values(group=["zoo/groups/base"], reference="elsewhere"))


def test_embedded_groups_are_measured_where_nothing_is_named() -> None:
    every = [group.id for group in request_of(values()).groups]
    assert every == ["group/zoo-aligned", "group/zoo-base", "group/zoo-regimes"]
    assert [group.id for group in request_of(values(model=["zoo/llama-d64/base"])).groups] == []
    only = request_of(values(group=["zoo/groups/base"]))
    assert [group.id for group in only.groups] == ["group/zoo-base"]
    assert not only.specs


def test_tokenizers_with_nothing_in_common_and_states_without_spread_are_told() -> None:
    def plain(member: str, role: str, latent: np.ndarray) -> np.ndarray:
        return latent if member != "flat" else np.ones_like(latent)

    with pytest.raises(GeometryBenchError, match="tokenizers of alien and of the reference a have no token in common"):
        measure("universal.shared_axis", planted_group(plain, ("a", "alien"), 20), "mean")
    with pytest.raises(
        GeometryBenchError, match="flat gives the same activations for every request of safe at relative depth"
    ):
        measure("universal.shared_axis", planted_group(plain, ("a", "flat"), 20), "mean")


def test_sets_of_ones_own_take_the_place_of_built_in_ones(tmp_path: Path) -> None:
    for name, count in (("safe", 6), ("unsafe", 1), ("few", 3)):
        rows = "\n".join(f"{name} request {i}" for i in range(count))
        (tmp_path / f"{name}.csv").write_text(f"prompt\n{rows}\n", encoding="utf-8")
    settings = RequestSettings(
        4, sources=(("safe", f"{tmp_path}/safe.csv"), ("instructions", f"{tmp_path}/safe.csv:prompt"))
    )
    assert settings.load("safe").name == "safe.csv"
    assert settings.load("safe-unmatched").name == settings.load(ALIGNMENT).name == "safe.csv"
    assert len(settings.load(ALIGNMENT)) == 6
    wrong = [
        ("unsafe", f"{tmp_path}/unsafe.csv"),
        ("unsafe", f"{tmp_path}/safe.csv:goal"),
        ("unsafe", "no-such-set"),
        ("unsafe", f"{tmp_path}/few.csv"),
        ("unsafe", "safe"),
    ]
    for source, sentence in zip(
        wrong,
        (
            "gives 1 request: at least 4",
            "no column 'goal'",
            "There is no prompt set",
            "gives 3 requests: at least 4",
            "are the same requests",
        ),
        strict=True,
    ):
        with pytest.raises(GeometryBenchError, match=sentence):
            plan(Request((SubjectSpec(ZOO),), settings=Settings(requests=RequestSettings(4, sources=(source,)))))


# Real models


def test_models_of_different_width_depth_and_tokenizer_meet_and_their_records_say_where(tmp_path: Path) -> None:
    folders = [tiny_model("llama", tmp_path / "one"), tiny_model("gpt_neox", tmp_path / "two", num_hidden_layers=3)]
    group = group_of([SubjectSpec(str(folder)) for folder in folders], str(folders[0]))
    claims = {"universal.shared_axis": CLAIMS["universal.shared_axis"]}

    def measured(depth: float) -> list[Measurement]:
        settings = Settings(requests=RequestSettings(12), depth=depth, capture=NOT_SHOWN, cache=False)
        found = execute(Session(plan(Request(groups=(group,), claims=claims, settings=settings))))
        return [one for one in found if isinstance(one, Measurement)]

    first, deeper = measured(0.5), measured(2 / 3)[0]
    assert [one.case for one in first] == ["mean", "llama", "gpt_neox"]
    one = first[0]
    assert isinstance(one.subject, GroupFacts)
    assert (one.subject.id, one.subject.reference) == ("group/run", "llama")
    assert isinstance(one.inputs, PromptInputs)
    assert (one.inputs.depth, len(one.inputs.requests)) == (0.5, 3)
    assert one.estimate is not None
    assert deeper.estimate is not None
    curve = one.estimate.curves["at_depth"]
    assert curve.x == pytest.approx([1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1])
    assert deeper.estimate.value == pytest.approx(curve.y[3], abs=1e-5)
    assert deeper.inputs is not None
    assert deeper.inputs.hash != one.inputs.hash  # another depth is another measurement
    alone = plan(Request((SubjectSpec(str(folders[0])),), claims=claims))
    assert not alone.tasks
    assert ["--reference" in one.sentence for one in alone.missing] == [True]


def test_a_published_group_brings_its_values() -> None:
    reported = {claim.id: claim.reported for claim in CLAIMS.values()}
    member = load_publication("universal_direction").find("EleutherAI/pythia-160m")
    assert reported["universal.auroc"](member, Case("x")) == pytest.approx(0.6984 - 0.7109)  # type: ignore[misc,arg-type]
    assert reported["universal.shared_axis"](member, universal.MEAN) is None  # type: ignore[misc,arg-type]
    assert reported["universal.alignment_error"](member, Case("x")) == pytest.approx(0.4876 - 0.4906)  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("reference", "sizes", "expected"),
    [
        ("a", "1b 160m 410m", {"mean": None, "a": 0.83, "b": 0.84, "c": 0.52}),
        ("b", "1b 160m 410m", dict.fromkeys(("mean", "a", "b", "c"))),
        ("a", "1b 160m", dict.fromkeys(("mean", "a", "b"))),
    ],
)
def test_reported_values_are_those_of_a_group_with_the_same_members_and_reference(
    reference: str, sizes: str, expected: dict[str, float | None]
) -> None:
    names, layers = zip("abc", sizes.split(), strict=False), {"160m": 12, "410m": 24, "1b": 16}
    members = {
        name: MemberFacts(name=f"EleutherAI/pythia-{size}", revision="r", layers=layers[size]) for name, size in names
    }
    facts = GroupFacts(id="group/x", name="group/x", revision="r", reference=reference, members=members)
    one, claim = made_up("universal.shared_axis", 0.5), CLAIMS["universal.shared_axis"]
    cases = ("mean", *members)
    found = {case: one.model_copy(update={"subject": facts, "case": case}) for case in cases}
    assert {case: reported_value(claim, measured) for case, measured in found.items()} == expected


def test_a_single_model_is_not_held_against_a_group(tmp_path: Path) -> None:
    against = Output(baselines=tmp_path, against="group/zoo-base")
    with pytest.raises(GeometryBenchError, match="a baseline of several models together"):
        Bench(Request((SubjectSpec(ZOO),)), against)
    assert Bench(Request((SubjectSpec(ZOO),), groups=embedded_groups()[:1]), against).baselines.against


def test_embedded_groups_name_models_that_are_there() -> None:
    groups = embedded_groups()
    assert {spec.model for group in groups for spec in group.members.values()} > {"zoo/llama-d80/base", ZOO}
    assert [group.reference for group in groups] == ["llama-d80", "llama-d80", "aligned"]
